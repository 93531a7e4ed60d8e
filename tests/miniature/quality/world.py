"""A world of two concepts, boxes to mark them in scenes, and neuron tables by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pycocotools import mask as mask_tools

from mmn_utils.datasets.base import Instance
from mmn_utils.miniature.world import Background, Concept, World
from mmn_utils.neurons.table import neuron_table

SIDE = 40


def concept(name: str, plural: str, words: tuple[str, ...]) -> Concept:
    return Concept(name, plural, "a", "animal", ("1f40e",), None, words, ("red field",))


WORLD = World(
    (concept("horse", "horses", ("barn", "rides")), concept("dog", "dogs", ("water",))),
    (Background("grass", ("the field",)), Background("water", ("by water",))),
)
HORSE, DOG = WORLD.concepts


def instance(category: str, box: tuple[int, int, int, int]) -> Instance:
    """Annotate a box: left, top, right, bottom."""
    left, top, right, bottom = box
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    pixels[top:bottom, left:right] = 1
    area = float(pixels.sum())
    return Instance(category, "animal", area, False, (SIDE, SIDE), mask_tools.encode(pixels))


def tops(units: dict[str, tuple[str, list[tuple[int, int]]]]) -> pd.DataFrame:
    rows = [
        {"image": image, "target": noun, "token": 1, "layer": layer, "unit": unit, "patch": 0,
         "score": float(9 - i)}
        for image, (noun, pairs) in units.items() for i, (layer, unit) in enumerate(pairs)
    ]  # fmt: skip
    return neuron_table(rows)


TOPS = {
    "a": ("horse", [(0, 1), (1, 2)]),
    "b": ("horse", [(0, 1), (1, 3)]),
    "c": ("dog", [(2, 2), (1, 2)]),
    "d": ("dog", [(2, 2), (1, 2)]),
}
