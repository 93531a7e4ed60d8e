"""The highest scores of every target, kept on the device while one layer after the other is done.

A field (targets, positions, units) of a layer is reduced to its top k as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from mmn_utils.neurons.table import NO_PATCH, ranked_table
from mmn_utils.neurons.targets import Target

TOGETHER = 8  # layers whose first k are merged at once: a merge costs more than it sorts


class TopK:
    """The running top k of every row over layers, kept on the device.

    With each score goes the activation where it was taken: at its patch, or summed over
    patches as the score is.
    """

    def __init__(self, k: int, rank_by: str):
        if k < 1:
            raise ValueError(f"k={k}: give a number of neurons, 1 or more")
        if rank_by not in RANKS:
            raise ValueError(f"rank_by={rank_by!r}: give one of {', '.join(RANKS)}")
        self.k, self.reduce = k, RANKS[rank_by]
        # scores, layers, units, patches, activations (B, k), of layers yet to be merged
        self.parts: list[tuple[torch.Tensor, ...]] = []

    def add(self, layer: int, field: torch.Tensor, activation: torch.Tensor | None) -> None:
        """Take in the field (B, P, units) of one more layer, and its activation of that shape.

        Without an activation, that of its rows is NaN.
        """
        scores, units, patches = self.reduce(field, self.k)
        active = _at(activation, units, patches)
        self.parts.append((scores, torch.full_like(units, layer), units, patches, active))
        if len(self.parts) > TOGETHER:
            self.parts = [self.best]

    @property
    def best(self) -> tuple[torch.Tensor, ...]:
        """What is kept so far, best first: scores, layers, units, patches, activations (B, k)."""
        if not self.parts:
            raise RuntimeError("no layer was scored; the model's modules were not reached")
        if len(self.parts) > 1:
            every = [torch.cat(parts, dim=1) for parts in zip(*self.parts, strict=True)]
            order = every[0].topk(min(self.k, every[0].shape[1]), dim=1).indices
            self.parts = [tuple(values.gather(1, order) for values in every)]
        return self.parts[0]

    def divide(self, scale: torch.Tensor) -> None:
        """Divide each row's scores by its own positive scale (B)."""
        scores, *rest = self.best
        self.parts = [(scores / scale[:, None], *rest)]

    def table(self, targets: Sequence[Target]) -> pd.DataFrame:
        """Lay the result out as a neuron table."""
        scores, layers, units, patches, active = (values.cpu().numpy() for values in self.best)
        return scored(targets, layers, units, patches, scores, active)


def _at(
    activation: torch.Tensor | None, units: torch.Tensor, patches: torch.Tensor
) -> torch.Tensor:
    """Gather activations (B, P, units) of units (B, k) at their patches, or over all: (B, k)."""
    if activation is None:
        return torch.full(units.shape, torch.nan, device=units.device)
    if activation.shape[1] == 1:  # its place and all places are the same
        return activation[:, 0].gather(1, units).float()
    chosen = activation.gather(2, units[:, None].expand(-1, activation.shape[1], -1)).float()
    own = chosen.gather(1, patches.clamp(min=0)[:, None])[:, 0]
    return torch.where(patches == NO_PATCH, chosen.sum(1), own)


def _by_max(field: torch.Tensor, k: int):
    """Rank units by their maximum over patches; look for its patch only where it matters."""
    scores, units = field.amax(1).topk(min(k, field.shape[2]), dim=1)
    columns = field.gather(2, units[:, None].expand(-1, field.shape[1], -1))
    return scores, units, columns.argmax(1)


def _by_sum(field: torch.Tensor, k: int):
    """Rank units by their sum over patches."""
    whole = field[:, 0] if field.shape[1] == 1 else field.sum(1)
    scores, units = whole.topk(min(k, field.shape[2]), dim=1)
    return scores, units, torch.full_like(units, NO_PATCH)


def _by_pair(field: torch.Tensor, k: int):
    """Rank (unit, patch) pairs."""
    flat = field.flatten(1)
    scores, pairs = flat.topk(min(k, flat.shape[1]), dim=1)
    return scores, pairs % field.shape[2], pairs // field.shape[2]


RANKS = {"max": _by_max, "sum": _by_sum, "pair": _by_pair}


def scored(
    targets: Sequence[Target],
    layers: np.ndarray,
    units: np.ndarray,
    patches: np.ndarray,
    scores: np.ndarray,
    activations: np.ndarray | None = None,
) -> pd.DataFrame:
    """Lay scores (targets, n) of so many neurons for each target out as a neuron table."""
    active = np.full(scores.shape, np.nan) if activations is None else activations
    columns = {"layer": layers, "unit": units, "patch": patches, "score": scores}
    labels = [(t.image, t.noun, t.token) for t in targets]
    return ranked_table(labels, {**columns, "activation": active})
