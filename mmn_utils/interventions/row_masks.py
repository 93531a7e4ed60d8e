"""Which activations each row of a batch has written over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import torch

from mmn_utils.interventions.ablation import Ablation
from mmn_utils.interventions.positions import Place
from mmn_utils.interventions.receipts import NothingTouched
from mmn_utils.neurons.table import Neuron, by_layer


def lowest_layer(row: Iterable[Neuron]) -> int:
    """Return the lowest layer of a row's neurons; -1 for none, so that it comes first."""
    return min((neuron.layer for neuron in row), default=-1)


class RowMasks:
    """The activations that each row of a batch has written over, per layer.

    ``rows`` are those that the batch still holds; rows without neurons come first.
    """

    def __init__(self, model, rows: Sequence[Sequence[Neuron]], ablation: Ablation):
        self.model, self.ablation, self.count = model, ablation, len(rows)
        self.wanted = torch.tensor([len(row) > 0 for row in rows])
        self.touched = torch.zeros(len(rows), dtype=torch.long)
        self.rows = torch.arange(len(rows))
        self.lowest = [lowest_layer(row) for row in rows]
        self.masks = {}
        for index, row in enumerate(rows):
            for layer, units in by_layer(row).items():
                empty = torch.zeros(len(rows), 1, model.sizes.units, dtype=torch.bool)
                self.masks.setdefault(layer, empty)[index, 0, units] = True

    def parts(self, most: int) -> Iterator[tuple[int, list[int]]]:
        """Cut rows into parts of at most ``most`` with the same lowest layer: it, and the rows.

        ``ValueError`` unless rows are in the order of their lowest layers. Rows without neurons
        go with the first that have some.
        """
        first = next((layer for layer in self.lowest if layer >= 0), self.model.sizes.layers - 1)
        lowest = [first if layer < 0 else layer for layer in self.lowest]
        if lowest != sorted(lowest):
            raise ValueError(f"lowest layers {self.lowest}: give rows in their order")
        for layer, some in groupby(range(self.count), key=lowest.__getitem__):
            rows = list(some)
            number = -(-len(rows) // most)  # parts of about the same size
            for part in range(number):
                yield layer, rows[part * len(rows) // number : (part + 1) * len(rows) // number]

    def functions(self, place: Place) -> dict:
        """Make the replacement of each layer."""
        return {layer: self._function(layer, mask, place) for layer, mask in self.masks.items()}

    def _function(self, layer: int, mask: torch.Tensor, place: Place):
        mask, per_position = mask.to(self.model.device), mask[:, 0].sum(1)

        def function(activation: torch.Tensor) -> torch.Tensor:
            mine = per_position[self.rows]
            if not mine.any():
                return activation
            self.touched[self.rows] += mine * place.count()
            where = place.where(activation.shape[1])
            part = activation[:, where]
            if part.shape[1] == 0:
                return activation
            held = mask[self.rows.to(mask.device)]
            part = torch.where(held, self.ablation.fill(layer, activation), part)
            if part.shape[1] == activation.shape[1]:
                return part
            activation = activation.clone()
            activation[:, where] = part
            return activation

        return function

    def check(self) -> None:
        """Raise ``NothingTouched`` for a row of neurons of which none was written."""
        missed = (self.wanted & (self.touched == 0)).nonzero().flatten().tolist()
        if missed:
            raise NothingTouched(
                f"rows {missed} of the sweep wrote no activation at positions "
                f"{self.ablation.positions!r}; generate a token, or give other positions"
            )
