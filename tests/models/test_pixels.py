"""Pictures of every kind on their way to the encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil

from mmn_utils.models.pixels import cut_box, seen_box, to_pixels, to_square
from tests.tiny import tiny_images


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
        ([Image.new("F", (2, 2), -1)], "from -1 to -1"),
    ],
    ids=["none", "no list", "array", "empty", "below"],
)
def test_bad_pictures_are_refused(images, says):
    with pytest.raises(ValueError, match=says):
        to_pixels(images, 8)


@pytest.mark.parametrize("size", [(40, 16), (16, 41), (16, 16), (17, 16)])
@pytest.mark.parametrize("fit", ["square", "crop", "pad"])
def test_the_part_that_is_seen_is_what_the_encoder_gets(size, fit):
    image = tiny_images(1)[0].resize(size)
    part = image.crop(seen_box(size, fit))
    assert (part.size == size) == (fit == "square" or size == (16, 16))
    square = to_square(image, 16, fit)
    assert np.array_equal(np.asarray(part.resize((16, 16), Image.BILINEAR)), np.asarray(square))


@pytest.mark.parametrize("size", [(5, 2), (2, 5), (4, 4), (5, 4)])
@pytest.mark.parametrize("fit", ["square", "crop", "pad"])
def test_fields_are_cut_as_pictures_are(size, fit):
    image = Image.fromarray(np.random.default_rng(0).integers(1, 255, size[::-1], dtype=np.uint8))
    box = seen_box(size, fit)
    assert np.array_equal(cut_box(np.asarray(image), box), np.asarray(image.crop(box)))
