"""What happens without a neuron: ablation as a context, with a receipt. Paper A, section 3.3.

The activation, the input of the MLP's second matrix, is replaced through hooks that always
come off; weights are never written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from mmn_utils.interventions.positions import POSITIONS, Place, placed
from mmn_utils.interventions.receipts import Comparison, NothingTouched, probe, weights_hash
from mmn_utils.models.capture import replace
from mmn_utils.neurons.table import Neuron, by_layer, check_neurons


@dataclass(frozen=True)
class Ablation:
    """Neurons to switch off, where, and what stands in for their activation.

    ``positions``: ``all``; ``image``, the image tokens; ``generated``, the tokens after the
    prompt. ``value``: a number, 0 as in the papers, or ``mean`` with the ``means`` of
    ``unit_means``.
    """

    neurons: tuple[Neuron, ...]
    positions: str = "all"
    value: float | str = 0.0
    means: Mapping[int, torch.Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", tuple(dict.fromkeys(self.neurons)))
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r}: give one of {', '.join(POSITIONS)}")
        if isinstance(self.value, str) and self.value != "mean":
            raise ValueError(f"value={self.value!r}: give a number or 'mean'")
        if self.value == "mean" and self.means is None:
            raise ValueError("value='mean' needs means; compute them with unit_means")

    def fill(self, layer: int, like: torch.Tensor) -> torch.Tensor:
        """Return what is written in a layer, to broadcast over units, as ``like`` is held."""
        if self.value == "mean":
            return self.means[layer].to(like)
        return torch.as_tensor(self.value).to(like)


@dataclass
class Receipt(Comparison):
    """What an ablation did, complete once it has ended without an error.

    ``touched`` counts activations written over (neurons x positions x rows), whether or not
    they changed; ``activation_change`` is the mean absolute difference that it made.
    """

    neurons: tuple[Neuron, ...]
    positions: str
    value: float | str
    touched: int = 0
    activation_change: float = 0.0


@contextmanager
def ablate(
    model,
    ablation: Ablation,
    *,
    prompt=None,
    prompt_length: int | None = None,
    max_new_tokens: int = 20,
    hash_weights: bool = True,
) -> Iterator[Receipt]:
    """Switch neurons off while the context lasts; hands a ``Receipt`` out.

    With a ``prompt`` its logits and captions are measured without and with the ablation on
    the way in. ``prompt_length`` tells ``generated`` where the caption begins when the first
    pass already holds some of it. ``ValueError`` for no neurons or ones the model does not
    have; ``NothingTouched`` at the end if no pass reached the positions. An error inside
    passes through, and the hooks are off either way.
    """
    if not ablation.neurons:
        raise ValueError("an ablation of no neurons does nothing; give at least one")
    check_neurons(ablation.neurons, model.sizes.layers, model.sizes.units)
    groups = by_layer(ablation.neurons)
    receipt = Receipt(ablation.neurons, ablation.positions, ablation.value)
    if hash_weights:
        receipt.weights_before = weights_hash(model, groups)
    before = probe(model, prompt, max_new_tokens)
    with (
        placed(model, ablation.positions, prompt_length) as place,
        replace(model, _switch_off(ablation, groups, place, receipt)),
    ):
        if before is not None:
            receipt.compare(before, probe(model, prompt, max_new_tokens))
        yield receipt
    receipt.activation_change /= max(receipt.touched, 1)
    _settle(model, receipt, groups)


def _switch_off(ablation: Ablation, groups: dict, place: Place, receipt: Receipt) -> dict:
    """Make the replacement of each layer, which also fills the receipt."""
    functions = {}
    for layer, units in groups.items():

        def function(activation, layer=layer, units=units):
            where = place.where(activation.shape[1])
            units = units.to(activation.device)
            old = activation[:, where][..., units]
            if old.numel() == 0:
                return activation
            new = ablation.fill(layer, activation)
            new = (new[units] if new.ndim else new).expand_as(old)
            activation = activation.clone()
            activation[:, where, units] = new
            receipt.touched += old.numel()
            receipt.activation_change += float((new.detach() - old.detach()).float().abs().sum())
            return activation

        functions[layer] = function
    return functions


def _settle(model, receipt: Receipt, layers: Iterable[int]) -> None:
    """Close a receipt: something was touched, and the weights are what they were."""
    if receipt.touched == 0:
        raise NothingTouched(
            f"no activation of {len(receipt.neurons)} neurons was written at positions "
            f"{receipt.positions!r}; run the model inside the context, or give other positions"
        )
    if receipt.weights_before is not None:
        receipt.weights_after = weights_hash(model, layers)
        if receipt.weights_after != receipt.weights_before:
            raise RuntimeError("the weights changed while neurons were ablated; load them again")


@torch.no_grad()
def unit_means(
    model, images: Sequence, positions: str = "image", batch_size: int = 16
) -> dict[int, torch.Tensor]:
    """Average every neuron's activation over images and positions: {layer: (units,) float32}.

    ``positions`` ``image`` or ``all``, of the prompt.
    """
    if len(images) == 0 or positions not in ("image", "all"):
        raise ValueError(
            f"{len(images)} images, positions={positions!r}: give images, and 'image' or 'all'"
        )
    sums = dict.fromkeys(range(model.sizes.layers), 0.0)
    counts = dict.fromkeys(sums, 0)
    with placed(model, positions) as place:

        def watcher(layer: int):
            def function(activation: torch.Tensor) -> torch.Tensor:
                seen = activation[:, place.where(activation.shape[1])].float()
                sums[layer] = sums[layer] + seen.sum((0, 1))
                counts[layer] += seen.shape[0] * seen.shape[1]
                return activation

            return function

        with replace(model, {layer: watcher(layer) for layer in sums}):
            for start in range(0, len(images), batch_size):
                model.forward(model.prompt(images[start : start + batch_size]))
    return {layer: sums[layer] / counts[layer] for layer in sums}
