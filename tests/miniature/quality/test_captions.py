"""Captions against their scenes, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mmn_utils.miniature.quality.captions import _caption_row
from tests.miniature.quality.world import WORLD


@pytest.mark.parametrize(
    ("text", "noun", "expected"),
    [
        ("a horse and a dog on the grass.", "horse", (True, 1.0, 1.0, True)),
        ("a dog on the water.", "dog", (True, 0.5, 1.0, False)),
        ("a barn on the grass.", "barn", (False, 0.0, np.nan, True)),
        ("", "", (False, 0.0, np.nan, False)),
    ],
)
def test_a_caption_against_its_scene(scenes, text, noun, expected):
    row = _caption_row(text, noun, scenes[2], WORLD)
    got = row["right"], row["recall"], row["precision"], row["background"]
    np.testing.assert_equal(got, expected)


def test_naming_what_is_not_there_costs_precision(scenes):
    row = _caption_row("a dog and a horse on the grass", "dog", scenes[0], WORLD)
    assert (row["right"], row["precision"], row["twice"]) == (False, 0.5, False)
    assert _caption_row("a dog and a dog on the grass", "dog", scenes[2], WORLD)["twice"]
