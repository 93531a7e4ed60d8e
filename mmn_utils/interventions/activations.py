"""Activations written over while a context lasts, with a receipt.

The activation, the input of the MLP's second matrix, is replaced through hooks that always
come off; weights are never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mmn_utils.interventions.positions import Place, placed
from mmn_utils.interventions.receipts import Comparison, NothingTouched, probe, weights_hash
from mmn_utils.models.capture import replace
from mmn_utils.neurons.table import Neuron, by_layer, check_neurons

Instead = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class WrittenOver(Comparison):
    """What was done to activations, complete once the context has ended without an error.

    ``touched`` counts activations written over (neurons x positions x rows), whether or not
    they changed; ``activation_change`` is the mean absolute difference that it made.
    """

    neurons: tuple[Neuron, ...]
    positions: str
    touched: int = 0
    activation_change: float = 0.0


@contextmanager
def writing_over(
    model,
    receipt: WrittenOver,
    instead: Instead,
    *,
    prompt=None,
    prompt_length: int | None = None,
    max_new_tokens: int = 20,
    hash_weights: bool = True,
) -> Iterator[None]:
    """Write over the activations of a receipt's neurons at its positions, and fill it.

    ``instead`` takes a layer, its units (n,) and their activations (B, T, n), and returns what
    is written over them. Other arguments and errors as ``ablation.ablate``.
    """
    check_neurons(receipt.neurons, model.sizes.layers, model.sizes.units)
    groups = by_layer(receipt.neurons)
    if hash_weights:
        receipt.weights_before = weights_hash(model, groups)
    before = probe(model, prompt, max_new_tokens)
    with (
        placed(model, receipt.positions, prompt_length) as place,
        replace(model, _functions(instead, groups, place, receipt)),
    ):
        if before is not None:
            receipt.compare(before, probe(model, prompt, max_new_tokens))
        yield
    receipt.activation_change /= max(receipt.touched, 1)
    _settle(model, receipt, groups)


def _functions(instead: Instead, groups: dict, place: Place, receipt: WrittenOver) -> dict:
    """Make the replacement of each layer, which also fills the receipt."""
    functions = {}
    for layer, units in groups.items():

        def function(activation, layer=layer, units=units):
            where = place.where(activation.shape[1])
            units = units.to(activation.device)
            old = activation[:, where][..., units]
            if old.numel() == 0:
                return activation
            new = instead(layer, units, old)
            activation = activation.clone()
            activation[:, where, units] = new
            receipt.touched += old.numel()
            receipt.activation_change += float((new.detach() - old.detach()).float().abs().sum())
            return activation

        functions[layer] = function
    return functions


def _settle(model, receipt: WrittenOver, layers: Iterable[int]) -> None:
    """Close a receipt: something was touched, and the weights are what they were."""
    if receipt.touched == 0:
        raise NothingTouched(
            f"no activation of {len(receipt.neurons)} neurons was written at positions "
            f"{receipt.positions!r}; run the model inside the context, or give other positions"
        )
    if receipt.weights_before is not None:
        receipt.weights_after = weights_hash(model, layers)
        if receipt.weights_after != receipt.weights_before:
            raise RuntimeError(
                "the weights changed while activations were written over; load them again"
            )
