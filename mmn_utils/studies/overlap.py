"""Receptive fields against the masks of objects (paper A, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from mmn_utils.datasets import Photograph
from mmn_utils.neurons.receptive_fields import (
    QUANTILE,
    activation_maps,
    dataset_thresholds,
    iou,
    mask,
    resize_truth,
    upsample,
)
from mmn_utils.neurons.table import RANDOM, TOP, Neuron
from mmn_utils.studies.store import digest, per_photograph

MEAN_MASK = -1  # rank of the mask cut from the mean map of all units
IOU_COLUMNS = ["category", "condition", "rank", "layer", "unit", "iou"]


@dataclass(frozen=True)
class Cut:
    """How a map becomes a mask: at its own quantile, or at each unit's over a data set."""

    quantile: float = QUANTILE
    thresholds: Mapping[Neuron, float] | None = None

    def masks(self, maps: torch.Tensor, neurons: Sequence[Neuron] | None) -> torch.Tensor:
        """Cut upsampled maps (N, H, W) of these neurons; without neurons, at their own quantile."""
        if self.thresholds is None or neurons is None:
            return mask(maps, self.quantile)
        levels = torch.tensor([self.thresholds[neuron] for neuron in neurons])
        return mask(maps, thresholds=levels)


def iou_table(
    model,
    photographs: Sequence[Photograph],
    objects: Mapping[str, Sequence[str]],
    neurons: Mapping[str, Mapping[str, Sequence[Neuron]]],
    *,
    cut: Cut | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare receptive fields with instance masks (paper A, section 3.2), computed or loaded.

    ``objects`` gives each image's categories, ``neurons`` its conditions' neurons. One row
    per (image, category, condition, rank): layer, unit, and iou float32 on the model's
    pixels. Rank ``MEAN_MASK`` is the mask of the mean of the condition's maps, at its own
    quantile. An object too small to be left on the model's pixels has no rows.
    """
    cut = cut or Cut()

    def compute(places: list[int]) -> pd.DataFrame:
        chosen = [photographs[place] for place in places]
        sets = [neurons[photograph.id] for photograph in chosen]
        every = sorted({n for conditions in sets for some in conditions.values() for n in some})
        fields = activation_maps(model, [p.open() for p in chosen], every)
        place = {neuron: i for i, neuron in enumerate(every)}
        rows = []
        for photograph, conditions, field in zip(chosen, sets, fields, strict=True):
            for condition, some in conditions.items():
                maps = field[[place[neuron] for neuron in some]]
                masks = masks_with_mean(model, maps, some, cut)
                rows += _against(model, photograph, objects, condition, some, masks)
        return pd.DataFrame(rows, columns=["image", *IOU_COLUMNS])

    asked = {"quantile": cut.quantile, "seen": digest(objects, neurons, cut)}
    return per_photograph(
        "iou", model, photographs, compute, asked,
        batch_size=batch_size, progress=progress, empty_ok=True,
    )  # fmt: skip


def masks_with_mean(model, maps: torch.Tensor, neurons: Sequence[Neuron], cut: Cut) -> torch.Tensor:
    """Cut the neurons' maps (N, h, w) and, last, their mean: bool (N + 1, H, W).

    On the model's pixels. The mean has no threshold of its own over a data set, so it is
    always cut at its own quantile.
    """
    size = model.image_tokens.pixels
    single = cut.masks(upsample(maps, size), neurons)
    mean = cut.masks(upsample(maps.mean(0, keepdim=True), size), None)
    return torch.cat([single, mean])


def _against(model, photograph, objects, condition, neurons, masks) -> list[tuple]:
    """Compare one condition's masks with each object of one photograph."""
    rows = []
    for category in objects[photograph.id]:
        truth = resize_truth(photograph.mask(category), model.image_tokens.pixels)
        if not truth.any():
            continue
        values = iou(masks, truth).tolist()
        ranks = [*range(len(neurons)), MEAN_MASK]
        addresses = [*((n.layer, n.unit) for n in neurons), (-1, -1)]
        rows += [
            (photograph.id, category, condition, rank, *address, value)
            for rank, address, value in zip(ranks, addresses, values, strict=True)
        ]
    return rows


def unit_thresholds(
    model,
    photographs: Sequence[Photograph],
    neurons: Iterable[Neuron],
    quantile: float = QUANTILE,
    *,
    batch_size: int = 8,
    at_once: int = 512,
) -> dict[Neuron, float]:
    """Take each neuron's quantile over all patches of all photographs, as network dissection does.

    ``at_once`` neurons are held together, each for (photographs, h, w).
    """
    neurons, levels = sorted(set(neurons)), {}
    for start in range(0, len(neurons), at_once):
        some = neurons[start : start + at_once]
        parts = [
            activation_maps(model, [p.open() for p in photographs[i : i + batch_size]], some).cpu()
            for i in range(0, len(photographs), batch_size)
        ]
        found = dataset_thresholds(torch.cat(parts), quantile).tolist()
        levels.update(zip(some, found, strict=True))
    return levels


def iou_by_image(table: pd.DataFrame, mean_mask: bool = False) -> pd.DataFrame:
    """Average an IoU table over units: one row per (category, image), a column per condition.

    ``mean_mask`` takes the mask of the mean map instead of the mean over single masks.
    """
    rows = table[(table["rank"] == MEAN_MASK) == mean_mask]
    means = rows.groupby(["category", "image", "condition"], sort=False)["iou"].mean()
    return means.unstack("condition")[[TOP, RANDOM]].reset_index().rename_axis(columns=None)
