"""What happens without a neuron: ablation as a context, with a receipt. Paper A, section 3.3.

See ``activations`` for how.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from mmn_utils.interventions.activations import WrittenOver, writing_over
from mmn_utils.interventions.positions import check_positions, placed
from mmn_utils.memory import in_batches
from mmn_utils.models.capture import replace
from mmn_utils.models.finite import require_finite
from mmn_utils.neurons.table import Neuron


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
        check_positions(self.positions)
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
class Receipt(WrittenOver):
    """What an ablation did, and what stood in for the activations."""

    value: float | str = 0.0


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

    def instead(layer: int, units: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        new = ablation.fill(layer, old)
        return (new[units] if new.ndim else new).expand_as(old)

    receipt = Receipt(ablation.neurons, ablation.positions, value=ablation.value)
    options = {"prompt": prompt, "prompt_length": prompt_length, "hash_weights": hash_weights}
    with writing_over(model, receipt, instead, max_new_tokens=max_new_tokens, **options):
        yield receipt


@torch.no_grad()
def unit_means(
    model, images: Sequence, positions: str = "image", batch_size: int = 16
) -> dict[int, torch.Tensor]:
    """Average every neuron's activation over images and positions: {layer: (units,) float32}.

    ``positions`` ``image`` or ``all``, of the prompt. ``ValueError`` naming a picture by its
    place among the images where it has activations that are not finite.
    """
    if len(images) == 0 or positions not in ("image", "all"):
        raise ValueError(
            f"{len(images)} images, positions={positions!r}: give images, and 'image' or 'all'"
        )
    layers = range(model.sizes.layers)
    seen: dict[int, tuple[torch.Tensor, int]] = {}
    names: list[str] = []
    with placed(model, positions) as place:

        def watcher(layer: int):
            def function(activation: torch.Tensor) -> torch.Tensor:
                values = activation[:, place.where(activation.shape[1])].float()
                require_finite(model, values, names, f"activations of layer {layer}")
                seen[layer] = values.sum((0, 1)), values.shape[:2].numel()
                return activation

            return function

        def compute(some: range) -> dict[int, tuple[torch.Tensor, int]]:
            names[:] = map(str, some)
            model.forward(model.prompt([images[row] for row in some]))
            return dict(seen)

        with replace(model, {layer: watcher(layer) for layer in layers}):
            parts = in_batches(compute, range(len(images)), batch_size)
    found = {layer: list(zip(*(part[layer] for part in parts), strict=True)) for layer in layers}
    return {layer: sum(sums) / sum(counts) for layer, (sums, counts) in found.items()}
