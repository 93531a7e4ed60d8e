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

Then to a square, as the system's own processor does it: straight, the aspect ratio not
kept (``fit="square"``), or the shorter side to the square's and the middle cut out
(``"crop"``); with Pillow's own bilinear or bicubic filter and its antialiasing. Then
divided by 255, minus mean, over standard deviation. The defaults are what LiMBeR's
feature extractor does.

A heat map is over this square. Where the square was cut out, what lies beyond it was
never seen: put masks and overlays through ``to_square`` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FITS = ("square", "crop")
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
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


def to_square(
    image: Image.Image, side: int, fit: str = "square", resample: str = "bilinear"
) -> Image.Image:
    """Return the square that an encoder sees, from an upright picture or mask of any mode.

    ``fit`` "square" stretches to it, "crop" scales the shorter side and cuts the middle
    out, rounding down as CLIP's processor does. ``ValueError`` for others, and for a
    ``resample`` that is none of nearest, bilinear, bicubic.
    """
    if resample not in _FILTERS:
        raise ValueError(f"resample = {resample!r}: choose from {', '.join(_FILTERS)}")
    if fit not in FITS:
        raise ValueError(f"fit = {fit!r}: choose from {', '.join(FITS)}")
    if fit == "square":
        return image.resize((side, side), _FILTERS[resample])
    shorter = min(image.size)
    width, height = (side * length // shorter for length in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    scaled = image.resize((width, height), _FILTERS[resample])
    return scaled.crop((left, top, left + side, top + side))


def seen_box(size: tuple[int, int], fit: str = "square") -> tuple[int, int, int, int]:
    """Return the part of a picture of (width, height) that ``to_square`` keeps.

    (left, top, right, bottom), in the picture's own pixels.
    """
    if fit == "square":
        return (0, 0, *size)
    side = min(size)
    left, top = ((length - side) // 2 for length in size)
    return left, top, left + side, top + side


def to_pixels(
    images: Sequence[Image.Image],
    side: int,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    *,
    fit: str = "square",
    resample: str = "bilinear",
) -> torch.Tensor:
    """Turn pictures into an encoder's input: (B, 3, side, side) float32.

    ``ValueError`` for no picture, for one that is not in a list, and as ``to_rgb`` and
    ``to_square``.
    """
    if isinstance(images, Image.Image):
        raise ValueError("give a list of pictures, [image] for a single one")
    if len(images) == 0:
        raise ValueError("no pictures; give a list of at least one")
    squares = [to_square(to_rgb(image), side, fit, resample) for image in images]
    values = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))
    values = values.permute(0, 3, 1, 2).float() / 255
    return (values - _channels(mean)) / _channels(std)


def _channels(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(1, 3, 1, 1)
