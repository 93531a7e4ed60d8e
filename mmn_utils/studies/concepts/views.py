"""Where the top neurons of concepts look, and what that overlaps (paper B, Table 1, 3.3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mmn_utils.measures.estimates import Estimate, frame_of, shares_of
from mmn_utils.neurons.decoding import Signed, signs_of
from mmn_utils.neurons.receptive_fields import (
    activation_maps,
    iou,
    mask,
    seen_picture,
    seen_truth,
    upsample,
)
from mmn_utils.neurons.table import RANDOM, TOP, Neuron, best_of, random_like
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.annotations import named_by
from mmn_utils.studies.concepts.specificity import read_at_steps
from mmn_utils.studies.subjects import Subjects

if TYPE_CHECKING:
    from mmn_utils.datasets import Photograph

PRINTED = "printed"  # the top neurons' activations without the sign
CONDITIONS = (TOP, RANDOM, PRINTED)


@dataclass(frozen=True)
class View:
    """A concept's picture as the encoder sees it, with a map and a mask for each k.

    ``maps`` (ks, H, W) float32, the mean signed activation of the top k; ``masks`` (ks, H, W) bool.
    ``truth`` (H, W) bool, the annotated objects that the concept names; None where it names none.
    """

    picture: Image.Image
    concept: str
    maps: np.ndarray
    masks: np.ndarray
    truth: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Views:
    """Some views to show, and how well the masks of all photographs overlap the objects named.

    ``overlap``: one row a photograph, a column for each (condition, k), IoU. Where the system
    has no grid, ``no_grid`` is the adapter's reason, and there is nothing else. No overlap
    either where no concept names an object with a mask.
    """

    shown: tuple[View, ...]
    overlap: pd.DataFrame | None
    no_grid: str | None = None

    def levels(self, seed: int = 0) -> dict[tuple[str, int], Estimate]:
        """Return the mean IoU of each (condition, k); none without masks."""
        return {} if self.overlap is None else shares_of(self.overlap, seed)

    @property
    def rows(self) -> pd.DataFrame:
        """The IoU of each photograph and k: image, k, top, random, printed; none without masks."""
        columns = ["image", "k", "top", RANDOM, PRINTED]
        if self.overlap is None:
            return pd.DataFrame(columns=columns)
        rows = self.overlap.stack("k").rename_axis(columns=None).reset_index()
        return rows.rename(columns={TOP: "top"})[columns]

    def summary(self, seed: int = 0) -> pd.DataFrame:
        """Lay the levels out, or say why there are none."""
        if self.no_grid is not None:
            return pd.DataFrame({"left out": [self.no_grid]})
        if self.overlap is None:
            return pd.DataFrame({"left out": ["no concept names an object with a mask"]})
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

    Each activation times its sign at the step that predicts the concept: high is where the neuron
    writes what it writes there. Maps of the photographs ``shown``; overlaps of ``some``, beside
    random units of the same layers (``focus_table``).
    """
    if model.no_grid is not None:
        return Views((), None, model.no_grid)
    looks = focus_table(model, some, table, ks, quantile=quantile, seed=seed)
    if looks.empty:
        return Views(tuple(_shown(model, shown, table, ks, quantile)), None)
    overlap = looks.groupby(["condition", "image", "k"])["iou"].mean().unstack(["condition", "k"])
    order = [(condition, k) for condition in CONDITIONS for k in ks]
    return Views(tuple(_shown(model, shown, table, ks, quantile)), overlap[order])


def _shown(model, shown: Subjects, table: pd.DataFrame, ks: Sequence[int], quantile: float):
    """Make the views of some photographs, concept by concept."""
    best = best_of(table, max(ks))
    for photograph, targets in zip(shown.photographs, shown.every, strict=True):
        picture = photograph.open()
        tops = signed_at_steps(model, picture, targets, [best[t.image, t.noun] for t in targets])
        maps = focus(model, picture, tops, ks, photograph.id)
        smooth = upsample(maps, model.image_tokens.pixels).cpu()
        cuts = mask(smooth, quantile)
        square = seen_picture(model, picture)
        for target, one, cut in zip(targets, smooth, cuts, strict=True):
            truth = object_mask(model, photograph, target.noun)
            truth = None if truth is None else truth.numpy()
            yield View(square, target.noun, one.numpy(), cut.numpy(), truth)


