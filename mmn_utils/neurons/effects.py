"""What a word loses without its neurons: the truth that first-order scores are judged by.

Each neuron ablated alone, and integrated gradients, whose sum is all that is lost without any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from mmn_utils.models.capture import replace
from mmn_utils.neurons.ranking import TopK, scored
from mmn_utils.neurons.table import NO_PATCH, Neuron, check_neurons
from mmn_utils.neurons.targets import (
    Positions,
    Target,
    embedded,
    objective,
    positions_of,
    teacher_forced,
    watch,
)
from mmn_utils.neurons.truth import exact_losses


def exact_ablation(
    model,
    prompt,
    target: Target,
    neurons: Sequence[Neuron],
    *,
    of: str = "logit",
    positions: str = "all",
    batch_size: int = 32,
) -> pd.DataFrame:
    """Score neurons by what y loses when each alone is set to zero: the truth Eq. 2 approximates.

    ``prompt`` of one image; ``positions`` and ``batch_size`` as ``truth.exact_losses``.
    """
    check_neurons(neurons, model.sizes.layers, model.sizes.units)
    if of not in ("logit", "probability"):
        raise ValueError(f"of={of!r}: give 'logit' or 'probability'")
    by_layer: dict[int, list[int]] = {}
    for neuron in neurons:
        by_layer.setdefault(neuron.layer, []).append(neuron.unit)
    losses = exact_losses(
        model, prompt, target, units=by_layer, positions=positions, batch_size=batch_size
    )
    layers, units = np.array([[n.layer for n in neurons]]), np.array([[n.unit for n in neurons]])
    lost = getattr(losses, of)[layers, units]
    return scored([target], layers, units, np.full_like(units, NO_PATCH), lost)


def integrated_gradients(
    model,
    images: Sequence,
    targets: Sequence[Target],
    *,
    k: int = 100,
    steps: int = 16,
    target: str = "logit",
    rank_by: str = "max",
    positions: Positions = None,
) -> pd.DataFrame:
    """Score neurons by integrated gradients of y over their activations at the image patches.

    All layers' activations at these positions go together from zero to what they were, on a
    straight line; ``steps`` points of Gauss-Legendre quadrature, a forward and a backward
    pass each. Other arguments as ``attribution``. Needs the whole field in memory.
    """
    top, prompt = TopK(k, rank_by), embedded(model, images)
    field, ends = _path(model, prompt, targets, steps, target, positions)
    for layer in list(field):
        top.add(layer, field.pop(layer), ends.pop(layer))
    return top.table(targets)


def path_field(
    model, prompt, targets, *, steps: int = 16, target="logit", positions: Positions = None
) -> dict[int, torch.Tensor]:
    """Integrate gradients over the shared path: {layer: (B, P, units)} float32.

    Sums to y minus y with every activation at the positions set to zero, up to quadrature.
    """
    return _path(model, prompt, targets, steps, target, positions)[0]


def _path(model, prompt, targets, steps: int, target: str, positions: Positions):
    """Return the field of ``path_field``, and where the path ends: the activations."""
    where = positions_of(model, prompt, positions)
    prompt = teacher_forced(model, prompt, [t.prefix for t in targets])
    ends: dict[int, torch.Tensor] = {}
    with torch.no_grad(), watch(model, lambda layer, a: ends.update({layer: a[:, where].clone()})):
        model.forward(prompt)
    field = {layer: torch.zeros_like(end, dtype=torch.float32) for layer, end in ends.items()}
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        points = {layer: (end * node).requires_grad_() for layer, end in ends.items()}
        functions = {layer: _put(point, where) for layer, point in points.items()}
        with torch.enable_grad(), replace(model, functions):
            logits, _ = model.forward(prompt)
            y = objective(logits, targets, target)
        gradients = torch.autograd.grad(y.sum(), list(points.values()))
        for layer, gradient in zip(points, gradients, strict=True):
            field[layer] += float(weight) * gradient.float() * ends[layer].float()
    return field, ends


def _put(values: torch.Tensor, where) -> Callable:
    """Make the replacement that writes ``values`` (B, P, units) at the positions."""

    def function(activation: torch.Tensor) -> torch.Tensor:
        activation = activation.clone()
        activation[:, where] = values
        return activation

    return function
