"""What the encoder sees of the training photographs, encoded once: several views of each.

The whole picture, its mirror image, and two parts that a seed cuts out, one of them mirrored:
a map that has seen each photograph in one view alone learns it by heart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmn_utils.datasets.pictures import read_image
from mmn_utils.models.any_encoder import Found
from mmn_utils.models.pixels import to_pixels
from mmn_utils.smol.photographs import Shown
from mmn_utils.training.features import FeatureStore, kept
from mmn_utils.training.loop import side_by_side

VIEWS = 4
SMALLEST = 0.5  # share of the picture that a part keeps, at least
TOGETHER = 8  # photographs that are encoded in one batch


def views_of(image: Image.Image, seed: Sequence[int]) -> list[Image.Image]:
    """Return the whole, its mirror image, a part, and another part's mirror image."""
    rng = np.random.default_rng(seed)
    parts = [_part(image, rng) for _ in range(2)]
    return [image, ImageOps.mirror(image), parts[0], ImageOps.mirror(parts[1])]


def _part(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut out a part of the picture's own aspect ratio."""
    scale = rng.uniform(SMALLEST, 1) ** 0.5
    width, height = (max(1, round(scale * length)) for length in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def kept_views(found: Found, shown: Sequence[Shown], work: Path, seed: int = 0) -> FeatureStore:
    """Encode every view of photographs once, kept in ``work``: (N * VIEWS, patches, width).

    The views of a photograph lie one behind the other. Photographs are told apart by set, class,
    file and size of the file.
    """
    encoder = found.encoder
    shape = (len(shown) * VIEWS, encoder.grid[0] * encoder.grid[1], encoder.width)
    file = work / f"features_{digest(found, shown, seed)}.npy"
    return kept(file, shape, lambda: _encoded(found, shown, seed))


def digest(found: Found, shown: Sequence[Shown], *more: int | str) -> str:
    """Return a short hash of an encoder, of photographs, and of what else is asked for."""
    asked = [found.revision, found.encoder.pixels, found.mean, found.std, *more]
    files = [(one.source, *one.path.parts[-2:], one.path.stat().st_size) for one in shown]
    return hashlib.sha256(repr((asked, files)).encode()).hexdigest()[:12]


def _encoded(found: Found, shown: Sequence[Shown], seed: int) -> Iterator[Tensor]:
    def encode(start: int) -> Tensor:
        views = [
            view
            for i in range(start, min(start + TOGETHER, len(shown)))
            for view in views_of(read_image(shown[i].path), (seed, i))
        ]
        side = found.encoder.pixels
        with torch.no_grad():
            return found.encoder.features(to_pixels(views, side, found.mean, found.std))

    starts = range(0, len(shown), TOGETHER)
    for number, part in enumerate(side_by_side().map(encode, starts)):
        if number % 100 == 0:
            print(f"features  {number * TOGETHER}/{len(shown)} photographs", flush=True)
        yield part
