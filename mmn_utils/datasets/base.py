"""What every data set hands out: photographs with captions, masks and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from mmn_utils.datasets.masks import decode_mask
from mmn_utils.datasets.pictures import read_image

T = TypeVar("T")
# What a data set may have beside its pictures.
KINDS = ("captions", "objects", "masks", "classes")


class TooFew(ValueError):
    """Photographs are too few, or too much of a kind, for what is asked of them.

    The message says what there is, what is needed and what to do, and completes "left out: ": an
    exhibit that needs more leaves itself out with it (``exhibits.leaving``).
    """


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

        Whatever its mode and its EXIF orientation, as ``datasets.pictures`` says.
        FileNotFoundError or ValueError, naming the file, where it is missing, unreadable,
        or not of the annotated size.
        """
        image = read_image(self.path, self.size)
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


def lacking(
    what: str,
    *,
    captions: Sequence[bool] = (),
    objects: bool = False,
    masks: bool = False,
    classes: bool = False,
) -> str:
    """Say why a data set lacks one of ``KINDS``, "" where it has it.

    ``captions`` tells of each photograph whether it has any; all must, since whoever asks for
    them asks all. ValueError for another kind.
    """
    if what not in KINDS:
        raise ValueError(f"{what!r} is nothing that a data set has: choose from {', '.join(KINDS)}")
    if what == "captions":
        without = len(captions) - sum(captions)
        some = f"{without} of {len(captions)} photographs have no caption"
        return "no photograph has a caption" if without == len(captions) else some * bool(without)
    has, why = {
        "objects": (objects, "no photograph has an annotated object"),
        "masks": (masks, "no photograph has the mask of an object"),
        "classes": (classes, "the photographs do not lie in folders of their class"),
    }[what]
    return "" if has else why


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