def signed_at_steps(
    model, picture, targets: Sequence[Target], lists: Sequence[Sequence[Neuron]]
) -> list[list[Signed]]:
    """Pair the neurons of each target's list with the sign of their activation at its step."""
    every = list(dict.fromkeys(neuron for some in lists for neuron in some))
    values, *_ = read_at_steps(model, [picture] * len(targets), targets, every)
    signs = signs_of(values.flatten().tolist()).reshape(values.shape)
    place = {neuron: i for i, neuron in enumerate(every)}
    return [
        [(neuron, int(signs[place[neuron], column])) for neuron in some]
        for column, some in enumerate(lists)
    ]


@torch.no_grad()
def focus(
    model, picture, lists: Sequence[Sequence[Signed]], ks: Sequence[int], name: str = ""
) -> torch.Tensor:
    """Average the activations of the first k neurons of each list: (lists, ks, h, w) float32.

    Each times its sign. One pass serves all. ValueError for a model without a grid, for too
    short a list, and as ``activation_maps``, whose errors call the picture by ``name``.
    """
    model.require_grid()
    shortest = min(map(len, lists))
    if shortest < max(ks):
        raise ValueError(f"{shortest} neurons are scored, {max(ks)} are asked; score with more")
    every = list(dict.fromkeys(neuron for some in lists for neuron, _ in some[: max(ks)]))
    place = {neuron: i for i, neuron in enumerate(every)}
    maps = activation_maps(model, [picture], every, [name] if name else ())[0]
    rows = []
    for some in lists:
        neurons, signs = zip(*some[: max(ks)], strict=True)
        own = maps[[place[n] for n in neurons]] * maps.new_tensor(signs)[:, None, None]
        rows.append(torch.stack([own[:k].mean(0) for k in ks]))
    return torch.stack(rows)


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
    all objects of that name: ``multimodal`` and ``random`` units of the same layers, each with
    the sign of its own activation at the concept's step, and the top units as ``printed``,
    without. Only concepts that name an annotated object have rows. ValueError without a grid.
    """
    model.require_grid()
    rng, rows, best = np.random.default_rng(seed), [], best_of(table, max(ks))
    for photograph, targets in zip(some.photographs, some.every, strict=True):
        truths = {t.noun: object_mask(model, photograph, t.noun) for t in targets}
        named = [target for target in targets if truths[target.noun] is not None]
        if not named:
            continue
        picture = photograph.open()
        tops = [best[target.image, target.noun] for target in named]
        drawn = [random_like(top, model.sizes.units, rng) for top in tops]
        lists = signed_at_steps(model, picture, [*named, *named], [*tops, *drawn])
        lists += [[(neuron, 1) for neuron in top] for top in tops]
        maps = focus(model, picture, lists, ks, photograph.id)
        masks = mask(upsample(maps, model.image_tokens.pixels), quantile).cpu()
        pairs = [(condition, target.noun) for condition in CONDITIONS for target in named]
        for (condition, noun), cuts in zip(pairs, masks, strict=True):
            found = zip(ks, iou(cuts, truths[noun]).tolist(), strict=True)
            rows += [(photograph.id, noun, condition, k, value) for k, value in found]
    return pd.DataFrame(rows, columns=["image", "target", "condition", "k", "iou"])


def object_mask(model, photograph: Photograph, noun: str) -> torch.Tensor | None:
    """Join the masks of the objects that a noun names, in the encoder's square: bool (H, W).

    None where the noun names none, or where they vanish at that size.
    """
    masks = [seen_truth(model, one.mask) for one in named_by(photograph, noun)]
    truth = torch.stack(masks).any(0) if masks else None
    return truth if truth is not None and truth.any() else None
