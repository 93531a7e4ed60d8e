"""The saved chat systems: loaded, sound, prompted as in training, measured."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from itertools import islice

import numpy as np
import pytest
import torch

from mmn_utils.datasets.base import Photograph
from mmn_utils.miniature import chat, llava
from mmn_utils.miniature.chat import TEMPLATES
from mmn_utils.miniature.clip import patch_states
from mmn_utils.miniature.llama import load_llama
from mmn_utils.miniature.vision.encoder import to_input
from mmn_utils.models import load_model
from mmn_utils.models.doctor import doctor
from mmn_utils.models.llava.whole import build_llava
from mmn_utils.training.features import fold, statistics
from tests.miniature.chat.trained import LEARN, OPTIONS, SIDE, SYSTEMS, pictures, trainer, vision_of


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_saved_system_loads_by_its_folder_and_the_doctor_passes(name, made, data, scenes, world):
    model = load_model(data / name)
    assert (type(model), model.name) == (type(made[name]), f"miniature/{name}")
    recipe = json.loads((data / name / "training.json").read_text())
    whole, _ = trainer(name, data, scenes, world)
    learns = f"{LEARN[name][0]}|language_projection"
    assert recipe.pop("trained_parameters") == sum(
        parameter.numel() for n, parameter in whole.named_parameters() if re.search(learns, n)
    )
    assert recipe == json.loads(json.dumps(asdict(OPTIONS[name])))
    report = doctor(model, pictures(scenes, slice(3)))
    assert report["passed"].all(), report.to_string()
    images = pictures(scenes, slice(2))
    expected, _ = made[name].forward(made[name].prompt(images))
    found, _ = model.forward(model.prompt(images))
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)  # kept in 16 bits


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_prompt_of_training_is_that_of_the_system(name, made, scenes):
    system = made[name]
    before, behind = TEMPLATES[name].ids(system.tokenizer)
    prompt, tokens = system.prompt(pictures(scenes, slice(1))).embeds[0], system.image_tokens
    assert tokens.start == len(before)
    assert torch.equal(prompt[: tokens.start], system.embed(torch.tensor(before).long()))
    assert torch.equal(prompt[tokens.start + tokens.count :], system.embed(torch.tensor(behind)))
    assert system.prefix.endswith("An image of")
    assert "Describe the image in few words." in system.prefix


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems_see_the_pixels_that_they_were_trained_on(name, made, scenes):
    expected = to_input(scenes.images)
    found = made[name].preprocess(pictures(scenes))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_language_model_is_stored_once(made, data):
    sizes = {
        name: (data / name / "model.safetensors").stat().st_size for name in (*SYSTEMS, "llama")
    }
    assert sizes["llava"] > sizes["llama"]
    for name in ("instructblip", "mplug_owl2"):
        text = '"language_model": "../llama"'
        assert text in (data / name / "facts.json").read_text()
        stored = sum(p.numel() for part in made[name].modules() for p in part.parameters())
        shared = sum(p.numel() for p in load_llama(data / "llama")[0].parameters())
        own = stored - shared
        assert sizes[name] < 2 * own + 40_000  # names and shapes come on top


def test_features_are_the_adapters(made, data, scenes):
    store = statistics(patch_states(vision_of(data), scenes.images, -2, batch=3).numpy())
    expected = made["llava"].image_features(pictures(scenes))
    found = torch.from_numpy(store.values).float()
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=2e-3)
    flat = found.flatten(0, 1)
    torch.testing.assert_close(store.mean, flat.mean(0), atol=1e-4, rtol=1e-4)


def test_folding_makes_the_projector_take_features_as_they_are(data, scenes, world, parts):
    whole, ours = trainer("llava", data, scenes, world)
    with torch.no_grad():
        expected = ours.projector(ours.store.batch(np.arange(2)))
    first = ours.projector.linear_1
    first.load_state_dict(fold(first, ours.store))
    system = build_llava(llava.FACTS, whole, parts[1])
    found = system.soft_prompt(pictures(scenes, slice(2)))
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=5e-3)


# --- their quality ----------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_quality_is_measured_on_the_loaded_system(name, made, data, scenes, world, tmp_path):
    photographs = []
    for i, image in enumerate(pictures(scenes, slice(3))):
        image.save(tmp_path / f"{i}.png")
        photographs.append(
            Photograph(str(i), tmp_path / f"{i}.png", scenes.captions(i, world), size=(SIDE, SIDE))
        )
    found = chat.first_noun(load_model(data / name), photographs, world)
    assert found["scenes"] == 3
    assert 0 <= found["first_noun"] <= 1


def test_what_is_recorded_is_what_was_measured(made, data, world, monkeypatch):
    monkeypatch.setattr(chat, "load_dataset", lambda name: type("Few", (), {"sample": list_of}))
    measured = {"first_noun": 0.51239, "low": 0.4, "high": 0.6, "scenes": 7}
    monkeypatch.setattr(chat, "first_noun", lambda model, photographs, world: dict(measured))
    found = chat.record_quality(data / "llava", world, scenes=7)
    assert found == {**measured, "first_noun": 0.5124}
    assert '"first_noun": 0.5124' in (data / "llava" / "quality.json").read_text()


def list_of(count: int, seed: int) -> list:
    return list(islice(range(1000), count))
