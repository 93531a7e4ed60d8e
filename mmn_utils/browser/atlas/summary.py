"""The neurons of an atlas in numbers: those among the top of some noun beside all others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mmn_utils.browser.atlas.query import Atlas

GROUPS = {"top": True, "others": False}
MEASURED = ("interpretable", "negative")


def every_neuron(atlas: Atlas) -> pd.DataFrame:
    """List all neurons as ``Atlas.neurons`` does, with ``top``: whether among a noun's best."""
    facts = atlas.facts
    table = atlas.neurons(n=facts.layers * facts.units)
    return table.assign(top=table["nouns"] > 0)


def by_layer(neurons: pd.DataFrame) -> pd.DataFrame:
    """Count neurons, and average what they are, layer by layer; the last row is of all.

    Columns: layer, neurons, top, generic, then ``interpretable`` and ``negative`` (the share of
    image tokens at which a neuron is negative), each of the top ones and of the others, NaN
    where a layer has none of them.
    """
    rows = [_counted(layer, some) for layer, some in neurons.groupby("layer")]
    return pd.DataFrame([*rows, _counted("all", neurons)])


def _counted(layer: int | str, some: pd.DataFrame) -> dict[str, object]:
    row = {"layer": str(layer), "neurons": len(some), "top": int(some["top"].sum())}
    row["generic"] = int(some["generic"].sum())
    for what in MEASURED:
        for name, is_top in GROUPS.items():
            values = some.loc[some["top"] == is_top, what]
            row[f"{what}, {name}"] = float(values.mean()) if len(values) else np.nan
    return row


def table_of(numbers: pd.DataFrame, k: int) -> pd.DataFrame:
    """Lay the numbers of ``by_layer`` out for readers."""
    names = {"top": f"among the top {k}", "generic": "generic"}
    shares = [column for column in numbers if ", " in column]
    shown = numbers.copy()
    for column in shares:
        shown[column] = [f"{value:.0%}" if value == value else "" for value in numbers[column]]
    return shown.rename(columns=names)


def by_picture(
    atlas: Atlas, neurons: pd.DataFrame, images: Iterable[str], of: Sequence[str] = MEASURED
) -> pd.DataFrame:
    """Compare the top neurons of each picture with neurons of their layers that are never top.

    A row for each picture, with the mean over its different top neurons, by any method and for
    any noun, of each of the columns ``of``; under the same name and ``_others`` that of the
    others of the same layers, a layer as often as it has a top neuron. ``top`` counts the
    neurons. Those of a layer without others are left out; NaN where none is left.
    """
    known, rows = neurons.set_index("address"), []
    others = neurons[~neurons["top"]].groupby("layer")[list(of)].mean()
    for image in images:
        some = known.loc[atlas.image(image).scores["address"].unique(), ["layer", *of]]
        some = some[some["layer"].isin(others.index)]
        beside = others.loc[some["layer"]]
        row = {"image": image, "top": len(some)}
        for what in of:
            row[what] = some[what].astype(float).mean()
            row[f"{what}_others"] = beside[what].astype(float).mean()
        rows.append(row)
    return pd.DataFrame(rows)
