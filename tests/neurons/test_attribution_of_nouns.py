"""Attribution of all nouns of a caption, which share its forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.neurons.attribution import attribution, backward_by_turns
from mmn_utils.neurons.targets import objective
from tests.neurons.every_noun import IMAGES, ROWS, TARGETS, alone


@pytest.mark.parametrize("target", ["logit", "probability"])
@pytest.mark.parametrize("rank_by", ["max", "sum", "pair"])
def test_attribution_of_a_captions_nouns_is_that_of_each_by_itself(any_model, rank_by, target):
    together = attribution(any_model, IMAGES, TARGETS, k=20, rank_by=rank_by, target=target)
    keys = ["image", "target", "token", "layer", "unit", "patch"]
    for image, goal in zip(IMAGES, TARGETS, strict=True):
        single = attribution(any_model, [image], [goal], k=20, rank_by=rank_by, target=target)
        mine = together[(together["image"] == goal.image) & (together["target"] == goal.noun)]
        joined = mine.merge(single, on=keys, suffixes=("", "_single"))
        assert len(joined) >= 19  # the last place may go to either of two near-equal scores
        np.testing.assert_allclose(joined["score"], joined["score_single"], rtol=2e-3, atol=1e-6)


def test_nouns_of_one_caption_share_a_forward_pass_and_leave_no_hooks(any_model, monkeypatch):
    rows = []
    forward = type(any_model).forward
    monkeypatch.setattr(
        type(any_model),
        "forward",
        lambda self, prompt, **named: rows.append(len(prompt)) or forward(self, prompt, **named),
    )
    before = {id(m): len(m._forward_hooks) for m in any_model.language_model.modules()}
    y = backward_by_turns(any_model, IMAGES, TARGETS, lambda *_: None)
    assert rows == [ROWS]
    assert before == {id(m): len(m._forward_hooks) for m in any_model.language_model.modules()}
    for value, goal in zip(y, TARGETS, strict=True):
        logits, _ = any_model.forward(alone(any_model, goal))
        torch.testing.assert_close(value, objective(logits, [goal])[0], atol=1e-4, rtol=1e-4)
