"""Addresses of neurons, and the neuron table that the stages hand on."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

SCHEMA = {
    "image": "str",
    "target": "str",
    "token": "int64",
    "layer": "int32",
    "unit": "int32",
    "patch": "int32",
    "score": "float32",
    "activation": "float32",
}
COLUMNS = tuple(SCHEMA)
NO_PATCH = -1  # value of `patch` in a row that is not about one patch
TOP, RANDOM = "multimodal", "random"  # conditions, called as the palette calls them

_ADDRESS = re.compile(r"L(\d+)\.u(\d+)")
_OF_EXPERT = re.compile(r"L(\d+)\.(?:e(\d+)|shared)\.u(\d+)")


@dataclass(frozen=True, order=True)
class Neuron:
    """Unit ``unit`` of the MLP of layer ``layer``, both counted from 0."""

    layer: int
    unit: int

    def __str__(self) -> str:
        return f"L{self.layer}.u{self.unit}"

    @classmethod
    def parse(cls, address: str) -> Neuron:
        """Read an address as it is printed, ``L7.u15772``."""
        match = _ADDRESS.fullmatch(address.strip())
        if match is None:
            raise ValueError(f"{address!r} is no neuron; write layer and unit as in 'L7.u15772'")
        return cls(int(match[1]), int(match[2]))


def address(system, neuron: Neuron) -> str:
    """Write where a neuron is: ``L7.u15772``, in a mixture of experts ``L7.e3.u120``.

    A shared expert's is ``L7.shared.u120``. ``system``: a model, or what else has its
    ``experts``, as the facts of an atlas.
    """
    experts = system.experts
    return str(neuron) if experts is None else f"L{neuron.layer}.{experts.name(neuron.unit)}"


def neuron_at(system, text: str) -> Neuron:
    """Read what ``address`` writes, and the plain form, which counts all units of a layer.

    ``ValueError`` for what is no address, and for an expert where the system has none.
    """
    match = _OF_EXPERT.fullmatch(text.strip())
    if match is None:
        return Neuron.parse(text)
    experts = system.experts
    if experts is None:
        raise ValueError(f"{text!r} names an expert, and there are none here; write 'L7.u15772'")
    expert = None if match[2] is None else int(match[2])
    return Neuron(int(match[1]), experts.unit(expert, int(match[3])))


def tidy_address(text: str) -> str:
    """Write an address of any system without leading zeros; ``ValueError`` for what is none."""
    match = _OF_EXPERT.fullmatch(text.strip())
    if match is None:
        return str(Neuron.parse(text))
    expert = "shared" if match[2] is None else f"e{int(match[2])}"
    return f"L{int(match[1])}.{expert}.u{int(match[3])}"


def neuron_table(rows: Iterable[Mapping] | Mapping[str, Sequence] | pd.DataFrame) -> pd.DataFrame:
    """Build a neuron table from rows, from columns, or from another table.

    One row per (image, target token, layer, unit[, patch]) with its score; columns and
    types as in ``SCHEMA``, ``patch`` -1 where the score is not about one patch.
    ``activation`` is the neuron's where the score was taken (summed as the score was), NaN
    where none was at hand; rows that come without the column get NaN. Rows are
    sorted by image, target and falling score; equal scores by address, so that the
    order never depends on how the rows came. ``ValueError`` for missing or unknown
    columns, values that do not fit their type, and scores that are not finite.
    """
    table = pd.DataFrame(rows if isinstance(rows, (Mapping, pd.DataFrame)) else list(rows))
    if table.empty and not len(table.columns):
        table = pd.DataFrame({name: [] for name in COLUMNS})
    if "activation" not in table:
        table = table.assign(activation=np.nan)
    table = _typed(table)
    _check_finite(table, table["score"].to_numpy(), table["activation"].to_numpy())
    keys = ["image", "target", "score", "layer", "unit", "patch"]
    return table.sort_values(keys, ascending=[name != "score" for name in keys], ignore_index=True)


def ranked_table(
    labels: Sequence[tuple[str, str, int]], columns: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Build the neuron table of so many neurons for each (image, target, token), as arrays.

    ``columns`` from ``layer`` to ``activation``, each (labels, n). What ``neuron_table`` makes
    of them, in a fraction of the time.
    """
    pairs = [label[:2] for label in labels]
    places = {pair: place for place, pair in enumerate(sorted(set(pairs)))}
    repeat = columns["score"].shape[1]
    rows = np.arange(len(labels)).repeat(repeat)
    own = np.array([places[pair] for pair in pairs], dtype=np.int64)[rows]
    held = {name: np.asarray(columns[name]).ravel() for name in COLUMNS[3:]}
    keys = held["patch"], held["unit"], held["layer"], -held["score"], own
    order = np.lexsort(keys)
    images, targets, tokens = zip(*labels, strict=True) if labels else ((), (), ())
    begin = {
        "image": pd.array(images, dtype="str").take(rows[order]),
        "target": pd.array(targets, dtype="str").take(rows[order]),
        "token": np.array(tokens, dtype=np.int64)[rows[order]],
    }
    rest = {name: held[name][order].astype(SCHEMA[name], copy=False) for name in held}
    table = pd.DataFrame({**begin, **rest}, copy=False)
    _check_finite(table, rest["score"], rest["activation"])
    return table


