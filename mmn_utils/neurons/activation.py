"""Activation alone: what gradient and unembedding add is measured against it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from mmn_utils.models.base import Prompt
from mmn_utils.neurons.ranking import TopK
from mmn_utils.neurons.targets import (
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
    with watch(model, lambda layer, activation: top.add(layer, activation[:, where].float())):
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
    top = TopK(k, "sum")
    at_steps(
        model, images, targets, lambda layer, a: top.add(layer, a[:, None]), activation=activation
    )
    return top.table(targets)
