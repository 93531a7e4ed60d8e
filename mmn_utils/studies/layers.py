"""In which layers the neurons of a table lie."""

from __future__ import annotations

import numpy as np
import pandas as pd


def unit_numbers(table: pd.DataFrame, units: int) -> np.ndarray:
    """Number the units of a neuron table through all layers: int64 (rows,)."""
    return table["layer"].to_numpy(np.int64) * units + table["unit"].to_numpy(np.int64)


def units_per_layer(numbers: np.ndarray, units: int, layers: int) -> np.ndarray:
    """Count the different ones among numbered units in each layer: int64 (layers,)."""
    return np.bincount(np.unique(numbers) // units, minlength=layers)
