"""Top neurons of all nouns by paper B's methods, with their switches set and checked.

Batches go by pictures, so that a thousand photographs fit; what is costly is cached image by
image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from mmn_utils.datasets.published import published
from mmn_utils.neurons.final_norm import frozen_norm
from mmn_utils.neurons.methods import METHODS, by_readings
from mmn_utils.neurons.table import neuron_table
from mmn_utils.neurons.targets import ACTIVATIONS, Target
from mmn_utils.studies.concepts.invariance import NS
from mmn_utils.studies.concepts.sensitivity import COMPARE
from mmn_utils.studies.concepts.specificity import MS
from mmn_utils.studies.store import per_photograph
from mmn_utils.studies.subjects import Subjects

SWITCHED = ("activation", "contribution")  # methods that read the last token's activation
GATE = "_gate"  # behind a method's name: by the gate's activation alone
COLUMNS = (*METHODS, *(f"{name}{GATE}" for name in SWITCHED))  # methods, side by side


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
    options = {"k": k, "contribution_norm": contribution_norm}
    more = {"batch_size": batch_size, "progress": progress}
    return top_neurons_of(model, some, readings=(activation,), **options, **more)[activation]


def top_neurons_of(
    model,
    some: Subjects,
    *,
    k: int = 100,
    readings: Sequence[str] = tuple(ACTIVATIONS),
    contribution_norm: str = "none",
    batch_size: int = 8,
    progress: bool = True,
) -> dict[str, dict[str, pd.DataFrame]]:
    """Score as ``top_neurons`` by several readings of the activation: {reading: {method: table}}.

    Off the same passes, and cached together; attribution is the same for all. ``gate`` needs
    gated MLPs.
    """

    def compute(pictures: list, targets: list[Target]) -> pd.DataFrame:
        options = {"k": k, "readings": readings, "contribution_norm": contribution_norm}
        found = by_readings(model, pictures, targets, **options)
        named = {(r, name): t for r, tables in found.items() for name, t in tables.items()}
        first = {key: t for key, t in named.items() if key[1] in SWITCHED or key[0] == readings[0]}
        return pd.concat([t.assign(reading=r, method=name) for (r, name), t in first.items()])

    key = {"k": k, "readings": list(readings), "contribution_norm": contribution_norm}
    table = per_subject("concepts", model, some, key, compute, batch_size, progress)
    parts = {
        key: neuron_table(part.drop(columns=["reading", "method"]))
        for key, part in table.groupby(["reading", "method"], sort=False)
    }
    return {
        reading: {
            name: parts[reading if name in SWITCHED else readings[0], name] for name in METHODS
        }
        for reading in readings
    }


def readings_of(model) -> tuple[str, ...]:
    """Return the readings of the activation that a system has: both where its MLPs are gated."""
    return tuple(ACTIVATIONS) if model.architecture.gate is not None else ("gated",)


def side_by_side(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Name what is there for each reading and method as ``COLUMNS`` do, attribution once."""
    flat = dict(found["gated"])
    gate = found.get("gate", {})
    return flat | {f"{name}{GATE}": gate[name] for name in SWITCHED if name in gate}


def with_all_methods(rows: pd.DataFrame, names: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Give rows the columns that they lack, empty: a system without gates has no gate's."""
    return rows.reindex(columns=[*rows.columns, *(n for n in names if n not in rows.columns)])


def per_subject(
    kind: str, model, some: Subjects, key: dict[str, Any], compute, batch_size: int, progress: bool
) -> pd.DataFrame:
    """Compute a table from pictures, opened for each of all targets, or load it."""

    def batch(rows: list[int]) -> pd.DataFrame:
        chosen = some.select([some.ids[row] for row in rows])
        return compute(*chosen.opened())

    return per_photograph(
        kind, model, some.photographs, batch, key,
        targets=some.every, batch_size=batch_size, progress=progress,
    )  # fmt: skip
