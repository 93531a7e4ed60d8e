"""Where the top neurons of concepts look: pictures for paper B's Table 1, and what they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from mmn_utils.measures.estimates import Estimate, difference_of, frame_of, means_of
from mmn_utils.neurons.receptive_fields import mask, upsample
from mmn_utils.studies.concepts import Concepts, best_of, focus, focus_table, seen, why_no_grid

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
    some: Concepts,
    shown: Concepts,
    table: pd.DataFrame,
    ks: Sequence[int],
    *,
    quantile: float = 0.95,
    seed: int = 0,
) -> Views:
    """Average the activations of each concept's top-k neurons at the image tokens, and cut masks.

    Maps of the photographs ``shown``; overlaps of ``some``, beside random units of the same
    layers (``concepts.focus_table``). ValueError where no concept names an annotated object.
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


def _shown(model, shown: Concepts, table: pd.DataFrame, ks: Sequence[int], quantile: float):
    """Make the views of some photographs, concept by concept."""
    best = best_of(table, max(ks))
    for photograph, targets in zip(shown.photographs, shown.targets, strict=True):
        picture = photograph.open()
        maps = focus(model, picture, [best[t.image, t.noun] for t in targets], ks)
        smooth = upsample(maps, model.image_tokens.pixels).cpu()
        cuts = mask(smooth, quantile)
        square = seen(model, picture)
        for target, one, cut in zip(targets, smooth, cuts, strict=True):
            yield View(square, target.noun, one.numpy(), cut.numpy())
