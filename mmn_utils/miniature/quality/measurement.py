"""All that is measured of a system and its controls, scene by scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from mmn_utils.datasets.base import Photograph
from mmn_utils.miniature.quality.captions import caption_quality
from mmn_utils.miniature.quality.patches import patch_quality
from mmn_utils.miniature.quality.units import unit_quality
from mmn_utils.miniature.world import World
from mmn_utils.studies.subjects import subjects

CONTROLS = {
    "untrained encoder": "miniature/untrained-encoder",
    "untrained projection": "miniature/untrained-projection",
}
# Scenes of glyphs that neither encoder nor projection was trained on: all of them unlike those that
# were, or some of them nearly alike (``looks.split``).
LOOKS = "looks never seen"
ALIKE = "looks like trained ones"


@dataclass(frozen=True)
class Quality:
    """What was measured, scene by scene.

    Attributes:
        captions: by system, one row a scene, as from ``caption_quality``.
        units: one row a scene with a target, as from ``unit_quality``.
        tops: by ``rank_by`` (max, sum) the neuron table of each scene's top units.
        patches: one row a scene, as from ``patch_quality``.
        layers: layers of the language model.
    """

    captions: dict[str, pd.DataFrame]
    units: pd.DataFrame
    tops: dict[str, pd.DataFrame]
    patches: pd.DataFrame
    layers: int


def measure(
    model,
    photographs: Sequence[Photograph],
    world: World,
    *,
    others: Mapping[str, tuple[object, Sequence[Photograph]]] | None = None,
    n_analyses: int | None = None,
    seed: int = 0,
) -> Quality:
    """Measure a system on held-out scenes.

    Captions on all ``photographs``; the costlier analyses on the first ``n_analyses`` (None:
    on all). ``others``: the controls, and the scenes of ``LOOKS`` and ``ALIKE``, each with its
    model and its scenes, of which only captions are made.
    """
    if not len(photographs):
        raise ValueError("no photographs to measure on; give some held-out scenes")
    captions = {"trained": caption_quality(model, photographs, world)}
    for name, (other, scenes) in (others or {}).items():
        captions[name] = caption_quality(other, scenes, world)
    few = photographs[:n_analyses]
    units, tops = unit_quality(model, subjects(model, few), world, seed)
    patches = patch_quality(model, few, world, seed)
    return Quality(captions, units, tops, patches, model.sizes.layers)
