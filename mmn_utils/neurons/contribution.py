"""Contribution: what a neuron writes of a token at the step that predicts it (paper B, Eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch

from mmn_utils.models.base import Prompt
from mmn_utils.neurons.final_norm import frozen_norm
from mmn_utils.neurons.ranking import TopK
from mmn_utils.neurons.targets import ACTIVATIONS, Target, at_steps, target_tokens


@torch.no_grad()
def contribution(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    k: int = 100,
    activation: str = "gated",
    contribution_norm: str = "none",
) -> pd.DataFrame:
    """Score neurons by what they write of the token at the step that predicts it (paper B, Eq. 2).

    Activation there times (unembedding row of the token . write vector). ``images[i]``, or
    row i of their prompt, belongs to ``targets[i]``; targets of one image are read off one
    pass over its caption. ``activation`` ``gated``: all of it, so that scores add up to what
    the MLP writes; ``gate``: one factor of it, as the paper's published code has it.
    ``contribution_norm`` ``none``: as printed; ``final``: through the final norm, its scale
    held at what it is there, so that scores are shares of the logit: of the scaled one, before
    a soft cap, which no sum can pass. Where a norm stands behind the MLPs, what a unit writes is
    its share of what that norm gives, scale held too. One column of the unembedding per target;
    the (units, vocabulary) product is never formed. The table's ``activation`` is the one that
    was read.
    """
    options = {"k": k, "readings": (activation,), "contribution_norm": contribution_norm}
    return contribution_readings(model, images, targets, **options)[activation]


@torch.no_grad()
def contribution_readings(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    k: int = 100,
    readings: Sequence[str] = tuple(ACTIVATIONS),
    contribution_norm: str = "none",
) -> dict[str, pd.DataFrame]:
    """Score as ``contribution`` by several readings of the activation, off one pass.

    A neuron table for each of ``readings``, ``gated`` and ``gate`` by default.
    """
    tops, norm = {name: TopK(k, "sum") for name in readings}, frozen_norm(model, contribution_norm)
    rows, scales = unembedding_rows(model, targets, norm), {}

    def add(top: TopK, layer: int, act: torch.Tensor) -> None:
        scores = contributions(model, layer, act, rows, scales.get(layer))
        top.add(layer, scores[:, None], act[:, None])

    takers = {name: partial(add, top) for name, top in tops.items()}
    residual = at_steps(model, images, targets, takers, scales=scales)
    if norm is not None:
        scale = norm.scale(residual)  # positive, the same for all units: ranks stay
        for top in tops.values():
            top.divide(scale)
    return {name: top.table(targets) for name, top in tops.items()}


@torch.no_grad()
def contribution_layers_field(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    activation: str = "gated",
    contribution_norm: str = "none",
) -> dict[int, torch.Tensor]:
    """Return all contributions as {layer: (targets, units)}, for small models and tests."""
    norm, field, scales = frozen_norm(model, contribution_norm), {}, {}
    rows = unembedding_rows(model, targets, norm)

    def keep(layer: int, act: torch.Tensor) -> None:
        field[layer] = contributions(model, layer, act, rows, scales.get(layer))

    residual = at_steps(model, images, targets, keep, activation=activation, scales=scales)
    scale = 1 if norm is None else norm.scale(residual)[:, None]
    return {layer: values / scale for layer, values in field.items()}


def unembedding_rows(model, targets: Sequence[Target], norm=None) -> torch.Tensor:
    """Gather the targets' rows of the unembedding (T, d) float32, the norm folded in if given.

    Where the logits are scaled, times that scale.
    """
    weight, _ = model.unembedding
    tokens = target_tokens(targets, len(weight), weight.device)
    return scaled_rows(model, weight[tokens].detach().float(), norm)


def scaled_rows(model, rows: torch.Tensor, norm=None) -> torch.Tensor:
    """Put the final norm, if given, and the logits' scale into rows of the unembedding (..., d)."""
    rows = rows if norm is None else norm.fold(rows)
    factor = model.architecture.scales.logits
    return rows if factor == 1 else factor * rows


def contributions(
    model,
    layer: int,
    activation: torch.Tensor,
    rows: torch.Tensor,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply activations (T, units) by what each unit adds along rows (T, d): (T, units).

    ``scale`` (T,) is what the norm behind the MLP, if there is one, divides each token by.
    """
    written = model.read_at_mlp(layer, rows) @ model.write_vectors(layer).detach().to(rows).T
    shares = activation * written
    return shares if scale is None else shares / scale[:, None]
