"""Tables as notebook 00 prints them: numbers in words, intervals in one cell."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mmn_utils.miniature.depth import layer_columns


def quality(table: pd.DataFrame) -> pd.DataFrame:
    """Print ``quality_table``."""
    return pd.DataFrame(
        {
            "measure": table["measure"],
            "value": _texts(table["value"], "{:.3g}"),
            "95 % interval": _intervals(table, "{:.3g}"),
            "scenes": table["n"],
            "required": table["required"],
            "met": table["met"],
        }
    )


def colours(probes: pd.DataFrame) -> pd.DataFrame:
    """Print ``history.colours``: a row an encoder, a column what was named in each palette."""
    wide = probes.pivot(index="encoder", columns="colours", values=["patch", "object"])
    wide = wide.reindex(probes["encoder"].unique())
    palettes = probes["colours"].unique()
    columns = {
        f"{what}, {palette}": _texts(wide[what, palette], "{:.2f}")
        for what in ("patch", "object")
        for palette in palettes
    }
    return pd.DataFrame({"encoder": wide.index, **columns})


def variants(variants: pd.DataFrame) -> pd.DataFrame:
    """Print ``depth.variants``."""
    top, random = variants["related_top"], variants["related_random"]
    layers = variants[layer_columns(variants)].to_numpy()
    return pd.DataFrame(
        {
            "variant": variants["variant"],
            "what changed": variants["what_changed"],
            "noun right": variants["first_noun_correct"],
            "top units in layers 0, 1, …": [" ".join(_texts(row, "{:.2f}")) for row in layers],
            "naming the concept": top,
            "random units": random,
            "ratio": top / random.where(random > 0),
        }
    )


def systems(table: pd.DataFrame) -> pd.DataFrame:
    """Print ``systems_table``."""
    return pd.DataFrame(
        {
            "system": table["system"],
            "how it sees": table["sees"],
            "language model": table["language_model"].fillna(""),
            "image tokens": _texts(table["image_tokens"], "{:.0f}"),
            "what captions taught": table["learns"],
            "its parameters": _texts(table["trained"], "{:,.0f}"),
            "pairs": _texts(table["pairs"], "{:,.0f}"),
            "first noun right": _texts(table["first_noun"], "{:.1%}", "not trained"),
            "95 % interval": _intervals(table, "{:.1%}"),
            "objects named": _texts(table["recall"], "{:.1%}", "not trained"),
        }
    )


def _texts(values: Iterable[float], form: str, missing: str = "") -> list[str]:
    return [form.format(value) if np.isfinite(value) else missing for value in values]


def _intervals(table: pd.DataFrame, form: str) -> list[str]:
    """Write intervals; a whole number that every redraw gives, as a layer's, is no interval."""
    pairs = zip(_texts(table["ci_low"], form), _texts(table["ci_high"], form), strict=True)
    same = table["ci_low"] == table["ci_high"]
    texts = [f"{low} to {high}" if low else "" for low, high in pairs]
    return ["the same in every redraw" if s else text for s, text in zip(same, texts, strict=True)]
