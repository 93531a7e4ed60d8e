"""Patches that lie on a word of their card."""

from __future__ import annotations

import torch

from mmn_utils.datasets.base import Photograph
from mmn_utils.miniature.quality.patches import _owners, patch_quality
from tests.miniature.quality.world import SIDE, WORLD, instance


def test_patches_that_lie_on_a_word_of_their_card_are_counted(model, scenes, monkeypatch):
    token = model.tokenizer.encode(" dogs")[0]
    word = model.embed(torch.tensor([[token]]))[0, 0]

    def soft_prompt(images):
        return word.expand(len(images), model.image_tokens.count, -1)

    monkeypatch.setattr(model, "soft_prompt", soft_prompt)
    table = patch_quality(model, scenes, WORLD).set_index("image")
    assert table["patches"].tolist() == [4, 4, 8, 4]  # a quarter of 4 x 4 patches each
    assert table["named"].tolist() == [0, 4, 4, 0]


def test_an_object_must_cover_most_of_a_patch(model, scenes):
    thin = Photograph("x", scenes[0].path, (), (instance("dog", (0, 0, 5, 40)),), size=(SIDE, SIDE))
    assert _owners(model, thin, WORLD) == []
    assert len(_owners(model, scenes[2], WORLD)) == 8
