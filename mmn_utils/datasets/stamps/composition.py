"""Scenes of one cut-out or of two on a ground, every mask known to the pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from mmn_utils.datasets.stamps.catalogue import Entry, Stamp
from mmn_utils.datasets.stamps.grounds import paint_ground

HEIGHT, WIDTH = 240, 320
SOLID = 128  # alpha from which a pixel is of the thing
# How much of its room a cut-out fills, the picture or half of it; how far one may be enlarged.
ALONE, BESIDE = (0.5, 0.85), (0.62, 0.95)
LARGEST_SCALE = 2.2
EVERY = 3  # the last of so many scenes shows two things
PLACES, OFF = (0.29, 0.71), 0.05  # about where the middles of two are, across the picture
HIGH = 0.35  # things keep away from this much of the free height, where a sky may be


@dataclass(frozen=True)
class Thing:
    """A cut-out in a scene; ``mask`` (height, width), bool, is what is seen of it."""

    entry: Entry
    mask: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Scene:
    """A composed picture, uint8 (height, width, 3); its things from left to right."""

    pixels: np.ndarray = field(repr=False)
    things: tuple[Thing, ...]
    ground: str


def choose(stamps: Sequence[Stamp], scenes: int, seed: int) -> list[tuple[Stamp, ...]]:
    """Choose what each scene shows: every category about as often, in an order of the seed.

    Every third scene shows two things, of different categories. Fewer scenes are the first of more.
    """
    rng = np.random.default_rng(seed)
    by_category: dict[str, list[Stamp]] = {}
    for stamp in stamps:
        by_category.setdefault(stamp.entry.category, []).append(stamp)
    categories, waiting = sorted(by_category), []
    chosen = []
    for number in range(1, scenes + 1):
        names: list[str] = []
        for _ in range(1 if number % EVERY else 2):
            if not set(waiting) - set(names):
                waiting += [categories[i] for i in rng.permutation(len(categories))]
            names.append(next(name for name in waiting if name not in names))
            waiting.remove(names[-1])
        several = (by_category[name] for name in names)
        chosen.append(tuple(one[rng.integers(len(one))] for one in several))
    return chosen


def compose(
    stamps: Sequence[Stamp], rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH
) -> Scene:
    """Set one cut-out, or two from left to right, on a ground; the last lies on top.

    A mask is where the thing's alpha is ``SOLID`` or more and no upper thing's is. ValueError for
    another number of cut-outs.
    """
    if len(stamps) not in (1, 2):
        raise ValueError(f"{len(stamps)} cut-outs for a scene: give one or two")
    ground, pixels = paint_ground(rng, height, width)
    things: list[Thing] = []
    for place, stamp in enumerate(stamps):
        layer = _layer(stamp, rng, (height, width), PLACES[place] if len(stamps) > 1 else None)
        alpha = layer[..., 3]
        share = alpha[..., None].astype(np.float32) / 255
        pixels = share * layer[..., :3] + (1 - share) * pixels
        solid = alpha >= SOLID
        things = [Thing(below.entry, below.mask & ~solid) for below in things]
        things.append(Thing(stamp.entry, solid))
    return Scene(np.rint(pixels).astype(np.uint8), tuple(things), ground)


def _layer(
    stamp: Stamp, rng: np.random.Generator, size: tuple[int, int], across: float | None
) -> np.ndarray:
    """Return a cut-out scaled and placed wholly inside the picture: uint8 (height, width, 4).

    ``across``: about where its middle is, by the picture's width; None for anywhere.
    """
    height, width = size
    room, filled = ((width, height), ALONE) if across is None else ((width / 2, height), BESIDE)
    image = _scaled(stamp.image, room, rng.uniform(*filled))
    if rng.random() < 0.5 and stamp.entry.mirror:
        image = ImageOps.mirror(image)
    free = np.array([width - image.width, height - image.height])
    left, top = free * (rng.random(), rng.uniform(HIGH, 1))
    if across is not None:
        left = (across + rng.uniform(-OFF, OFF)) * width - image.width / 2
    corner = np.rint(np.clip([left, top], 0, free)).astype(int)
    canvas = Image.new("RGBA", (width, height))
    canvas.paste(image, tuple(int(value) for value in corner))
    return np.asarray(canvas)


def _scaled(image: Image.Image, room: tuple[float, float], part: float) -> Image.Image:
    """Scale a cut-out to a part of a room (width, height), no further than ``LARGEST_SCALE``.

    Colours are weighted with their alpha, so that those of clear pixels do not bleed in.
    """
    fits = min(side / own for side, own in zip(room, image.size, strict=True))
    scale = min(part * fits, LARGEST_SCALE)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
