"""Receptive fields against the masks of objects (paper A, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mmn_utils.datasets import Photograph
from mmn_utils.datasets.published import published
from mmn_utils.measures.estimates import difference_of, share_of
from mmn_utils.memory import in_batches
from mmn_utils.neurons.receptive_fields import (
    QUANTILE,
    activation_maps,
    dataset_thresholds,
    iou,
    mask,
    seen_part,
    seen_picture,
    seen_truth,
    upsample,
)
from mmn_utils.neurons.table import RANDOM, TOP, Neuron, address
from mmn_utils.neurons.text import same_word
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
        fields = activation_maps(model, [p.open() for p in chosen], every, [p.id for p in chosen])
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
        truth = seen_truth(model, photograph.mask(category))
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

        def compute(few: Sequence[Photograph], some=some) -> torch.Tensor:
            names = [one.id for one in few]
            return activation_maps(model, [one.open() for one in few], some, names).cpu()

        parts = in_batches(compute, photographs, batch_size)
        found = dataset_thresholds(torch.cat(parts), quantile).tolist()
        levels.update(zip(some, found, strict=True))
    return levels


def cut_over(
    over: str,
    model,
    photographs: Sequence[Photograph],
    chosen: Iterable[Mapping[str, Sequence[Neuron]]],
    quantile: float = QUANTILE,
) -> Cut:
    """Choose how maps are cut: at the quantile of each ``map``, or of each neuron's ``dataset``.

    The data set are the ``photographs``, the neurons those of ``chosen``, which has a list for
    each condition.
    """
    if over not in ("map", "dataset"):
        raise ValueError(f"mask_over={over!r}: give 'map' or 'dataset'")
    if over == "map":
        return Cut(quantile)
    every = [neuron for conditions in chosen for some in conditions.values() for neuron in some]
    return Cut(quantile, unit_thresholds(model, photographs, every, quantile))


def iou_by_image(table: pd.DataFrame, mean_mask: bool = False) -> pd.DataFrame:
    """Average an IoU table over units: one row per (category, image), a column per condition.

    ``mean_mask`` takes the mask of the mean map instead of the mean over single masks.
    """
    rows = table[(table["rank"] == MEAN_MASK) == mean_mask]
    means = rows.groupby(["category", "image", "condition"], sort=False)["iou"].mean()
    return means.unstack("condition")[[TOP, RANDOM]].reset_index().rename_axis(columns=None)


def by_picture(table: pd.DataFrame) -> pd.DataFrame:
    """Average a table of ``iou_by_image`` over each image's objects: a row per image.

    What claims count as one case; a column that is true or false becomes a share.
    """
    return table.groupby("image", sort=False).mean(numeric_only=True)


def add_named(table: pd.DataFrame, noun_of: Mapping[str, str]) -> pd.DataFrame:
    """Add ``named``: whether the noun of the image's caption is the category."""
    pairs = zip(table["image"], table["category"], strict=True)
    return table.assign(named=[same_word(noun_of[image], name) for image, name in pairs])


def mask_rows(single: pd.DataFrame, mean_mask: pd.DataFrame) -> pd.DataFrame:
    """Lay the overlaps of mean masks and of single ones out, a row per (category, image).

    ``top`` and ``random`` of the mask of the mean, ``single_top`` and ``single_random`` the
    average of single units' masks; both given as from ``iou_by_image``.
    """
    names = {TOP: "single_top", RANDOM: "single_random"}
    keys, beside = ["category", "image"], single.rename(columns=names)
    mean = mean_mask.rename(columns={TOP: "top"})
    return mean.merge(beside[[*keys, *names.values()]], on=keys, validate="one_to_one")


def best_possible(
    model, photographs: Sequence[Photograph], table: pd.DataFrame, cut: Cut
) -> pd.Series:
    """Say of each row of ``iou_by_image`` which IoU no mask of the size that is cut can exceed.

    A mask that covers c of what the model sees and an object that fills f of it have at most
    min(c, f) / max(c, f). NaN where masks are cut at thresholds over a data set and have any size.
    """
    if cut.thresholds is not None:
        return pd.Series(np.nan, table.index)
    place = {photograph.id: photograph for photograph in photographs}
    pairs = zip(table["image"], table["category"], strict=True)
    masks = (seen_part(model, place[image].mask(category)) for image, category in pairs)
    filled = np.array([one.mean() for one in masks])
    covered = 1 - cut.quantile
    return pd.Series(np.minimum(filled, covered) / np.maximum(filled, covered), table.index)


