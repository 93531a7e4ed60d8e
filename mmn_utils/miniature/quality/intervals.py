"""Means, shares and ratios over scenes, each with its 95 % interval."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from mmn_utils.measures import intervals
from mmn_utils.measures.estimates import Estimate, difference_of, mean_of, ratio_of, share_of

Result = tuple[float, float, float, int]  # value, ci_low, ci_high, n
NOTHING: Result = (np.nan, np.nan, np.nan, 0)
RESAMPLES = 1000


def mean(values: pd.Series) -> Result:
    """Return mean, interval and number of the values that are there (no NaN)."""
    return _result(mean_of, values)


def share(values: pd.Series) -> Result:
    """Return the same of shares, or of yes and no: values in [0, 1]."""
    return _result(share_of, values)


def difference(first: pd.Series, second: pd.Series) -> Result:
    """Return the mean difference over the same scenes, its interval and their number."""
    return _result(difference_of, first, second)


def ratio(above: pd.Series, below: pd.Series) -> Result:
    """Return the ratio of two means over the same scenes, its interval and their number.

    The interval is NaN where the mean below cannot be told from 0, as with a handful of
    scenes; so is the ratio where that mean is 0.
    """
    _, low, high, n = _result(ratio_of, above, below)
    a, b = pd.concat([above, below], axis=1).dropna().to_numpy(dtype=float).T
    return (float(a.mean() / b.mean()) if b.any() else np.nan, low, high, n)


def _result(estimate: Callable[..., Estimate], *columns: pd.Series) -> Result:
    """Estimate from the scenes that have a value in every column."""
    table = pd.concat(columns, axis=1).dropna().to_numpy(dtype=float)
    if not len(table):
        return NOTHING
    found = estimate(*table.T)
    return found.value, found.low, found.high, found.n


def resampled(count: int, statistic: Callable[[np.ndarray], np.ndarray]) -> Result:
    """Return a statistic of ``count`` scenes with its bootstrap interval (BCa).

    ``statistic`` takes rows of scene numbers (R, any length) to values (R,). The interval is
    NaN for one scene and where a resample has no value, as with a handful of scenes.
    """
    if count == 0:
        return NOTHING
    value = float(statistic(np.arange(count)[None])[0])
    drawn = statistic(np.random.default_rng(0).integers(0, count, size=(RESAMPLES, count)))
    if count == 1 or not np.isfinite(drawn).all():
        return value, np.nan, np.nan, count
    others = np.nonzero(~np.eye(count, dtype=bool))[1].reshape(count, count - 1)
    return value, *intervals.bca(value, drawn, statistic(others)), count


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, with NaN instead of infinity where there is nothing to divide by."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
