"""Means and ratios over scenes, each with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from mmn_utils.measures.estimates import Interval, bootstrap_interval

Result = tuple[float, float, float, int]  # value, ci_low, ci_high, n
NOTHING: Result = (np.nan, np.nan, np.nan, 0)


def mean(values: pd.Series) -> Result:
    """Return mean, interval and number of the values that are there (no NaN)."""
    values = values.dropna().to_numpy(dtype=float)
    return resampled(len(values), lambda rows: values[rows].mean(1))


def ratio(above: pd.Series, below: pd.Series) -> Result:
    """Return the ratio of two means over the same scenes, its interval and their number."""
    pairs = pd.concat([above, below], axis=1).dropna().to_numpy(dtype=float)
    return resampled(
        len(pairs), lambda rows: divide(pairs[rows, 0].mean(1), pairs[rows, 1].mean(1))
    )


def resampled(count: int, statistic: Callable[[np.ndarray], np.ndarray]) -> Result:
    """Return a statistic of ``count`` scenes with its bootstrap interval.

    ``statistic`` takes rows of scene numbers (R, count) to values (R,). The interval is
    NaN where a resample has no value, as with a handful of scenes.
    """
    if count == 0:
        return NOTHING
    value = float(statistic(np.arange(count)[None])[0])

    def of_rows(drawn: np.ndarray, axis: int) -> np.ndarray:
        return statistic(drawn.astype(int))

    interval = bootstrap_interval(np.arange(count), statistic=of_rows)
    low, high = interval if np.isfinite(interval).all() else Interval(np.nan, np.nan)
    return value, low, high, count


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, with NaN instead of infinity where there is nothing to divide by."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