# --- Figure 5 ---------------------------------------------------------------------------


def by_category(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Average a table of ``iou_by_image`` over each category's images, the largest first.

    One row per category: ``pictures``, ``difference`` of top and random units and its
    ``difference low``, and each condition with its ``low`` and ``high``; the mean of ``possible``,
    where the table has it.
    """
    rows = []
    for category, some in table.groupby("category"):
        gap = difference_of(some[TOP], some[RANDOM], seed)
        row = {"category": category, "pictures": gap.n}
        row |= {"difference": gap.value, "difference low": gap.low}
        for name in (TOP, RANDOM):
            mean = share_of(some[name], seed)
            row |= {name: mean.value, f"{name} low": mean.low, f"{name} high": mean.high}
        rows.append(row | ({"possible": some["possible"].mean()} if "possible" in some else {}))
    return pd.DataFrame(rows).sort_values(TOP, ascending=False, ignore_index=True)


# --- Figure S.1 -------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A picture with an object and masks (paper A, Figure S.1).

    ``picture`` is what the model sees of it, ``truth`` bool (h, w) over that; ``masks`` bool
    (n, H, W), first the one of the mean of all units, last that of the mean of as many random
    ones, each with its name and its overlap.
    """

    category: str
    picture: Image.Image
    truth: np.ndarray
    masks: np.ndarray
    names: list[str]
    ious: list[float]


def first_of_each(
    table: pd.DataFrame, members: Mapping[str, Sequence[str]], n: int
) -> dict[str, str]:
    """Choose an image for each of the first ``n`` categories of ``members``: {image: category}.

    The first of each whose caption names the object, or else the first; an image stands for
    the category that it names. ``table`` of ``iou_by_image`` with ``named``.
    """
    ordered = table.sort_values("named", ascending=False, kind="stable").drop_duplicates("image")
    first = ordered.groupby("category")["image"].first()
    chosen = {first[category]: category for category in members if category in first}
    return dict(list(chosen.items())[:n])


def example(
    model,
    photograph: Photograph,
    category: str,
    neurons: Mapping[str, Sequence[Neuron]],
    overlaps: pd.DataFrame,
    n: int,
    cut: Cut | None = None,
) -> Example:
    """Show the masks of a photograph's first ``n`` neurons and of the mean of all of them.

    ``neurons`` of each condition; of random ones the mask of the mean alone, last. With their
    overlaps from a table of ``iou_table``, NaN where it has none.
    """
    picture, shown = photograph.open(), {TOP: n, RANDOM: 0}
    masks, names, ious = [], [], []
    rows = overlaps[(overlaps["image"] == photograph.id) & (overlaps["category"] == category)]
    for condition, count in shown.items():
        some = neurons[condition]
        maps = activation_maps(model, [picture], some, [photograph.id])[0]
        ranks = [MEAN_MASK, *range(len(some[:count]))]
        masks.append(masks_with_mean(model, maps, some, cut or Cut()).cpu().numpy()[ranks])
        what = "random" if condition == RANDOM else "top"
        names += [f"mean of {len(some)}\n{what} units", *(address(model, n) for n in some[:count])]
        iou_of = rows[rows["condition"] == condition].set_index("rank")["iou"]
        ious += [float(iou_of.get(rank, np.nan)) for rank in ranks]
    shown = seen_picture(model, picture), seen_part(model, photograph.mask(category))
    return Example(category, *shown, np.concatenate(masks), names, ious)


def published_overlap() -> dict[str, float]:
    """Average the overlaps that Figure S.1 prints, of ``mean`` masks and of ``single`` ones."""
    table = published("A-fig-S1")
    kind = np.where(table["mask"].str.startswith("mean"), "mean", "single")
    return pd.to_numeric(table["iou"]).groupby(kind).mean().to_dict()
