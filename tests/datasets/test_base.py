"""Pictures from bytes, as they are read from files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmn_utils.datasets.base import read_bytes, read_image


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P", "1"])
def test_bytes_are_read_as_their_file_is(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image.save(tmp_path / "file", kind)
    found = read_bytes((tmp_path / "file").read_bytes(), "file")
    assert (found.mode, found.size) == ("RGB", (7, 5))
    assert found.tobytes() == read_image(tmp_path / "file").tobytes()


def test_a_rotated_picture_stands_upright():
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7, 5)).save(stream, "JPEG", exif=exif)
    assert read_bytes(stream.getvalue(), "turned.jpg").size == (5, 7)


def test_bytes_that_are_no_picture_are_named(monkeypatch):
    stream = io.BytesIO()
    Image.new("RGB", (70, 50)).save(stream, "PNG")
    whole = stream.getvalue()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
            read_bytes(content, "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        read_bytes(whole, "a.png")
