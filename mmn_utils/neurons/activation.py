"""Activation alone: what gradient and unembedding add is measured against it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch

from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import capture, stop_after
from mmn_utils.neurons.ranking import TopK
from mmn_utils.neurons.table import NO_PATCH, Neuron, check_neurons
from mmn_utils.neurons.targets import (
    ACTIVATIONS,
    Positions,
    Target,
    at_steps,
    check_rows,
    embedded,
    positions_of,
    watch,
)


@torch.no_grad()
def activation_baseline(
    model,
    images: Sequence,
    targets: Sequence[Target],
    *,
    k: int = 100,
    rank_by: str = "max",
    positions: Positions = None,
) -> pd.DataFrame:
    """Score neurons by their activation at the image patches alone; arguments as ``attribution``.

    The same for every token of an image: what the gradient adds is measured against it.
    """
    top, prompt = TopK(k, rank_by), embedded(model, images)
    check_rows(prompt, targets)
    where = positions_of(model, prompt, positions)

    def consume(layer: int, activation: torch.Tensor) -> None:
        field = activation[:, where].float()
        top.add(layer, field, field)

    with watch(model, consume):
        model.forward(prompt)
    return top.table(targets)


@torch.no_grad()
def last_activation(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    k: int = 100,
    activation: str = "gated",
) -> pd.DataFrame:
    """Score neurons by their activation at the step that predicts the target (paper B's Base).

    Signed, as the paper's "higher activations" has it; arguments as ``contribution``.
    """
    return last_activation_readings(model, images, targets, k=k, readings=(activation,))[activation]


@torch.no_grad()
def last_activation_readings(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    k: int = 100,
    readings: Sequence[str] = tuple(ACTIVATIONS),
) -> dict[str, pd.DataFrame]:
    """Score as ``last_activation`` by several readings of the activation, off one pass."""
    tops = {name: TopK(k, "sum") for name in readings}

    def add(top: TopK, layer: int, activation: torch.Tensor) -> None:
        top.add(layer, activation[:, None], activation[:, None])

    at_steps(model, images, targets, {name: partial(add, top) for name, top in tops.items()})
    return {name: top.table(targets) for name, top in tops.items()}


@torch.no_grad()
def activations_at(
    model, images: Sequence | Prompt, wanted: Sequence[Sequence[tuple[Neuron, int]]]
) -> list[np.ndarray]:
    """Read some neurons of each image at a patch of it: a list of (neurons,) float32.

    ``wanted[i]`` pairs neurons of ``images[i]``, or of row i of their prompt, with patches;
    at ``NO_PATCH`` an activation is summed over the image tokens. What a neuron table has of
    the top neurons, this has of any others, off one pass that ends at the last layer asked for.
    """
    if len(images) != len(wanted):
        raise ValueError(f"{len(images)} images for {len(wanted)} lists; give one each")
    neurons = [neuron for pairs in wanted for neuron, _ in pairs]
    check_neurons(neurons, model.sizes.layers, model.sizes.units)
    found = [np.empty(len(pairs), np.float32) for pairs in wanted]
    if not neurons:
        return found
    layers, prompt = {neuron.layer for neuron in neurons}, embedded(model, images)
    with (
        capture(model, layers=layers, positions=positions_of(model, prompt, None)) as seen,
        stop_after(model, max(layers)),
    ):
        model.forward(prompt)
    for row, pairs in enumerate(wanted):
        for layer in {neuron.layer for neuron, _ in pairs}:
            places = [i for i, (neuron, _) in enumerate(pairs) if neuron.layer == layer]
            units, patches = np.array([(pairs[i][0].unit, pairs[i][1]) for i in places]).T
            own = seen.values[layer][row][:, units].float().cpu().numpy()  # (P, places)
            at = own[np.maximum(patches, 0), np.arange(len(places))]
            found[row][places] = np.where(patches == NO_PATCH, own.sum(0), at)
    return found
