"""The font where there is one, and some scenes."""

from __future__ import annotations

import pytest

from mmn_utils.miniature.scenes.composition import Scene, make_scenes
from mmn_utils.miniature.scenes.sprites import find_font


@pytest.fixture(scope="module")
def font():
    try:
        return find_font()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def made(world, font) -> list[Scene]:
    return list(make_scenes(123_000, 40, world, font=font))
