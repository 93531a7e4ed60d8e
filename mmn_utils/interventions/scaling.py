"""More or less of a neuron: its activation times a factor, as a context with a receipt.

At 0 it is ablation; below, the neuron writes the contrary of what it would have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mmn_utils.interventions.activations import WrittenOver, writing_over
from mmn_utils.interventions.positions import check_positions
from mmn_utils.neurons.table import Neuron

LEAST, MOST = -2.0, 3.0  # beyond, captions tell of the factor rather than of the neurons


@dataclass(frozen=True)
class Scaling:
    """Neurons whose activations are multiplied by a ``factor``, and at which positions.

    ``positions`` as of ``ablation.Ablation``. ``ValueError`` for a factor out of ``LEAST`` to
    ``MOST``, and for 1, which would touch everything and change nothing.
    """

    neurons: tuple[Neuron, ...]
    factor: float
    positions: str = "all"

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", tuple(dict.fromkeys(self.neurons)))
        check_positions(self.positions)
        if not (math.isfinite(self.factor) and LEAST <= self.factor <= MOST):
            raise ValueError(f"factor={self.factor}: give a number from {LEAST:g} to {MOST:g}")
        if self.factor == 1:
            raise ValueError(f"factor={self.factor} changes nothing; give less or more than 1")


@dataclass
class ScalingReceipt(WrittenOver):
    """What a scaling did, and by which factor."""

    factor: float = 0.0


@contextmanager
def scale(
    model,
    scaling: Scaling,
    *,
    prompt=None,
    prompt_length: int | None = None,
    max_new_tokens: int = 20,
    hash_weights: bool = True,
) -> Iterator[ScalingReceipt]:
    """Multiply activations of neurons while the context lasts; hands a receipt out.

    Each context multiplies what it finds: 2 inside 2 is 4, and inside an ablation it is 0.
    Arguments and errors as ``ablation.ablate``.
    """
    if not scaling.neurons:
        raise ValueError("scaling no neurons does nothing; give at least one")

    def instead(_layer: int, _units: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        return scaling.factor * old

    receipt = ScalingReceipt(scaling.neurons, scaling.positions, factor=scaling.factor)
    options = {"prompt": prompt, "prompt_length": prompt_length, "hash_weights": hash_weights}
    with writing_over(model, receipt, instead, max_new_tokens=max_new_tokens, **options):
        yield receipt
