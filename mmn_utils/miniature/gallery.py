"""Scenes to look at: one for each ground, mistakes, and what the held-out scenes are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.datasets import CocoDataset, Photograph
from mmn_utils.datasets.base import draw
from mmn_utils.miniature.quality.cards import background_of
from mmn_utils.miniature.world import World
from mmn_utils.neurons.receptive_fields import QUANTILE

KEPT = 1 - QUANTILE  # of the pixels, by paper A's masks
MOST_THINGS = 3  # in one scene


# --- one for each ground ----------------------------------------------------------------


def held_out(dataset: CocoDataset, world: World, seed: int) -> list[Photograph]:
    """Choose a scene for each ground, with one, two, three things in turn."""
    pool = dataset.sample(len(dataset), seed)
    grounds = enumerate(world.backgrounds)
    return [_first_on(pool, world, g.name, 1 + i % MOST_THINGS) for i, g in grounds]


def strange(scenes: Sequence[Photograph], world: World, seed: int) -> list[Photograph]:
    """Choose one for each ground of the scenes of looks that were never trained on."""
    pool = draw(scenes, len(scenes), seed, "scenes")
    return [_first_on(pool, world, ground.name) for ground in world.backgrounds]


def _first_on(
    pool: Sequence[Photograph], world: World, ground: str, things: int | None = None
) -> Photograph:
    """Find the first scene on a ground, with that many things in it; ValueError without one."""
    for scene in pool:
        if things in (None, len(scene.instances)) and background_of(scene, world) == ground:
            return scene
    wanted = "" if things is None else f" with {things} things"
    raise ValueError(f"none of the {len(pool)} scenes is on the {ground}{wanted}; draw more")


def listed(rows: Mapping[str, Sequence[Photograph]]) -> pd.DataFrame:
    """List scenes by the row of the figure that they are in: scene, row, objects, caption."""
    found = [
        (scene.id, row, ", ".join(one.category for one in scene.instances), scene.captions[0])
        for row, scenes in rows.items()
        for scene in scenes
    ]
    return pd.DataFrame(found, columns=["scene", "row", "objects", "caption"])


# --- all of them ------------------------------------------------------------------------


def census(dataset: CocoDataset, world: World) -> dict[str, Any]:
    """Count what scenes show.

    ``scenes``, ``objects``; ``shares`` of the scenes by their number of objects; ``covered``, the
    mean share of a picture that an object covers; ``blind``, how often a blind guess would name a
    thing that is there; ``kept``, the share of pixels that a mask keeps whatever the object's
    size, and ``best_iou``, what a perfect unit's mask would reach with it; ``looks``, how many
    concepts have a look that was never trained on.
    """
    counts = pd.Series([len(scene.instances) for scene in dataset])
    covered = np.array([_covered(scene) for scene in dataset])
    return {
        "scenes": len(dataset),
        "objects": int(counts.sum()),
        "shares": counts.value_counts(normalize=True).sort_index().to_dict(),
        "covered": covered.mean(),
        "blind": counts.mean() / len(world.concepts),
        "kept": KEPT,
        "best_iou": np.mean(np.minimum(covered, KEPT) / np.maximum(covered, KEPT)),
        "looks": len(world.with_look(held_out=True)),
    }


def _covered(scene: Photograph) -> float:
    """Return the mean share of a scene that one of its objects covers."""
    return np.mean([thing.area for thing in scene.instances]) / (scene.size[0] * scene.size[1])


# --- right and wrong --------------------------------------------------------------------


def examples(captions: pd.DataFrame, rng: np.random.Generator, each: int = 6) -> pd.DataFrame:
    """Draw captions whose first noun is in the scene, then some whose first noun is not.

    ``captions`` as from ``caption_quality``; at most ``each`` of either kind.
    """
    groups = [captions["image"][captions["right"] == truth] for truth in (True, False)]
    drawn = [str(image) for group in groups for image in rng.permutation(list(group))[:each]]
    return captions.set_index("image").loc[drawn].reset_index()


def confusions(captions: pd.DataFrame, dataset: CocoDataset, world: World) -> pd.DataFrame:
    """List the wrong first nouns: there (the largest object), named, and whether of one kind."""
    wrong = captions[~captions["right"]]
    kind = kinds(world)
    scenes = [dataset.by_id(image) for image in wrong["image"]]
    largest = [max(scene.instances, key=lambda thing: thing.area).category for scene in scenes]
    pairs = list(zip(largest, wrong["noun"], strict=True))
    same = [kind.get(there) == kind.get(named) for there, named in pairs]
    return pd.DataFrame(pairs, columns=["there", "named"]).assign(**{"same kind": same})


def most_frequent(confusions: pd.DataFrame, rows: int = 10) -> pd.DataFrame:
    """Count the confusions, the most frequent first, ties in the order of the alphabet."""
    counts = confusions.value_counts().rename("scenes").reset_index()
    order = {"by": ["scenes", "there", "named"], "ascending": [False, True, True]}
    return counts.sort_values(**order, ignore_index=True).head(rows)


def mistakes(
    captions: pd.DataFrame, confusions: pd.DataFrame, dataset: CocoDataset, world: World
) -> dict[str, float]:
    """Sum mistakes up.

    ``wrong`` of ``captions``; ``same_kind``, the share of them that name a thing of the right
    kind, and ``blind``, the share by blind guesses; ``unnamed``, those that name no concept;
    ``doubled``, of scenes with several things, the share told with one thing twice.
    """
    of_kind = pd.Series(kinds(world))[list(world.names)].value_counts(normalize=True)
    several = captions["image"].map(lambda image: len(dataset.by_id(image).instances) > 1)
    return {
        "captions": len(captions),
        "wrong": len(confusions),
        "same_kind": confusions["same kind"].mean() if len(confusions) else np.nan,
        "blind": (of_kind**2).sum(),
        "unnamed": int((~confusions["named"].isin(kinds(world))).sum()),
        "doubled": captions.loc[several, "twice"].mean() if several.any() else 0.0,
    }


def kinds(world: World) -> dict[str, str]:
    """Map the words of concepts, singular and plural, to their kind."""
    return {word: c.supercategory for c in world.concepts for word in (c.name, c.plural)}
