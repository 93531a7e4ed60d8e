"""Gradients at the activations: what a unit would take, to first order, were it something else.

Attribution (``attribution``) multiplies the gradient at the pre-activation by Z. These multiply the
gradient at the activation itself by what the activation is, as if it went to zero, or by how far it
is from what it would be of another picture (attribution patching, Nanda 2023; Syed et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import capture
from mmn_utils.neurons.targets import Positions, Target, objective, positions_of, watch


def activation_gradient(
    model, prompt: Prompt, target: Target, *, of: str = "logit", positions: Positions = None
) -> Tensor:
    """Multiply each activation by dy/da and sum over positions: (layers, units) float32.

    What y loses, to first order, when the activation goes to zero at these positions of
    ``prompt``, which ends where the target is predicted and has one row. None: the patches.
    """
    return _weighed(model, prompt, target, of, positions, {})


def activation_patching(
    model,
    prompt: Prompt,
    other: Prompt,
    target: Target,
    *,
    of: str = "logit",
    positions: Positions = None,
) -> Tensor:
    """Multiply by dy/da how far activations are from those of another prompt: (layers, units).

    Summed over positions: what y loses, to first order, when they become the other's. Arguments
    else as ``activation_gradient``. ``ValueError`` for prompts of unequal length.
    """
    if other.embeds.shape != prompt.embeds.shape:
        raise ValueError(
            f"prompts of shapes {tuple(prompt.embeds.shape)} and {tuple(other.embeds.shape)} have "
            "no positions in common; give another picture before the same words"
        )
    places = positions_of(model, prompt, positions)
    held: dict[int, Tensor] = {}

    def keep(layer: int, activation: Tensor) -> None:
        held[layer] = activation[:, places].detach().clone()

    with torch.no_grad(), watch(model, keep):
        model.forward(other)
    return _weighed(model, prompt, target, of, positions, held)


def _weighed(
    model,
    prompt: Prompt,
    target: Target,
    of: str,
    positions: Positions,
    instead: Mapping[int, Tensor],
) -> Tensor:
    """Sum (a - what it is to be) times dy/da over positions; zero where nothing is given."""
    if len(prompt) != 1:
        raise ValueError(f"{len(prompt)} pictures at once; give the prompt of one")
    places = positions_of(model, prompt, positions)
    found: dict[int, Tensor] = {}

    def hook(layer: int, activation: Tensor):
        def weigh(gradient: Tensor) -> None:
            away = activation[:, places].float()
            if layer in instead:
                away = away - instead[layer].float()
            found[layer] = (away * gradient[:, places].float()).sum((0, 1))

        return weigh

    with torch.enable_grad(), capture(model, grad=True) as seen:
        logits, _ = model.forward(prompt)
        y = objective(logits, [target], of)
        for layer, activation in seen.values.items():
            activation.register_hook(hook(layer, activation.detach()))
        torch.autograd.grad(y.sum(), seen.values[min(seen.values)])
    return torch.stack([found[layer] for layer in sorted(found)])
