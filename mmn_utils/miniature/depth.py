"""Where in the network the top units lie: in variants of the language model, and for pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mmn_utils.miniature.quality.units import layer_counts
from mmn_utils.miniature.text_probe import TextProbe

SHIPPED = {"variant": "shipped", "what_changed": "all of these, trained for longer"}
RANKINGS = {"max": "pictures: best patch", "sum": "pictures: sum of patches"}


def variants(folder: Path, shipped: TextProbe) -> pd.DataFrame:
    """Return what was measured of each variant on text (``variants.py``), then of what ships.

    One row a variant: variant, what_changed, and the columns of ``TextProbe.row``. Only the last
    row where no variants are stored.
    """
    file = folder / "variants.csv"
    tried = pd.read_csv(file) if file.is_file() else pd.DataFrame({k: [] for k in SHIPPED})
    return pd.concat([tried, pd.DataFrame([{**SHIPPED, **shipped.row()}])], ignore_index=True)


def layer_columns(variants: pd.DataFrame) -> list[str]:
    """Name the columns that hold the top units' share in each layer, from layer 0."""
    return [column for column in variants if column.startswith("layer_share_")]


def shares(variants: pd.DataFrame, tops: Mapping[str, pd.DataFrame], layers: int) -> pd.DataFrame:
    """Return the share of top units in each layer: on text for each variant, then on pictures.

    ``tops`` are neuron tables by how units were ranked (max, sum over patches). The index says
    what a row is of, the columns are layers.
    """
    text = variants[layer_columns(variants)].astype(float).set_axis(range(layers), axis=1)
    rows = text.set_axis([f"text: {name}" for name in variants["variant"]], axis=0)
    for rank, name in RANKINGS.items():
        counted = layer_counts(tops[rank], layers).sum()
        rows.loc[name] = counted / counted.sum()
    return rows.rename_axis("what")


def summary(variants: pd.DataFrame, shares: pd.DataFrame) -> dict[str, Any]:
    """Return what the reading needs: the first, the last and the shipped variant, and the peaks.

    ``first`` and ``last`` are None where no variants are stored; ``peak`` is the layer with most
    top units for pictures, ``text_peak`` that for text in what ships.
    """
    *tried, shipped = variants.to_dict("records")
    return {
        "first": tried[0] if tried else None,
        "last": tried[-1] if tried else None,
        "shipped": shipped,
        "peak": int(shares.loc[RANKINGS["max"]].idxmax()),
        "text_peak": int(shares.loc[f"text: {shipped['variant']}"].idxmax()),
    }
