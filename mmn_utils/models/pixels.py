"""From a picture of any kind to the encoder's pixels.

What happens to an unusual picture, always in this order:

==================  ==========================================================
EXIF orientation    applied, so that the picture stands upright
transparency        composited on white (RGBA, LA, PA, palettes, key colours)
greyscale           the same value in all three channels
16 bit, 32 bit int  scaled from 0..65535 to 0..255 (values beyond are clipped)
CMYK, LAB, YCbCr    Pillow's plain conversion, without a colour profile
floating point      ``ValueError``: its range is not known
1 pixel             scaled like any other; the result is one flat colour
no pixels           ``ValueError``
==================  ==========================================================

Then straight to a square, aspect ratio not kept, bilinear as Pillow does it (with its
antialiasing), divided by 255, minus mean, over standard deviation: what LiMBeR's
feature extractor does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa")
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,  # Pillow's answer to a broken PNG
    ValueError,
    Image.DecompressionBombError,
)


def open_image(path: str | Path) -> Image.Image:
    """Read a picture file as upright RGB; ``ValueError`` naming a file that cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}; replace it") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to upright RGB, as the module's table says."""
    if not isinstance(image, Image.Image):
        raise ValueError(f"{type(image).__name__} is no picture; give a PIL image")
    if 0 in image.size:
        raise ValueError(f"a picture of {image.width} x {image.height} has no pixels")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("a floating point picture has no fixed range; convert it to 8 bit first")
    if image.mode in _WIDE:
        return _narrow(image).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")  # the only conversion that Pillow has from it
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _narrow(image: Image.Image) -> Image.Image:
    """Scale 16 bit greyscale to 8 bit; Pillow itself would clip everything above 255."""
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))


def to_pixels(
    images: Sequence[Image.Image],
    side: int,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
) -> torch.Tensor:
    """Turn pictures into an encoder's input: (B, 3, side, side) float32.

    ``ValueError`` for no picture, for one that is not in a list, and as ``to_rgb``.
    """
    if isinstance(images, Image.Image):
        raise ValueError("give a list of pictures, [image] for a single one")
    if len(images) == 0:
        raise ValueError("no pictures; give a list of at least one")
    squares = [to_rgb(image).resize((side, side), Image.Resampling.BILINEAR) for image in images]
    values = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))
    values = values.permute(0, 3, 1, 2).float() / 255
    return (values - _channels(mean)) / _channels(std)


def _channels(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(1, 3, 1, 1)
