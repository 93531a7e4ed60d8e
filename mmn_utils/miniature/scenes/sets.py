"""Many scenes as arrays, to train and probe on: rendered once and kept in a cache folder."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mmn_utils.cache import locked
from mmn_utils.miniature import phrases
from mmn_utils.miniature.scenes import GRID, PATCH, SIZE, TRAIN_SEED
from mmn_utils.miniature.scenes.composition import OBJECT_SIZES, Scene, make_scene
from mmn_utils.miniature.scenes.sprites import COLOURS, SHOWN, find_font
from mmn_utils.miniature.world import World

MIXED_PATCH = -2
BACKGROUND_PATCH = -1


@dataclass(frozen=True)
class SceneSet:
    """Many rendered scenes and what is in them, as arrays.

    ``images`` (N, 112, 112, 3) uint8; ``concepts`` (N, 3) int8, category numbers
    with the largest object first, -1 where there is none; ``backgrounds`` (N,)
    int8; ``patch_concepts`` (N, 196) int8: the category that covers most of the
    patch, ``BACKGROUND_PATCH`` or ``MIXED_PATCH``.
    """

    images: np.ndarray
    concepts: np.ndarray
    backgrounds: np.ndarray
    patch_concepts: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int | None) -> SceneSet:
        """Return the set of the first ``count`` scenes, or all of them."""
        return SceneSet(**{f.name: getattr(self, f.name)[:count] for f in fields(self)})

    def captions(self, index: int, world: World) -> tuple[str, ...]:
        """Return five captions of one scene."""
        concepts = [world.concepts[c] for c in self.concepts[index] if c >= 0]
        return phrases.captions(concepts, world.backgrounds[self.backgrounds[index]].name)


def rendered_scenes(
    cache: Path,
    world: World,
    count: int,
    first_seed: int = TRAIN_SEED,
    font: str | Path | None = None,
    workers: int = 2,
    colours: str = SHOWN,
) -> SceneSet:
    """Return the scenes of consecutive seeds, rendered once and kept in a cache folder."""
    folder = cache / f"scenes_{first_seed}_{count}_{_fingerprint(world, colours)}"
    if not folder.is_dir():
        font = find_font(font)
        with locked(cache):  # of two trainings that need the same scenes, one renders them
            if not folder.is_dir():
                _render(folder, world, count, first_seed, font, workers, colours)
    return SceneSet(**_open_arrays(folder, "r"))


def _fingerprint(world: World, colours: str) -> str:
    """Return a short digest of everything in the world that shows in pictures."""
    facts = [(c.name, c.looks) for c in world.concepts] + [b.name for b in world.backgrounds]
    return sha256(repr((facts, COLOURS[colours])).encode()).hexdigest()[:8]


_FIELDS = {
    "images": ((SIZE, SIZE, 3), np.uint8),
    "concepts": ((3,), np.int8),
    "backgrounds": ((), np.int8),
    "patch_concepts": ((GRID * GRID,), np.int8),
}


def _open_arrays(folder: Path, mode: str) -> dict[str, np.ndarray]:
    return {name: np.load(folder / f"{name}.npy", mmap_mode=mode) for name in _FIELDS}


def _render(
    folder: Path,
    world: World,
    count: int,
    first_seed: int,
    font: Path,
    workers: int,
    colours: str,
) -> None:
    """Render scenes in several processes into a new folder, complete or not at all."""
    partial_folder = folder.with_suffix(".partial")
    partial_folder.mkdir(parents=True, exist_ok=True)
    for name, (shape, dtype) in _FIELDS.items():
        np.lib.format.open_memmap(partial_folder / f"{name}.npy", "w+", dtype, (count, *shape))
    shards = [range(start, min(start + 500, count)) for start in range(0, count, 500)]
    job = partial(
        _render_shard,
        folder=partial_folder,
        first_seed=first_seed,
        world=world,
        font=font,
        colours=colours,
    )
    done = 0
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for made in pool.map(job, shards):
            done += made
            print(f"rendered {done}/{count} scenes", flush=True)
    partial_folder.rename(folder)


def _render_shard(
    span: range, folder: Path, first_seed: int, world: World, font: Path, colours: str
) -> int:
    """Render the scenes of a span into the arrays of a folder; return how many."""
    arrays = _open_arrays(folder, "r+")
    for row in span:
        values = _scene_rows(first_seed + row, world, font, colours)
        for name, value in zip(_FIELDS, values, strict=True):
            arrays[name][row] = value
    return len(span)


def _scene_rows(seed: int, world: World, font: Path, colours: str) -> tuple[np.ndarray, ...]:
    """Return one scene as the rows of a ``SceneSet``, in the order of its fields."""
    scene = make_scene(seed, world, font=font, colours=colours)
    concepts = np.full(max(OBJECT_SIZES), -1, dtype=np.int8)
    concepts[: len(scene.names)] = [world.names.index(name) for name in scene.names]
    grounds = [ground.name for ground in world.backgrounds]
    ground = np.int8(grounds.index(scene.background))
    return scene.image, concepts, ground, patch_concepts(scene, world)


# --- patches ----------------------------------------------------------------------------


def patch_concepts(scene: Scene, world: World, most: float = 0.6) -> np.ndarray:
    """Return the category number of each patch (196,) int8; see ``SceneSet``."""
    labels = np.full(GRID * GRID, MIXED_PATCH, dtype=np.int8)
    shares = [coverage(thing.mask) for thing in scene.objects]
    labels[np.sum(shares, axis=0) == 0] = BACKGROUND_PATCH
    for thing, share in zip(scene.objects, shares, strict=True):
        labels[share >= most] = world.names.index(thing.concept)
    return labels


def coverage(mask: np.ndarray) -> np.ndarray:
    """Return the share of each patch that a mask (112, 112) covers, as (196,)."""
    return mask.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3)).reshape(-1)
