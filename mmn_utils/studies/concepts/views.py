"""Where the top neurons of concepts look, and what that overlaps (paper B, Table 1, 3.3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mmn_utils.measures.estimates import Estimate, difference_of, frame_of, means_of
from mmn_utils.neurons.receptive_fields import activation_maps, iou, mask, resize_truth, upsample
from mmn_utils.neurons.table import Neuron, best_of, random_like
from mmn_utils.studies.annotations import named_by
from mmn_utils.studies.subjects import Subjects

if TYPE_CHECKING:
    from mmn_utils.datasets import Photograph

CONDITIONS = ("multimodal", "random")


@dataclass(frozen=True)
class View:
    """A concept's picture as the encoder sees it, with a map and a mask for each k.

    ``maps`` (ks, H, W) float32, the mean activation of the top k; ``masks`` (ks, H, W) bool.
    """

    picture: Image.Image
    concept: str
    maps: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True, eq=False)
class Views:
    """Some views to show, and how well the masks of all photographs overlap the objects named.

    ``overlap``: one row a photograph, a column for each (condition, k), IoU. Where the system
    has no grid, ``no_grid`` is the adapter's reason, and there is nothing else.
    """

    shown: tuple[View, ...]
    overlap: pd.DataFrame | None
    no_grid: str | None = None

    def levels(self, seed: int = 0) -> dict[tuple[str, int], Estimate]:
        """Return the mean IoU of each (condition, k); none without a grid."""
        return {} if self.overlap is None else means_of(self.overlap, seed)

    def gap(self, k: int, seed: int = 0) -> Estimate | None:
        """Return how much more top-``k`` masks overlap than random ones; None without a grid."""
        if self.overlap is None:
            return None
        top, random = (self.overlap[condition, k] for condition in CONDITIONS)
        return difference_of(top, random, seed)

    def numbers(self, seed: int = 0) -> pd.DataFrame:
        """Lay the levels out, or say why there are none."""
        if self.no_grid is not None:
            return pd.DataFrame({"left out": [self.no_grid]})
        return frame_of(self.levels(seed), ["condition", "k"], "IoU")


def views(
    model,
    some: Subjects,
    shown: Subjects,
    table: pd.DataFrame,
    ks: Sequence[int],
    *,
    quantile: float = 0.95,
    seed: int = 0,
) -> Views:
    """Average the activations of each concept's top-k neurons at the image tokens, and cut masks.

    Maps of the photographs ``shown``; overlaps of ``some``, beside random units of the same
    layers (``focus_table``). ValueError where no concept names an annotated object.
    """
    reason = why_no_grid(model)
    if reason is not None:
        return Views((), None, reason)
    looks = focus_table(model, some, table, ks, quantile=quantile, seed=seed)
    if looks.empty:
        raise ValueError("no concept names an annotated object; take more photographs")
    overlap = looks.groupby(["condition", "image", "k"])["iou"].mean().unstack(["condition", "k"])
    order = [(condition, k) for condition in CONDITIONS for k in ks]
    return Views(tuple(_shown(model, shown, table, ks, quantile)), overlap[order])


def _shown(model, shown: Subjects, table: pd.DataFrame, ks: Sequence[int], quantile: float):
    """Make the views of some photographs, concept by concept."""
    best = best_of(table, max(ks))
    for photograph, targets in zip(shown.photographs, shown.every, strict=True):
        picture = photograph.open()
        maps = focus(model, picture, [best[t.image, t.noun] for t in targets], ks)
        smooth = upsample(maps, model.image_tokens.pixels).cpu()
        cuts = mask(smooth, quantile)
        square = seen(model, picture)
        for target, one, cut in zip(targets, smooth, cuts, strict=True):
            yield View(square, target.noun, one.numpy(), cut.numpy())


def why_no_grid(model) -> str | None:
    """Return the adapter's reason why there are no heat maps; None where there are."""
    try:
        model.require_grid()
    except ValueError as error:
        return str(error)
    return None


@torch.no_grad()
def focus(model, picture, lists: Sequence[Sequence[Neuron]], ks: Sequence[int]) -> torch.Tensor:
    """Average the activations of the first k neurons of each list: (lists, ks, h, w) float32.

    One pass serves all. ValueError for a model without a grid and for too short a list.
    """
    model.require_grid()
    shortest = min(map(len, lists))
    if shortest < max(ks):
        raise ValueError(f"{shortest} neurons are scored, {max(ks)} are asked; score with more")
    every = list(dict.fromkeys(neuron for some in lists for neuron in some[: max(ks)]))
    place = {neuron: i for i, neuron in enumerate(every)}
    maps = activation_maps(model, [picture], every)[0]
    rows = [[maps[[place[n] for n in some[:k]]].mean(0) for k in ks] for some in lists]
    return torch.stack([torch.stack(row) for row in rows])


def focus_table(
    model,
    some: Subjects,
    table: pd.DataFrame,
    ks: Sequence[int],
    *,
    quantile: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare masks of top-k neurons with the objects that concepts name (paper B, 3.3.1).

    One row per (image, target, condition, k) with the IoU of the mask of the mean map and
    all objects of that name: ``multimodal`` and ``random`` units of the same layers. Only
    concepts that name an annotated object have rows. ValueError without a grid.
    """
    model.require_grid()
    rng, rows, best = np.random.default_rng(seed), [], best_of(table, max(ks))
    for photograph, targets in zip(some.photographs, some.every, strict=True):
        truths = {t.noun: object_mask(model, photograph, t.noun) for t in targets}
        nouns = [noun for noun, truth in truths.items() if truth is not None]
        if not nouns:
            continue
        tops = [best[photograph.id, noun] for noun in nouns]
        drawn = [random_like(top, model.sizes.units, rng) for top in tops]
        maps = focus(model, photograph.open(), [*tops, *drawn], ks)
        masks = mask(upsample(maps, model.image_tokens.pixels), quantile).cpu()
        conditions = ["multimodal"] * len(nouns) + ["random"] * len(nouns)
        for noun, condition, cuts in zip(nouns * 2, conditions, masks, strict=True):
            found = zip(ks, iou(cuts, truths[noun]).tolist(), strict=True)
            rows += [(photograph.id, noun, condition, k, value) for k, value in found]
    return pd.DataFrame(rows, columns=["image", "target", "condition", "k", "iou"])


def object_mask(model, photograph: Photograph, noun: str) -> torch.Tensor | None:
    """Join the masks of the objects that a noun names, in the encoder's square: bool (H, W).

    None where the noun names none, or where they vanish at that size.
    """
    masks = [
        resize_truth(_cut(model, one.mask), model.image_tokens.pixels)
        for one in named_by(photograph, noun)
    ]
    truth = torch.stack(masks).any(0) if masks else None
    return truth if truth is not None and truth.any() else None


def seen(model, picture: Image.Image) -> Image.Image:
    """Return the part of a picture that the encoder sees, which heat maps lie over."""
    return Image.fromarray(_cut(model, np.asarray(picture.convert("RGB"))))


def _cut(model, field: np.ndarray) -> np.ndarray:
    """Cut the middle square out of a field (h, w, ...) where the adapter does, else keep it."""
    if getattr(getattr(model, "facts", None), "fit", "square") != "crop":
        return field
    height, width = field.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return field[top : top + side, left : left + side]
