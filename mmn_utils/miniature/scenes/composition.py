"""The scene of a seed: objects are chosen, placed, painted on a ground, and described."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from mmn_utils.miniature import phrases
from mmn_utils.miniature.scenes import SIZE
from mmn_utils.miniature.scenes.grounds import paint_background
from mmn_utils.miniature.scenes.sprites import COLOURS, SHOWN, find_font, sprite_of
from mmn_utils.miniature.world import Concept, World

OBJECT_COUNTS = (0.5, 0.35, 0.15)
# Longest side of an object in pixels, by the number of objects in its scene.
OBJECT_SIZES = {1: (60, 86), 2: (48, 68), 3: (40, 54)}
MAX_OVERLAP = 0.08
PLACEMENT_TRIES = 24


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene; ``mask`` (112, 112) holds its visible pixels.

    ``bbox`` is x, y, width, height of the visible part, as in COCO.
    """

    concept: str
    look: str
    bbox: tuple[int, int, int, int]
    mask: np.ndarray

    @property
    def area(self) -> int:
        """Number of visible pixels."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class Scene:
    """A picture (112, 112, 3) uint8 and what is in it, largest visible area first."""

    image: np.ndarray
    background: str
    objects: tuple[SceneObject, ...]
    looks: str
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts' names, largest object first."""
        return tuple(thing.concept for thing in self.objects)


def make_scene(
    seed: int,
    world: World,
    looks: str = "train",
    n_objects: int | None = None,
    first: str | None = None,
    font: str | Path | None = None,
    colours: str = SHOWN,
) -> Scene:
    """Make the scene of a seed.

    ``looks`` is "train" or "held_out", ``colours`` one of ``COLOURS``; ``first`` is a
    concept that has to be in the scene and is drawn at the largest size; without
    ``n_objects`` the number is drawn from ``OBJECT_COUNTS``.
    """
    if looks not in ("train", "held_out"):
        raise ValueError(f"looks must be 'train' or 'held_out', not {looks!r}")
    font = find_font(font)
    rng = np.random.default_rng([seed, looks == "held_out"])
    count = n_objects or int(rng.choice(3, p=OBJECT_COUNTS)) + 1
    ground = world.backgrounds[rng.integers(len(world.backgrounds))].name
    chosen = _choose_concepts(rng, world.with_look(looks == "held_out"), count, first)
    drawn = [c.held_out_look if looks == "held_out" else rng.choice(c.looks) for c in chosen]
    sizes = _sizes(count, first is not None, rng)
    strays = COLOURS[colours]
    sprites = [sprite_of(k, int(s), strays, rng, font) for k, s in zip(drawn, sizes, strict=True)]
    pixels = paint_background(ground, rng)
    masks = _compose(pixels, sprites, rng)
    objects = [
        SceneObject(c.name, str(k), _bounds(m), m)
        for c, k, m in zip(chosen, drawn, masks, strict=True)
    ]
    objects.sort(key=lambda thing: -thing.area)
    return Scene(np.round(pixels).astype(np.uint8), ground, tuple(objects), looks, seed)


def make_scenes(
    first_seed: int, count: int, world: World, looks: str = "train", font: Path | None = None
) -> Iterator[Scene]:
    """Yield the scenes of consecutive seeds."""
    for seed in range(first_seed, first_seed + count):
        yield make_scene(seed, world, looks, font=font)


def captions(scene: Scene, world: World) -> tuple[str, ...]:
    """Return five captions of a scene; the largest visible object is named first."""
    return phrases.captions([world.by_name[name] for name in scene.names], scene.background)


# --- what is in it ----------------------------------------------------------------------


def _choose_concepts(
    rng: np.random.Generator, pool: tuple[Concept, ...], count: int, first: str | None
) -> list[Concept]:
    """Return ``count`` distinct concepts, in random order, ``first`` among them."""
    chosen = [c for c in pool if c.name == first]
    if first is not None and not chosen:
        raise ValueError(f"no picture of {first!r} with these looks")
    rest = [c for c in pool if c.name != first]
    order = rng.permutation(len(rest))[: count - len(chosen)]
    return chosen + [rest[i] for i in order]


def _sizes(count: int, leads: bool, rng: np.random.Generator) -> np.ndarray:
    """Return the objects' sizes in pixels; where one must lead, it comes first and is largest."""
    low, high = OBJECT_SIZES[count]
    sizes = rng.integers(low, high + 1, size=count)
    return np.sort(sizes)[::-1] if leads else sizes


# --- where it lies ----------------------------------------------------------------------


def _compose(
    pixels: np.ndarray, sprites: list[np.ndarray], rng: np.random.Generator
) -> list[np.ndarray]:
    """Paint sprites in place, later ones on top; return the visible mask of each."""
    boxes: list[np.ndarray] = []
    for sprite in sprites:
        boxes.append(_place(sprite, boxes, rng))
    masks = [_draw(pixels, sprite, box) for sprite, box in zip(sprites, boxes, strict=True)]
    covered = np.zeros((SIZE, SIZE), dtype=bool)
    for i in reversed(range(len(masks))):
        masks[i] = masks[i] & ~covered
        covered |= masks[i]
    return masks


def _place(sprite: np.ndarray, others: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return a box inside the picture that covers the other boxes as little as it can."""
    height, width = sprite.shape[:2]
    best, least = None, np.inf
    for _ in range(PLACEMENT_TRIES):
        corner = rng.integers(0, (SIZE - width + 1, SIZE - height + 1))
        box = np.tile(corner, 2) + np.array([0, 0, width, height])
        overlap = _overlap(box, others)
        if overlap < least:
            best, least = box, overlap
        if least <= MAX_OVERLAP:
            break
    return best


def _overlap(box: np.ndarray, others: list[np.ndarray]) -> float:
    """Return the largest share of any box (x0, y0, x1, y1) that two boxes have in common."""
    worst = 0.0
    for other in others:
        sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        shared = float(np.prod(np.clip(sides, 0, None)))
        smaller = min(np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2]))
        worst = max(worst, shared / smaller)
    return worst


def _draw(pixels: np.ndarray, sprite: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Paint a sprite into float pixels (112, 112, 3) in place; return its mask (112, 112)."""
    alpha = np.zeros((SIZE, SIZE), dtype=np.float32)
    inside = np.s_[box[1] : box[3], box[0] : box[2]]
    alpha[inside] = sprite[..., 3]
    _cast_shadow(pixels, alpha)
    pixels[inside] += sprite[..., 3:] * (sprite[..., :3] - pixels[inside])
    return alpha >= 0.5


def _cast_shadow(pixels: np.ndarray, alpha: np.ndarray) -> None:
    """Darken the ground softly below and beside an object, in place."""
    shadow = Image.fromarray((np.roll(alpha, (3, 2), axis=(0, 1)) * 255).astype(np.uint8))
    soft = np.asarray(shadow.filter(ImageFilter.GaussianBlur(2.5)), dtype=np.float32) / 255
    pixels *= 1 - 0.35 * soft[..., None]


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0)
    x, y = int(columns[0]), int(rows[0])
    return (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)
