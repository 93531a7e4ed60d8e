"""In which layers the neurons of a table lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mmn_utils.neurons.table import top_k


def layer_counts(
    tables: Mapping[str, pd.DataFrame], layers: int, ks: Sequence[int]
) -> pd.DataFrame:
    """Count the different neurons and the entries of top-k lists in each layer (Fig. 2).

    ``tables`` by method; one row per (method, k, layer): layer from 0, depth of its centre,
    neurons (different ones), entries (in the lists of all concepts).
    """
    rows = []
    for method, table in tables.items():
        for k in ks:
            top = top_k(table, k)
            entries = np.bincount(top["layer"], minlength=layers)
            once = top.drop_duplicates(["layer", "unit"])
            neurons = np.bincount(once["layer"], minlength=layers)
            each = zip(range(layers), neurons.tolist(), entries.tolist(), strict=True)
            rows += [(method, k, layer, (layer + 0.5) / layers, *both) for layer, *both in each]
    return pd.DataFrame(rows, columns=["method", "k", "layer", "depth", "neurons", "entries"])


def upper_share(table: pd.DataFrame, layers: int, k: int) -> pd.Series:
    """Return the share of each image's different top-``k`` neurons in the upper half of layers."""
    once = top_k(table, k).drop_duplicates(["image", "layer", "unit"])
    return (once["layer"] >= layers / 2).groupby(once["image"], sort=False).mean()


def upper_rows(tables: Mapping[str, pd.DataFrame], layers: int, k: int) -> pd.DataFrame:
    """Return ``upper_share`` of each method: a row an image, image and a column each method."""
    shares = {method: upper_share(table, layers, k) for method, table in tables.items()}
    return pd.DataFrame(shares).rename_axis("image").reset_index()
