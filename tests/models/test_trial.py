"""The trials: true classes, the same weights each time, sound, and marked as meaningless."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BeitModel,
    CLIPVisionModel,
    GPTJForCausalLM,
    LlamaForCausalLM,
)

from mmn_utils.datasets import load_dataset
from mmn_utils.models import load_model
from mmn_utils.models.doctor import doctor
from mmn_utils.models.trial import CAVEAT, TRIALS, load_trial
from tests.tiny import tiny_images


@pytest.fixture(scope="module", params=list(TRIALS))
def trial(request):
    return load_model(request.param)


def test_the_classes_are_the_true_ones(trial):
    kinds = {"trial": (GPTJForCausalLM, BeitModel), "trial/llava": (LlamaForCausalLM, None)}
    language_model, encoder = kinds[trial.name]
    assert type(trial.language_model) is language_model
    seeing = trial.encoder.beit if encoder else trial.vision
    assert isinstance(seeing, encoder or CLIPVisionModel) or "CLIPVision" in type(seeing).__name__
    assert (trial.image_tokens.count, trial.image_tokens.grid) == (196, (14, 14))
    assert trial.image_tokens.pixels == 224


def test_the_same_weights_come_each_time_and_no_other_draw_is_disturbed(trial):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    again = load_trial(trial.name)
    assert torch.equal(torch.rand(2), expected)
    assert again.revision == trial.revision


def test_the_doctor_finds_a_trial_sound(trial):
    report = doctor(trial, tiny_images(2), ["own forward", "completeness", "batch = single"])
    assert report["passed"].all(), report.to_string()


def test_its_numbers_are_said_to_mean_nothing(trial):
    assert trial.caveat == CAVEAT
    assert load_model("miniature").caveat == ""


def test_other_trials_are_refused():
    with pytest.raises(ValueError, match="the trials are trial, trial/llava"):
        load_trial("trial/blip")
    with pytest.raises(ValueError, match="put as a whole: give cuda or cpu"):
        load_model("trial", device="auto")


def test_photographs_that_are_not_there_are_named_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setenv("COCO_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_dataset("coco_val2017")
