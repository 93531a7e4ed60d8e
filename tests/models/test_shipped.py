"""The miniatures of paper B's systems that ship: sound, small, and able to name what they see."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmn_utils.datasets import load_dataset
from mmn_utils.miniature.quality import caption_quality
from mmn_utils.miniature.world import load_world
from mmn_utils.models import load_model
from mmn_utils.models.doctor import doctor
from mmn_utils.presets import data_path
from tests.tiny import tiny_images

# how many image tokens each has, and their grid
TOKENS = {"llava": (49, (7, 7)), "instructblip": (16, None), "mplug_owl2": (17, None)}


@pytest.mark.parametrize("name", TOKENS)
def test_the_doctor_passes_it(name):
    model = load_model(f"miniature/{name}")
    assert (model.image_tokens.count, model.image_tokens.grid) == TOKENS[name]
    report = doctor(model, tiny_images(2, side=112))
    failed = report[report["passed"].eq(False)]
    assert failed.empty, failed.to_string()


@pytest.mark.parametrize("name", TOKENS)
def test_it_is_small_and_says_how_it_was_trained(name):
    folder = data_path("miniature", name)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size <= 25e6
    trained = json.loads((folder / "training.json").read_text())["trained_parameters"]
    model = load_model(f"miniature/{name}")
    whole = sum(p.numel() for part in model.modules() for p in part.parameters())
    assert 0 < trained < whole


@pytest.mark.parametrize("name", TOKENS)
def test_it_names_what_it_sees_as_its_record_says(name):
    record = json.loads(data_path("miniature", name, "quality.json").read_text())
    assert record["first_noun"] >= 0.75
    scenes = load_dataset("miniature").sample(40, seed=1)
    right = caption_quality(load_model(f"miniature/{name}"), scenes, load_world())["right"]
    deviation = np.sqrt(0.25 / len(scenes))  # of a share of so few scenes, at its widest
    assert np.mean(right) >= record["first_noun"] - 2 * deviation
