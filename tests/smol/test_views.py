"""Views of the photographs: whole, mirrored, cut out; the same for the same seed; encoded once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmn_utils.datasets.pictures import read_image
from mmn_utils.models.pixels import to_pixels
from mmn_utils.smol import views as module
from mmn_utils.smol.views import SMALLEST, VIEWS, kept_views, views_of
from tests.smol.sets import SIDE, tiny_found, tiny_shown
from tests.tiny import tiny_images


def numbered(width: int, height: int) -> Image.Image:
    """A picture whose colours tell the place, from 0 in either direction."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], -1).astype(np.uint8))


def box(view: Image.Image) -> tuple[int, int, int, int]:
    """Where in ``numbered`` a view that is not mirrored was cut out."""
    left, top, _ = view.getpixel((0, 0))
    right, bottom, _ = view.getpixel((view.width - 1, view.height - 1))
    return left, top, right + 1, bottom + 1


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 10**6))
def test_a_whole_its_mirror_image_and_two_parts(width, height, seed):
    image = numbered(width, height)
    whole, mirrored, part, other = views_of(image, (seed,))
    pixels = np.asarray(image)
    np.testing.assert_array_equal(np.asarray(whole), pixels)
    np.testing.assert_array_equal(np.asarray(mirrored), pixels[:, ::-1])
    for view in (part, other.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        left, top, right, bottom = box(view)
        np.testing.assert_array_equal(np.asarray(view), pixels[top:bottom, left:right])
        # rounding moves each side by half a pixel at most
        assert (view.width + 0.5) * (view.height + 0.5) >= SMALLEST * width * height
        assert abs(view.width / width - view.height / height) <= 0.5 / width + 0.5 / height


def test_parts_reach_every_corner_and_differ_from_each_other():
    image = numbered(100, 80)
    found = [views_of(image, (0, i)) for i in range(200)]
    boxes = np.array([box(views[2]) for views in found])
    assert boxes.min(0)[:2].max() <= 2
    assert (boxes.max(0)[2:] >= (98, 78)).all()
    assert np.ptp(boxes[:, 2] - boxes[:, 0]) > 20  # of a hundred, at least the root of a half
    mirrored = [box(views[3].transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for views in found]
    alike = sum(tuple(one) == other for one, other in zip(boxes, mirrored, strict=True))
    assert alike < 5  # both are nearly the whole, by chance


def test_the_same_seed_cuts_out_the_same_and_another_something_else():
    image = tiny_images(1)[0]
    first, again, other = ([v.tobytes() for v in views_of(image, (0, i))] for i in (1, 1, 2))
    assert first == again
    assert first[:2] == other[:2]
    assert first[2:] != other[2:]


@torch.no_grad()
def test_views_are_encoded_one_behind_the_other(tmp_path):
    found, shown = tiny_found(), tiny_shown(tmp_path / "sets")
    store = kept_views(found, shown, tmp_path / "work")
    assert store.values.shape == (len(shown) * VIEWS, 16, 6)
    for i, one in enumerate(shown):
        views = views_of(read_image(one.path), (0, i))
        expected = found.encoder.features(to_pixels(views, SIDE, found.mean, found.std))
        own = store.values[VIEWS * i : VIEWS * (i + 1)]
        np.testing.assert_allclose(own, expected.numpy(), atol=2e-3)  # kept in float16


def test_what_is_encoded_is_kept_for_the_same_pictures_and_encoder_alone(tmp_path, monkeypatch):
    found, shown, work = tiny_found(), tiny_shown(tmp_path / "sets"), tmp_path / "work"
    content = shown[0].path.read_bytes()
    shown[3].path.write_bytes(content)  # another class's, with the same name and size
    store = kept_views(found, shown, work)
    monkeypatch.setattr(module, "_encoded", lambda *_: pytest.fail("encoded anew"))
    np.testing.assert_array_equal(kept_views(found, shown, work).values, store.values)
    larger = replace(shown[0], path=tmp_path / "Leopards" / shown[0].path.name)
    larger.path.parent.mkdir()
    larger.path.write_bytes(content + b"0")
    others = [
        (found, [shown[3], *shown[1:]], 0),
        (found, [larger, *shown[1:]], 0),
        (found, shown[1:], 0),
        (replace(found, revision="other"), shown, 0),
        (replace(found, mean=(0.4,) * 3), shown, 0),
        (found, shown, 1),
    ]
    for encoder, pictures, seed in others:
        with pytest.raises(pytest.fail.Exception, match="encoded anew"):
            kept_views(encoder, pictures, work, seed)


def test_a_picture_that_cannot_be_read_is_named_and_leaves_no_file(tmp_path):
    shown = tiny_shown(tmp_path / "sets")
    shown[2].path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"image_2\.png"):
        kept_views(tiny_found(), shown, tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []
