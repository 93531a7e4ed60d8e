"""All nouns of two pictures' captions as targets, and what they score, one by one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from mmn_utils.models.capture import capture
from mmn_utils.neurons.targets import Target, teacher_forced
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_gated import TinyGated

FIRST, SECOND = tiny_images(2)
CAPTION = (5, 9, 301, 40, 77)
TARGETS = [  # two captions, the second image's last noun from another one
    Target("a", "field", 111, CAPTION[:3]),
    Target("b", "dog", 250, (40,)),
    Target("a", "horse", 300, ()),
    Target("a", "boat", 17, CAPTION),
    Target("b", "bird", 33, (8, 2)),
    Target("b", "cat", 60, (40, 7)),
    Target("b", "grass", 99, ()),
]
IMAGES = [{"a": FIRST, "b": SECOND}[t.image] for t in TARGETS]
ROWS = 3  # captions: one of a, two of b
BUILD = {"gated": TinyGated, "plain": tiny_limber}


@torch.no_grad()
def alone(model, target: Target):
    """Return the prompt of one target by itself, ending where the target is predicted."""
    prompt = model.prompt([{"a": FIRST, "b": SECOND}[target.image]])
    return teacher_forced(model, prompt, [target.prefix])


def last(model, target: Target, place: str = "activation") -> dict[int, torch.Tensor]:
    """Return each layer's activation (units) at the last token, from a pass of its own."""
    with torch.no_grad(), capture(model, place) as seen:
        model.forward(alone(model, target))
    return {layer: values[0, -1] for layer, values in seen.values.items()}


def check(table: pd.DataFrame, target: Target, scores: dict[int, torch.Tensor], k: int) -> None:
    """Compare a target's rows with scores {layer: (units)} sorted in plain Python."""
    expected = sorted(
        ((s, layer, u) for layer, values in scores.items() for u, s in enumerate(values.tolist())),
        reverse=True,
    )[:k]
    mine = table[(table.image == target.image) & (table.target == target.noun)]
    np.testing.assert_allclose(mine.score, [e[0] for e in expected], rtol=1e-4, atol=1e-5)
    # by their own score, as two that are nearly equal may come in either order
    own = [float(scores[layer][unit]) for layer, unit in zip(mine.layer, mine.unit, strict=True)]
    np.testing.assert_allclose(mine.score, own, rtol=1e-4, atol=1e-5)
    assert not mine.duplicated(["layer", "unit"]).any()
    assert set(mine.token) == {target.token}
    assert set(mine.patch) == {-1}
