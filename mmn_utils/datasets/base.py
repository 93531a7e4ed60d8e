"""What every data set hands out: photographs with captions, masks and labels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pycocotools import mask as coco_mask

T = TypeVar("T")
# what pillow raises for a file that is cut off, or no image, or one that would fill the memory
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
POLYGON_MIN = 6  # numbers; pycocotools would read a polygon of four as a box


@dataclass(frozen=True)
class Instance:
    """One annotated object (or crowd of objects) of a photograph.

    ``segmentation`` is what COCO stores: polygons, or run lengths (plain for crowds, or
    compressed); ``size`` the photograph's (height, width); ``area`` in pixels, as
    annotated. The mask is decoded when it is asked for and not kept.
    """

    category: str
    supercategory: str
    area: float
    iscrowd: bool
    size: tuple[int, int]
    segmentation: Any = field(repr=False, compare=False)

    @property
    def mask(self) -> np.ndarray:
        """Return the mask, bool (height, width); all False where nothing is annotated."""
        return decode_mask(self.segmentation, self.size)


@dataclass(frozen=True)
class Photograph:
    """A photograph with what is known about it.

    ``id`` is unique in its data set; ``captions`` are those that come with it; ``label`` the
    class where the data set has one; ``size`` the annotated (height, width), if any.
    """

    id: str
    path: Path
    captions: tuple[str, ...] = ()
    instances: tuple[Instance, ...] = ()
    label: str | None = None
    size: tuple[int, int] | None = None

    def open(self) -> Image.Image:
        """Return the photograph as an upright RGB image, free of metadata.

        Greyscale, palette and CMYK are converted; transparency is laid on white. EXIF
        rotation is applied, except where the annotations are those of the stored
        pixels. FileNotFoundError or ValueError, naming the file, where it is missing,
        unreadable, or not of the annotated size.
        """
        image = read_image(self.path, keep_stored=self.size)
        if self.size is not None and (image.height, image.width) != self.size:
            raise ValueError(
                f"{self.path} has {image.height} x {image.width} pixels, its annotation "
                f"{self.size[0]} x {self.size[1]}: images and annotations are of different sets"
            )
        return image

    def mask(self, category: str) -> np.ndarray:
        """Return the union of the category's masks, crowds included: bool (height, width).

        ValueError where no instance is of the category.
        """
        masks = [one.mask for one in self.instances if one.category == category]
        if not masks:
            present = sorted({one.category for one in self.instances})
            raise ValueError(f"no {category!r} in photograph {self.id}: it has {present}")
        return np.logical_or.reduce(masks)


def read_image(path: Path, keep_stored: tuple[int, int] | None = None) -> Image.Image:
    """Read an image file as upright RGB; see :meth:`Photograph.open`.

    ``keep_stored``: the (height, width) at which stored pixels stay as they are.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no photograph at {path}: check the path, or fetch what the data set lacks"
        )
    try:
        return _upright(path, keep_stored)
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): fetch it again") from error


def read_bytes(content: bytes, name: str) -> Image.Image:
    """Read the bytes of an image file as upright RGB; see :meth:`Photograph.open`.

    ValueError, with the file's ``name``, for bytes that are no image.
    """
    try:
        return _upright(io.BytesIO(content), None)
    except _UNREADABLE as error:
        why = "its format is not known" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{name} cannot be read as an image ({why}): take another file") from error


def _upright(file: Path | io.BytesIO, keep_stored: tuple[int, int] | None) -> Image.Image:
    with Image.open(file) as stored:
        stored.load()
        image = stored
        if (image.height, image.width) != keep_stored:
            image = ImageOps.exif_transpose(image)
        return _on_white(image)


def _on_white(image: Image.Image) -> Image.Image:
    """Return a fresh RGB image without metadata, so that nobody rotates it once more."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    fresh = Image.new("RGB", image.size)
    fresh.paste(image.convert("RGB"))
    return fresh


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Decode COCO's polygons or run lengths to a bool mask of ``size`` (height, width).

    Nothing annotated, and polygons of fewer than three points, give an empty mask.
    ValueError where run lengths belong to a photograph of another size.
    """
    height, width = size
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != (height, width):
            raise ValueError(
                f"a mask of {segmentation['size']} on a photograph of {[height, width]}: "
                "the annotation belongs to another image"
            )
        runs = segmentation
        if isinstance(runs["counts"], list):
            runs = coco_mask.frPyObjects(runs, height, width)
        return coco_mask.decode(runs).astype(bool)
    polygons = [polygon for polygon in segmentation or () if len(polygon) >= POLYGON_MIN]
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return coco_mask.decode(runs).astype(bool)


def draw(items: Sequence[T], n: int, seed: int, what: str) -> list[T]:
    """Draw ``n`` of the items without replacement, in an order fixed by ``seed``.

    Fewer items drawn with the same seed are the first of more. ValueError where there
    are not as many.
    """
    if n < 0:
        raise ValueError(f"{n} {what} asked for: give a number that is not negative")
    if n > len(items):
        raise ValueError(f"{n} asked for, but there are {len(items)} {what}: lower the number")
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[i] for i in order[:n]]
