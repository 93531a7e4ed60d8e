"""How the parts were trained, as the records beside their weights and the recipe say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import safe_open

from mmn_utils.miniature.vision.recipe import Recipe, Stage


def training(data: Path) -> dict[str, Any]:
    """Return what a page tells of the training of LiMBeR's parts; ``data`` is data/miniature.

    ``language`` and ``projection``: their options, as they were stored; ``recipe``: the encoder's,
    of which nothing else is stored; ``grid``: patches a side; ``shown``: image tokens that a step
    of the projection has; ``pace``: how many times as many scenes a second the encoder sees
    through windows as in whole, NaN where the curve does not say.
    """
    shape = json.loads((data / "vision.json").read_text(encoding="utf-8"))["architecture"]
    grid, projection = shape["img_size"] // shape["patch_size"], projection_options(data)
    return {
        "language": language_options(data),
        "projection": projection,
        "recipe": Recipe(),
        "grid": grid,
        "shown": (grid // projection["block"]) ** 2,
        "pace": pace(data / "training" / "vision.csv", Recipe().stages),
    }


def language_options(data: Path) -> dict[str, Any]:
    """Return the options of the language model's training."""
    path = data / "language_model" / "training.json"
    return json.loads(path.read_text(encoding="utf-8"))


def projection_options(data: Path) -> dict[str, Any]:
    """Return the options of the projection's training; ValueError where its weights have none."""
    path = data / "projection.safetensors"
    with safe_open(path, "pt") as stored:
        told = json.loads((stored.metadata() or {}).get("training", "null"))
    if told is None:
        raise ValueError(f"{path} does not say how it was trained; make it again: make miniature")
    return told


def pace(curve: Path, stages: tuple[Stage, ...]) -> float:
    """Return by how much faster the encoder went through windows than through whole scenes.

    The ratio of median speeds (pictures a second) of the points in each; NaN without a curve.
    """
    if not curve.is_file():
        return np.nan
    table, before, through = pd.read_csv(curve), 0, {True: [], False: []}
    for stage in stages:
        rows = table[table["stage"] == stage.name]
        for seen, speed in rows[["images", "images_per_second"]].to_numpy():
            through[stage.window_at(seen - before) is not None].append(speed)
        before += stage.images
    return float(_median(through[True]) / _median(through[False]))


def _median(values: list[float]) -> float:
    return np.median(values) if values else np.nan
