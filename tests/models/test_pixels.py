"""Pictures of every kind on their way to the encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil

from mmn_utils.models.pixels import open_image, seen_box, to_pixels, to_rgb, to_square
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


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bit_is_scaled_and_not_clipped(mode, tmp_path):
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    image = Image.fromarray(values).convert(mode) if mode == "I" else Image.fromarray(values)
    assert image.mode == mode
    assert [pixel[0] for pixel in colours(image)] == [0, 100, 255]
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert np.asarray(open_image(tmp_path / "grey.png"))[0, :, 1].tolist() == [0, 100, 255]


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (16, 8), "black")
    image.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright = open_image(tmp_path / "turned.png")
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2)) == (255, 255, 255)
    assert upright.getpixel((4, 13)) == (0, 0, 0)


def test_one_pixel_becomes_a_flat_picture():
    pixels = to_pixels([Image.new("RGB", (1, 1), (255, 0, 51))], 8)
    expected = torch.tensor([1.0, -1.0, -0.6]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(pixels, expected)


def test_pictures_of_all_modes_share_a_batch():
    image = tiny_images(1)[0]
    modes = ("RGB", "L", "RGBA", "LA", "P", "CMYK", "YCbCr", "HSV", "LAB", "I", "1")
    images = [image if mode == "LAB" else image.convert(mode) for mode in modes]
    pixels = to_pixels([*images, Image.new("RGB", (1, 1))], 16)
    assert pixels.shape == (len(modes) + 1, 3, 16, 16)
    assert pixels.dtype == torch.float32
    assert pixels.abs().max() <= 1


def test_equal_to_transformers_own_processor():
    processor = BeitImageProcessorPil(
        size={"height": 24, "width": 24},
        resample=Image.Resampling.BILINEAR,
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    images = tiny_images(2, side=61)
    expected = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(to_pixels(images, 24), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([], "no pictures"),
        (Image.new("RGB", (2, 2)), "give a list"),
        ([np.zeros((2, 2, 3))], "ndarray is no picture"),
        ([Image.new("RGB", (0, 3))], "0 x 3 has no pixels"),
        ([Image.new("F", (2, 2))], "floating point"),
    ],
    ids=["none", "no list", "array", "empty", "float"],
)
def test_bad_pictures_are_refused(images, says):
    with pytest.raises(ValueError, match=says):
        to_pixels(images, 8)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    tiny_images(1)[0].save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "broken.png").write_bytes(content[:40] + b"\0" * 40 + content[80:])
    for name in ("text.jpg", "cut.png", "broken.png", "absent.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a picture"):
            open_image(tmp_path / name)
    assert open_image(tmp_path / "whole.png").mode == "RGB"


@pytest.mark.parametrize("size", [(40, 16), (16, 41), (16, 16), (17, 16)])
@pytest.mark.parametrize("fit", ["square", "crop"])
def test_the_part_that_is_seen_is_what_the_encoder_gets(size, fit):
    image = tiny_images(1)[0].resize(size)
    part = image.crop(seen_box(size, fit))
    assert (part.size == size) == (fit == "square" or size == (16, 16))
    square = to_square(image, 16, fit)
    assert np.array_equal(np.asarray(part.resize((16, 16), Image.BILINEAR)), np.asarray(square))
