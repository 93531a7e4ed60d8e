"""The methods that paper B compares, by name, over the same targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from mmn_utils.models.base import Prompt
from mmn_utils.neurons.activation import last_activation, last_activation_readings
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.contribution import contribution, contribution_readings
from mmn_utils.neurons.targets import ACTIVATIONS, Target, embed_once

METHODS: Mapping[str, Callable[..., pd.DataFrame]] = {  # paper B's Table 2 and 3
    "activation": last_activation,  # "Base"
    "attribution": attribution,  # "Mmns": by the maximum over patches
    "contribution": contribution,  # "Ours"
}


def by_methods(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    k: int = 100,
    methods: Mapping[str, Callable[..., pd.DataFrame]] = METHODS,
) -> dict[str, pd.DataFrame]:
    """Score the same targets by several methods: {method: neuron table} (paper B, Table 2).

    Each picture is embedded once. Switches go in as
    ``{**METHODS, "contribution": partial(contribution, activation="gate")}``.
    """
    pictures, rows = embed_once(model, images, targets)
    prompt = pictures.select(rows)
    return {name: method(model, prompt, targets, k=k) for name, method in methods.items()}


def by_readings(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    k: int = 100,
    readings: Sequence[str] = tuple(ACTIVATIONS),
    contribution_norm: str = "none",
) -> dict[str, dict[str, pd.DataFrame]]:
    """Score by all methods and several readings of the activation: {reading: {method: table}}.

    For the passes of one reading: both come off the same. Attribution reads no activation, and
    its table is the same for all.
    """
    pictures, rows = embed_once(model, images, targets)
    prompt, options = pictures.select(rows), {"k": k, "readings": readings}
    base = last_activation_readings(model, prompt, targets, **options)
    same = attribution(model, prompt, targets, k=k)
    ours = contribution_readings(
        model, prompt, targets, contribution_norm=contribution_norm, **options
    )
    return {
        name: {"activation": base[name], "attribution": same, "contribution": ours[name]}
        for name in readings
    }
