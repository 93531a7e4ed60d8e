"""Top neurons of all nouns by paper B's methods, with their switches set and checked.

Batches go by pictures, so that a thousand photographs fit; what is costly is cached image by
image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from mmn_utils.datasets.published import published
from mmn_utils.neurons.final_norm import frozen_norm
from mmn_utils.neurons.methods import METHODS, by_methods
from mmn_utils.neurons.table import neuron_table
from mmn_utils.neurons.targets import ACTIVATIONS, Target
from mmn_utils.studies.concepts.invariance import NS
from mmn_utils.studies.concepts.sensitivity import COMPARE
from mmn_utils.studies.concepts.specificity import MS
from mmn_utils.studies.store import per_photograph
from mmn_utils.studies.subjects import Subjects

SWITCHED = ("activation", "contribution")  # methods that read the last token's activation


def switched(
    activation: str = "gated", contribution_norm: str = "none"
) -> dict[str, Callable[..., pd.DataFrame]]:
    """Return paper B's three methods with the switches set: {method: function}."""
    methods = {name: partial(METHODS[name], activation=activation) for name in SWITCHED}
    methods["contribution"] = partial(methods["contribution"], contribution_norm=contribution_norm)
    return {name: methods.get(name, METHODS[name]) for name in METHODS}


def check_settings(
    model,
    *,
    k: int,
    ks: Sequence[int],
    others: Sequence[int] = (),
    ns: Sequence[int] = NS,
    ms: Sequence[int] = MS,
    activation: str = "gated",
    contribution_norm: str = "none",
    compare: str = "tokens",
) -> None:
    """Raise ValueError, before anything is computed, for settings that a model cannot have.

    ``k`` is one of ``ks``; these and ``others`` are numbers of neurons, ``ns`` of images,
    ``ms`` of tokens; ``compare`` as in ``sensitivity``. ``gate`` needs gated MLPs.
    """
    neurons = model.sizes.layers * model.sizes.units
    _within("ks", ks, 1, neurons)
    _within("numbers of neurons", [k, *others], 1, neurons)
    _within("ns", ns, 2, None)
    _within("ms", ms, 1, model.sizes.vocabulary)
    if k not in ks:
        raise ValueError(f"k = {k} is not among ks = {list(ks)}; add it there")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation = {activation!r}: give one of {', '.join(ACTIVATIONS)}")
    if compare not in COMPARE:
        raise ValueError(f"compare = {compare!r}: give one of {', '.join(COMPARE)}")
    frozen_norm(model, contribution_norm)
    if activation == "gate":
        model.gate_module(0)


def _within(name: str, values: Sequence[int], low: int, high: int | None) -> None:
    if not values or min(values) < low or (high is not None and max(values) > high):
        most = "" if high is None else f" to {high}"
        raise ValueError(f"{name} = {list(values)}: give numbers from {low}{most}")


def of_paper(system: str) -> dict[str, pd.DataFrame]:
    """Return the paper's own numbers for one of its systems: {exhibit: rows of that model}.

    ValueError for another name.
    """
    found = {}
    for exhibit in ("B-table-2", "B-table-3", "B-fig-4", "B-table-4"):
        table = published(exhibit)
        if system not in set(table["model"]):
            known = ", ".join(dict.fromkeys(table["model"]))
            raise ValueError(f"paper_model = {system!r}: the paper has {known}")
        found[exhibit] = table[table["model"] == system].drop(columns="model")
    return found


def top_neurons(
    model,
    some: Subjects,
    *,
    k: int = 100,
    activation: str = "gated",
    contribution_norm: str = "none",
    batch_size: int = 8,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Score all concepts by each method: {method: neuron table} of the top ``k``, cached."""
    methods = switched(activation, contribution_norm)

    def compute(pictures: list, targets: list[Target]) -> pd.DataFrame:
        found = by_methods(model, pictures, targets, k=k, methods=methods)
        return pd.concat([table.assign(method=name) for name, table in found.items()])

    key = {"k": k, "activation": activation, "contribution_norm": contribution_norm}
    table = per_subject("concepts", model, some, key, compute, batch_size, progress)
    parts = dict(iter(table.groupby("method", sort=False)))
    return {name: neuron_table(parts[name].drop(columns="method")) for name in methods}


def per_subject(
    kind: str, model, some: Subjects, key: dict[str, Any], compute, batch_size: int, progress: bool
) -> pd.DataFrame:
    """Compute a table from pictures, opened for each of all targets, or load it."""

    def batch(rows: list[int]) -> pd.DataFrame:
        chosen = some.select([some.ids[row] for row in rows])
        return compute(*next(chosen.batches(len(chosen))))

    return per_photograph(
        kind, model, some.photographs, batch, key,
        targets=some.every, batch_size=batch_size, progress=progress,
    )  # fmt: skip
