"""The miniatures of paper B's systems that ship: sound, small, and able to name what they see."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmn_utils.datasets import load_dataset
from mmn_utils.miniature.quality.captions import caption_quality
from mmn_utils.miniature.world import load_world
from mmn_utils.models import load_model
from mmn_utils.models.capture import capture
from mmn_utils.models.doctor import doctor
from mmn_utils.presets import data_path
from tests.tiny import tiny_images

# how many image tokens each has, and their grid
TOKENS = {"llava": (49, (7, 7)), "instructblip": (16, None), "mplug_owl2": (17, None)}


def test_the_miniatures_attention_is_transformers_own_in_one_kernel():
    model, plain = load_model("miniature"), load_model("miniature")
    for block in plain.language_model.transformer.h:
        del block.attn._attn  # transformers' own is behind it
    prompt = model.prompt(tiny_images(3, side=112))
    captions = torch.tensor([[5, 9, 300], [17, 4, 0], [8, 0, 0]])
    prompt = prompt.extend(model.embed(captions), captions > 0)  # padded on the right
    found = []
    for system in (model, plain):
        with torch.enable_grad(), capture(system, "pre", grad=True) as seen:
            logits, past = system.forward(prompt, use_cache=True)
            gradients = torch.autograd.grad(logits[:, 7].sum(), list(seen.values.values()))
        more = prompt.extend(system.embed(torch.tensor([[3], [4], [5]])))
        with torch.no_grad():
            found.append((logits, system.forward(more.tail(1), past=past)[0], *gradients))
    for mine, theirs in zip(*found, strict=True):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(mine, theirs, atol=1e-5 * scale, rtol=1e-4)


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
