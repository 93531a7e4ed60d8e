"""Picture files and pictures of every kind, read as upright RGB."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmn_utils.datasets import Photograph
from mmn_utils.datasets.pictures import read_bytes, read_image, size_of, to_rgb
from tests.tiny import tiny_images


def colours(image):
    return np.asarray(to_rgb(image)).reshape(-1, 3).tolist()


def test_greyscale_has_three_equal_channels():
    assert colours(Image.new("L", (1, 1), 90)) == [[90, 90, 90]]
    assert colours(Image.new("1", (1, 1), 1)) == [[255, 255, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparency_is_composited_on_white(mode):
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    through = {"RGBa": ["RGBa"], "LA": ["LA"], "La": ["LA", "La"], "PA": ["PA"], "RGBA": []}[mode]
    for step in through:
        half = half.convert(step)
    assert colours(half) == [[127, 127, 127]]


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30])
    assert colours(image) == [[10, 20, 30]]
    image.info["transparency"] = 0
    assert colours(image) == [[255, 255, 255]]


def test_cmyk_is_converted():
    assert colours(Image.new("CMYK", (1, 1), (0, 255, 255, 0))) == [[255, 0, 0]]


SIGNED, UNSIGNED = (b"\x53\x01\x03\x00\x01\x00\x00\x00" + bytes([kind]) for kind in (2, 1))


def wide(folder, values, unsigned=False):
    """Write values as a TIFF of their own type and read it as a photograph: its greys."""
    path = folder / "grey.tif"
    Image.fromarray(np.asarray([values])).save(path)
    if unsigned:  # Pillow itself writes none
        content = path.read_bytes()
        assert content.count(SIGNED) == 1
        path.write_bytes(content.replace(SIGNED, UNSIGNED))
    red, green, blue = np.asarray(Photograph("x", path).open()).transpose(2, 0, 1)
    assert np.array_equal(red, green)
    assert np.array_equal(red, blue)
    return red[0].tolist()


@pytest.mark.parametrize(
    ("values", "dtype", "greys"),
    [
        ([0, 257 * 100, 65535], np.uint16, [0, 100, 255]),
        ([0, 257, 514], np.uint16, [0, 1, 2]),
        ([0, 100, 255], np.int32, [0, 100, 255]),
        ([0, 257 * 100, 65535], np.int32, [0, 100, 255]),
        ([0, 2**30, 2**31 - 1], np.int32, [0, 128, 255]),
        ([0.0, 0.5, 1.0], np.float32, [0, 128, 255]),
        ([0.0, 100.4, 255.0], np.float32, [0, 100, 255]),
        ([0.0, 25700.0, 65535.0], np.float32, [0, 100, 255]),
    ],
)
def test_wide_greys_are_scaled_and_not_clipped(tmp_path, values, dtype, greys):
    values = np.array(values, dtype)
    assert wide(tmp_path, values) == greys
    if dtype == np.uint16:
        Image.fromarray(values[None]).save(tmp_path / "grey.png")
        assert np.asarray(read_image(tmp_path / "grey.png"))[0, :, 1].tolist() == greys


def test_unsigned_32_bit_is_read_as_such(tmp_path):
    values = np.array([0, 2**31, 2**32 - 1], np.uint32).view(np.int32)
    assert wide(tmp_path, values, unsigned=True) == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "says"),
    [([-0.5, 1], "from -0.5 to 1"), ([0, np.nan], "nan"), ([0, np.inf], "inf"), ([0, 1e9], "1e")],
)
def test_floats_of_no_known_range_are_refused(tmp_path, values, says):
    with pytest.raises(
        ValueError, match=rf"grey\.tif cannot be read.*{says}.*scale them to 0\.\.1"
    ):
        wide(tmp_path, np.array(values, np.float32))


def test_a_key_colour_of_sixteen_bit_is_white(tmp_path):
    image = Image.fromarray(np.array([[0, 257, 514]], np.uint16))
    image.save(tmp_path / "key.png", transparency=257)
    found = np.asarray(read_image(tmp_path / "key.png"))[0, :, 0].tolist()
    assert found == [0, 255, 2]


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (16, 8), "black")
    image.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2)) == (255, 255, 255)
    assert upright.getpixel((4, 13)) == (0, 0, 0)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    tiny_images(1)[0].save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "broken.png").write_bytes(content[:40] + b"\0" * 40 + content[80:])
    for name in ("text.jpg", "cut.png", "broken.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an image"):
            read_image(tmp_path / name)
    (tmp_path / "phone.heic").write_bytes(b"no picture either")
    with pytest.raises(ValueError, match=r"phone\.heic cannot be read"):
        read_image(tmp_path / "phone.heic")
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png")
    assert read_image(tmp_path / "whole.png").mode == "RGB"


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


def test_the_orientation_is_that_of_the_annotations_where_they_tell(tmp_path):
    """Sizes that fit one way alone decide; where both fit, or neither does, the tag does."""
    for tag, side, turned in ((6, 5, True), (3, 5, True), (6, 7, True), (6, 5, False)):
        pixels = np.zeros((side, 7, 3), np.uint8)
        pixels[0, 0] = 255
        exif = Image.Exif()
        exif[0x0112] = tag
        path = tmp_path / "turned.png"
        Image.fromarray(pixels).save(path, exif=exif)
        upright = (7, side) if tag == 6 else (side, 7)
        assert size_of(path) == upright
        annotated = upright if turned else (side, 7)
        found = np.asarray(Photograph("x", path, size=annotated).open())
        assert found.shape[:2] == annotated
        corner = {6: (0, -1), 3: (-1, -1)}[tag] if turned else (0, 0)
        assert found[corner].tolist() == [255, 255, 255]
