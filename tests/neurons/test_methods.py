"""Several methods over the same targets."""

from __future__ import annotations

from functools import partial

import pandas as pd
import pytest
import torch

from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.methods import METHODS, by_methods
from mmn_utils.neurons.targets import embed_once
from tests.neurons.every_noun import IMAGES, TARGETS
from tests.tiny_gated import TinyGated


@pytest.mark.parametrize("grid", [(4, 4), None], ids=["grid", "no grid"])
def test_methods_are_data(grid):
    gated = TinyGated(grid=grid)
    encode, seen = gated.soft_prompt, []
    gated.soft_prompt = lambda images: seen.append(len(images)) or encode(images)
    methods = {**METHODS, "gate": partial(contribution, activation="gate")}
    tables = by_methods(gated, IMAGES, TARGETS, k=5, methods=methods)
    assert seen == [2]  # two pictures for four methods and seven targets
    assert list(tables) == ["activation", "attribution", "contribution", "gate"]
    for name, method in methods.items():
        direct = method(gated, IMAGES, TARGETS, k=5)
        pd.testing.assert_frame_equal(tables[name], direct, atol=1e-5, rtol=1e-3)
    patches = tables["attribution"].patch
    assert patches.between(0, gated.image_tokens.count - 1).all()
    assert patches.nunique() > 1
    other = attribution(gated, IMAGES, TARGETS, k=5, rank_by="max")
    pd.testing.assert_frame_equal(tables["attribution"], other, atol=1e-5, rtol=1e-3)


def test_a_prompt_stands_in_for_its_pictures(gated):
    with torch.no_grad():
        prompt = gated.prompt(IMAGES)
    for method in METHODS.values():
        pd.testing.assert_frame_equal(
            method(gated, prompt, TARGETS, k=5), method(gated, IMAGES, TARGETS, k=5),
            atol=1e-5, rtol=1e-3,
        )  # fmt: skip
    small, rows = embed_once(gated, prompt, TARGETS)
    assert rows == [0, 1, 0, 0, 1, 1, 1]
    assert torch.equal(small.embeds[rows], prompt.embeds)
