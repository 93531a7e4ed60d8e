"""The captions: the plainest first, and all five distinct."""

from __future__ import annotations

import pytest

from mmn_utils.miniature import phrases


@pytest.mark.parametrize(
    ("names", "plainest"),
    [
        (["apple"], "an apple on the snow"),
        (["bread", "dog"], "some bread and a dog on the snow"),
        (["cat", "umbrella", "grapes"], "a cat, an umbrella and some grapes on the snow"),
    ],
)
def test_plainest_caption(world, names, plainest):
    texts = phrases.captions([world.by_name[name] for name in names], "snow")
    assert texts[0] == plainest
    assert len(set(texts)) == 5