def _check_finite(table: pd.DataFrame, score: np.ndarray, activation: np.ndarray) -> None:
    """Raise ``ValueError`` naming a row whose score, or activation, is not finite."""
    for name, wrong in (("score", ~np.isfinite(score)), ("activation", np.isinf(activation))):
        if wrong.any():
            bad = table.loc[wrong].iloc[0]
            raise ValueError(
                f"{name} {bad[name]} of L{bad.layer}.u{bad.unit} on image {bad.image!r} is not "
                "finite; compute in float32 or bfloat16 and check the pictures"
            )


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Give the columns their order and types; ``ValueError`` where that loses something."""
    missing = [name for name in COLUMNS if name not in table]
    unknown = [str(name) for name in table.columns if name not in SCHEMA]
    if missing or unknown:
        raise ValueError(
            f"a neuron table has the columns {', '.join(COLUMNS)}; "
            f"missing: {missing or 'none'}, unknown: {unknown or 'none'}"
        )
    columns = {}
    for name, kind in SCHEMA.items():
        try:
            columns[name] = table[name].astype(kind)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"column {name!r} cannot be held as {kind}: {error}") from None
        if kind.startswith("int") and not (columns[name] == table[name]).all():
            raise ValueError(f"column {name!r} has values that are no {kind}; give whole numbers")
    return pd.DataFrame(columns)


def write_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a neuron table to parquet, whole or not at all; return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        neuron_table(table).to_parquet(part, index=False)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a neuron table from parquet; ``ValueError`` if the columns are not a neuron table's."""
    return neuron_table(pd.read_parquet(path))


def top_k(table: pd.DataFrame, k: int, per: Sequence[str] = ("image", "target")) -> pd.DataFrame:
    """Keep the ``k`` highest scores of each group of ``per``; an empty ``per`` is one group."""
    if k < 0:
        raise ValueError(f"k={k}: give a number of rows, 0 or more")
    ordered = table.sort_values("score", ascending=False, kind="stable")
    kept = ordered.groupby(list(per), sort=False).head(k) if per else ordered.head(k)
    return neuron_table(kept)


def unique_neurons(table: pd.DataFrame) -> list[Neuron]:
    """List the neurons of a table once each, in the order of their highest score."""
    return neurons_of(unique_rows(table))


def unique_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Keep each neuron's row of the highest score, highest first, whatever image it is of."""
    ordered = table.sort_values("score", ascending=False, kind="stable")
    return ordered.drop_duplicates(["layer", "unit"])


def neurons_of(table: pd.DataFrame) -> list[Neuron]:
    """List the neurons of a table row by row."""
    columns = table["layer"].tolist(), table["unit"].tolist()
    return [Neuron(*pair) for pair in zip(*columns, strict=True)]


def best_of(table: pd.DataFrame, k: int) -> dict[tuple[str, str], list[Neuron]]:
    """List each concept's top ``k`` neurons: {(image, noun): neurons, best first}."""
    top = top_k(table, k)
    found: dict[tuple[str, str], list[Neuron]] = {}
    for image, noun, neuron in zip(top["image"], top["target"], neurons_of(top), strict=True):
        found.setdefault((image, noun), []).append(neuron)
    return found


def random_like(
    neurons: Sequence[Neuron],
    units: int,
    rng: np.random.Generator,
    exclude: Iterable[Neuron] = (),
) -> list[Neuron]:
    """Draw as many random neurons of the same layers: the papers' control.

    The i-th one drawn lies in the layer of the i-th one given, so the first k of the
    draw match the first k given, for every k. Drawn without replacement from the
    ``units`` of each layer, never one of ``neurons`` or of ``exclude``. ``ValueError``
    when a layer has too few left.
    """
    taken: dict[int, set[int]] = {}
    for neuron in (*neurons, *exclude):
        taken.setdefault(neuron.layer, set()).add(neuron.unit)
    layers = [neuron.layer for neuron in neurons]
    drawn = {}
    for layer in sorted(set(layers)):
        free = np.setdiff1d(np.arange(units), list(taken[layer]))
        count = layers.count(layer)
        if count > len(free):
            raise ValueError(
                f"layer {layer} has {len(free)} of its {units} units left to draw {count} from; "
                "ask for fewer neurons or exclude fewer"
            )
        drawn[layer] = iter(rng.choice(free, size=count, replace=False))
    return [Neuron(layer, int(next(drawn[layer]))) for layer in layers]


def controls(
    table: pd.DataFrame, units: int, seed: int, k: int | None = None
) -> dict[str, dict[str, list[Neuron]]]:
    """List each image's top ``k`` neurons and as many random ones of the same layers.

    {image: {"multimodal": [...], "random": [...]}}. The draw depends on the seed and the
    image alone, so more images leave it as it is.
    """
    chosen = {}
    for image, rows in table.groupby("image", sort=False):
        top = unique_neurons(rows)[:k]
        rng = np.random.default_rng([seed, zlib.crc32(str(image).encode())])
        chosen[str(image)] = {TOP: top, RANDOM: random_like(top, units, rng)}
    return chosen


def by_layer(neurons: Iterable[Neuron]) -> dict[int, torch.Tensor]:
    """Group units by layer: ascending layers, each with its units (long) once, as first met."""
    groups: dict[int, dict[int, None]] = {}
    for neuron in neurons:
        groups.setdefault(neuron.layer, {})[neuron.unit] = None
    return {layer: torch.tensor(list(groups[layer])) for layer in sorted(groups)}


def check_neurons(neurons: Iterable[Neuron], layers: int, units: int) -> None:
    """Raise ``ValueError`` for a neuron that a model of this size does not have."""
    for neuron in neurons:
        if not (0 <= neuron.layer < layers and 0 <= neuron.unit < units):
            raise ValueError(
                f"{neuron} is not in this model: layers 0 to {layers - 1}, units 0 to {units - 1}"
            )
