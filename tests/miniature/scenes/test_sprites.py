"""Sprites: without the font it is said how to get it."""

from __future__ import annotations

import pytest

from mmn_utils.miniature.scenes.sprites import find_font


def test_missing_font_says_how_to_get_it():
    with pytest.raises(FileNotFoundError, match="fonts-noto-color-emoji"):
        find_font("/nowhere/NotoColorEmoji.ttf")
