"""Held-out looks beside those that were trained on: likeness by hand, and what ships."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmn_utils.datasets import load_dataset
from mmn_utils.miniature import looks
from mmn_utils.miniature.looks import NEAR, SHIFT, SIDE, likeness, luminance
from mmn_utils.miniature.scenes.sprites import find_font, glyph
from mmn_utils.presets import data_path


def drawing(seed: int, margin: int = SHIFT) -> np.ndarray:
    """Draw noise on white, with a margin in which it may be moved."""
    pixels = np.ones((SIDE, SIDE))
    inside = np.s_[margin : SIDE - margin, margin : SIDE - margin]
    pixels[inside] = np.random.default_rng(seed).random(pixels[inside].shape)
    return pixels


def test_likeness_is_the_best_correlation_over_moves_and_mirror():
    """Against numpy's correlation of every moved copy, one by one."""
    one, others = drawing(0), np.stack([drawing(1), drawing(2)])
    best = []
    for other in others:
        wide = np.pad(one, SHIFT, constant_values=1.0)
        found = []
        for y in range(2 * SHIFT + 1):
            for x in range(2 * SHIFT + 1):
                moved = wide[y : y + SIDE, x : x + SIDE]
                for picture in (moved, moved[:, ::-1]):
                    found.append(np.corrcoef(picture.ravel(), other.ravel())[0, 1])
        best.append(max(found))
    np.testing.assert_allclose(likeness(one, others), best, rtol=1e-9)


@pytest.mark.parametrize(("y", "x"), [(0, 0), (SHIFT, -SHIFT), (-2, 1)])
def test_a_moved_or_mirrored_copy_is_wholly_alike(y, x):
    one = drawing(3)
    moved = np.roll(one, (y, x), axis=(0, 1))
    copies = np.stack([moved, moved[:, ::-1], 0.2 + 0.5 * moved])
    np.testing.assert_allclose(likeness(one, copies), 1, rtol=1e-9)


def test_a_picture_of_one_shade_is_refused():
    with pytest.raises(ValueError, match="of one shade"):
        likeness(drawing(0), np.ones((1, SIDE, SIDE)))


def test_luminance_fills_a_white_square():
    red = Image.new("RGBA", (2 * SIDE, SIDE), (255, 0, 0, 255))
    pixels = luminance(red)
    assert pixels.shape == (SIDE, SIDE)
    middle = np.s_[SIDE // 4 : 3 * SIDE // 4]
    np.testing.assert_allclose(pixels[middle], 0.299)
    np.testing.assert_allclose(pixels[: SIDE // 4], 1)
    clear = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    np.testing.assert_allclose(luminance(clear), 1)


def test_scenes_are_sorted_by_whether_all_their_looks_are_new():
    def scene(*things):
        return SimpleNamespace(instances=[SimpleNamespace(category=name) for name in things])

    scenes = [scene("cat"), scene("dog"), scene("dog", "cat"), scene("dog", "cow")]
    parts = looks.split(scenes, frozenset({"cat"}))
    assert parts == {"far": [scenes[1], scenes[3]], "near": [scenes[0], scenes[2]]}


# --- what ships -------------------------------------------------------------------------


def test_near_copies_among_the_shipped_looks_are_known(world):
    table = looks.read(data_path("miniature", "looks.csv"), world)
    assert looks.near(table) == {"bed", "book", "cat"}
    assert table["likeness"].between(-1, 1).all()
    # no look stands at the bound, so that another version of the font moves none across
    assert (table["likeness"] - NEAR).abs().min() > 0.05
    parts = looks.split(load_dataset("miniature/looks"), looks.near(table))
    assert {name: len(scenes) for name, scenes in parts.items()} == {"far": 82, "near": 18}


def test_looks_of_another_world_are_refused(world, tmp_path):
    table = looks.read(data_path("miniature", "looks.csv"), world)
    looks.keep(table.iloc[1:], tmp_path / "looks.csv")
    with pytest.raises(ValueError, match="compares other looks"):
        looks.read(tmp_path / "looks.csv", world)


def test_what_ships_is_what_the_glyphs_give(world, tmp_path):
    try:
        font = find_font()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    looks.keep(looks.compare(world, font), tmp_path / "looks.csv")
    again = looks.read(tmp_path / "looks.csv", world)
    kept = looks.read(data_path("miniature", "looks.csv"), world)
    pd.testing.assert_frame_equal(again, kept, atol=0.02)
    # a look is compared with looks of its own concept, and a picture is wholly like itself
    pairs = kept[["concept", "nearest"]].to_numpy()
    assert all(nearest in world.by_name[concept].looks for concept, nearest in pairs)
    one = luminance(glyph(kept["nearest"][0], font))
    assert likeness(one, one[None])[0] == pytest.approx(1)
