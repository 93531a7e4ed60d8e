"""From a picture of any kind to the encoder's pixels.

First upright RGB, whatever it was, by the one reader of pictures (``datasets.pictures``).

Then to a square, as the system's own processor does it: straight, the aspect ratio not
kept (``fit="square"``), the shorter side to the square's and the middle cut out
(``"crop"``), or padded to a square first, with the mean as colour (``"pad"``); with Pillow's
own bilinear or bicubic filter and its antialiasing. Then divided by 255, minus mean, over
standard deviation. The defaults are what LiMBeR's feature extractor does.

A heat map is over this square. Where the square was cut out, what lies beyond it was
never seen: put masks and overlays through ``to_square`` too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from mmn_utils.datasets.pictures import to_rgb

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FITS = ("square", "crop", "pad")
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def to_square(
    image: Image.Image,
    side: int,
    fit: str = "square",
    resample: str = "bilinear",
    fill: int | tuple[int, ...] = 0,
) -> Image.Image:
    """Return the square that an encoder sees, from an upright picture or mask of any mode.

    ``fit`` "square" stretches to it, "crop" scales the shorter side and cuts the middle
    out, rounding down as CLIP's processor does, "pad" puts it into the middle of a square of
    the colour ``fill`` and scales that. ``ValueError`` for others, and for a ``resample`` that is
    none of nearest, bilinear, bicubic.
    """
    if resample not in _FILTERS:
        raise ValueError(f"resample = {resample!r}: choose from {', '.join(_FILTERS)}")
    if fit not in FITS:
        raise ValueError(f"fit = {fit!r}: choose from {', '.join(FITS)}")
    if fit == "pad":
        image = _padded(image, fill)
    if fit != "crop":
        return image.resize((side, side), _FILTERS[resample])
    shorter = min(image.size)
    width, height = (side * length // shorter for length in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    scaled = image.resize((width, height), _FILTERS[resample])
    return scaled.crop((left, top, left + side, top + side))


def _padded(image: Image.Image, fill: int | tuple[int, ...]) -> Image.Image:
    """Put a picture into the middle of a square, which its longer side fills."""
    longer = Image.new(image.mode, (max(image.size),) * 2, fill)
    left, top, _, _ = seen_box(image.size, "pad")
    longer.paste(image, (-left, -top))
    return longer


def seen_box(size: tuple[int, int], fit: str = "square") -> tuple[int, int, int, int]:
    """Return the part of a picture of (width, height) that ``to_square`` keeps.

    (left, top, right, bottom), in the picture's own pixels; beyond them where it is padded.
    """
    if fit == "square":
        return (0, 0, *size)
    side = min(size) if fit == "crop" else max(size)
    left, top = (int((length - side) / 2) for length in size)  # what is cut or padded, rounded down
    return left, top, left + side, top + side


def cut_box(field: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Cut a box out of a field (h, w, ...), zeros where it goes beyond; boxes as ``seen_box``."""
    left, top, right, bottom = box
    height, width = field.shape[:2]
    inside = field[max(top, 0) : bottom, max(left, 0) : right]
    rows = (max(-top, 0), max(bottom - height, 0))
    columns = (max(-left, 0), max(right - width, 0))
    return np.pad(inside, (rows, columns, *((0, 0),) * (field.ndim - 2)))


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
    fill = tuple(int(255 * value) for value in mean)
    squares = [to_square(to_rgb(image), side, fit, resample, fill) for image in images]
    values = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))
    values = values.permute(0, 3, 1, 2).float() / 255
    return (values - _channels(mean)) / _channels(std)


def _channels(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(1, 3, 1, 1)
