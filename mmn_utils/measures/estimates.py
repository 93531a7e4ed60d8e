"""Measured numbers with their intervals, ready for prose, tables and claims.

The cases are images: every interval is over them, by a percentile bootstrap or by leaving
each out, so what is computed inside an image (its patches, its units) never counts as more
than one case.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

RESAMPLES = 1000
LEVEL = 0.95
RESAMPLES_AT_ONCE = 1 << 22  # bootstrap indices held in memory together


class Interval(NamedTuple):
    """A confidence interval; unpacks to (low, high)."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A number over ``n`` cases with its interval; ``f"{x:.2f}"`` is "0.51 [0.47, 0.55]"."""

    value: float
    low: float
    high: float
    n: int

    @property
    def ci(self) -> tuple[float, float]:
        """The interval, as ``Run.claim`` wants it."""
        return self.low, self.high

    def covers(self, number: float) -> bool:
        """Say whether a number lies in the interval."""
        return self.low <= number <= self.high

    def __format__(self, spec: str) -> str:
        spec = spec or ".3g"
        # -0.0 and 0.0 are one number
        shown = (format(number + 0.0, spec) for number in (self.value, self.low, self.high))
        return "{} [{}, {}]".format(*shown)

    def __str__(self) -> str:
        return format(self, "")


def mean_of(values: ArrayLike, seed: int = 0) -> Estimate:
    """Return the mean of one value per image."""
    values = np.asarray(values, dtype=float)
    interval = bootstrap_interval(values, RESAMPLES, LEVEL, seed)
    return Estimate(float(values.mean()), *interval, len(values))


def difference_of(first: ArrayLike, second: ArrayLike, seed: int = 0) -> Estimate:
    """Return the mean of ``first - second``, image by image: both in the same order.

    ValueError where lengths differ.
    """
    first, second = _finite(first, "first"), _finite(second, "second")
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs: align them first")
    return mean_of(first - second, seed)


def bootstrap(
    statistic: Callable[..., float], *columns: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Return any statistic of columns whose first axis are the images, resampled together.

    ``statistic`` gets the columns and returns one number, NaN where it has none; the
    interval is over the resamples that have one. ValueError for columns of unequal or
    no length, and where fewer than half of the resamples have a number.
    """
    arrays, n = _aligned(columns)
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, n, size=(resamples, n))
    drawn = np.array([statistic(*(array[row] for array in arrays)) for row in rows], dtype=float)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < resamples / 2:
        raise ValueError(
            f"the statistic is a number in only {len(drawn)} of {resamples} resamples; "
            "take more images, or a statistic without a vanishing denominator"
        )
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(statistic(*arrays)), float(low), float(high), n)


def jackknife(statistic: Callable[..., float], *columns: ArrayLike) -> Estimate:
    """Return any smooth statistic of columns whose first axis are the images, each left out once.

    For what repeated images distort, such as counts of different units: a resample of the
    bootstrap holds two thirds of the images, hence fewer kinds. The interval is normal, with
    Tukey's variance. ValueError for columns of unequal length, for fewer than two images,
    and where the statistic is no number without one of them.
    """
    arrays, n = _aligned(columns)
    if n < 2:
        raise ValueError("one image alone has no spread: give at least two")
    kept = ~np.eye(n, dtype=bool)
    left = np.array([statistic(*(array[rows] for array in arrays)) for rows in kept], dtype=float)
    if not np.isfinite(left).all():
        raise ValueError(
            f"the statistic is no number without image {int(np.isfinite(left).argmin())}; "
            "take more images, or a statistic without a vanishing denominator"
        )
    value, spread = float(statistic(*arrays)), float(left.std() * np.sqrt(n - 1))
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * spread
    return Estimate(value, value - reach, value + reach, n)


def _aligned(columns: Sequence[ArrayLike]) -> tuple[list[np.ndarray], int]:
    """Return the columns as arrays, and their common length; ValueError if they have none."""
    arrays = [np.asarray(column) for column in columns]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"columns of lengths {sorted(lengths)}: give one entry for each image")
    return arrays, lengths.pop()


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    statistic: Callable[..., np.ndarray] = np.mean,
) -> Interval:
    """Return the percentile bootstrap interval of a statistic of the values.

    ``n`` resamples with replacement; ``statistic`` takes ``axis=`` as numpy's do (mean,
    median). The same seed gives the same interval. A single value gives an interval of
    width 0. ValueError for no values, NaN, or a level outside (0, 1).
    """
    values = _finite(values, "values")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"n={n}, level={level}: n must be positive, level between 0 and 1")
    rng = np.random.default_rng(seed)
    at_once = max(1, RESAMPLES_AT_ONCE // len(values))
    parts = []
    for start in range(0, n, at_once):
        rows = min(at_once, n - start)
        drawn = rng.integers(0, len(values), size=(rows, len(values)))
        parts.append(statistic(values[drawn], axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail])
    return Interval(float(low), float(high))


def ks_of(first: ArrayLike, second: ArrayLike, seed: int = 0) -> tuple[Estimate, float]:
    """Return Kolmogorov and Smirnov's D of two samples over the same images, and its p.

    A resampled D can only gain from chance, so the interval leans upwards; p is the
    test, the interval tells how large D is.
    """
    statistic, pvalue = kolmogorov_smirnov(first, second)
    interval = bootstrap(_largest_gap, np.asarray(first), np.asarray(second), seed=seed)
    return Estimate(statistic, *interval.ci, interval.n), pvalue


def kolmogorov_smirnov(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """Test whether two samples come from one distribution: D and p (two-sided, scipy's).

    Paper A, section 2.1, for decoded prompts against random ones. The p-value is exact
    where scipy can compute it, else asymptotic. ValueError for an empty sample or NaN.
    """
    from scipy import stats  # here, since it costs most notebooks half a second for nothing

    a, b = _finite(a, "a"), _finite(b, "b")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful")
        result = stats.ks_2samp(a, b)
    return float(result.statistic), float(result.pvalue)


def _largest_gap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest distance between two empirical distribution functions."""
    first, second = np.sort(first), np.sort(second)
    both = np.concatenate([first, second])
    shares = [np.searchsorted(part, both, side="right") / len(part) for part in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def share_of_gap(
    floor: ArrayLike, values: ArrayLike, ceiling: ArrayLike, seed: int = 0
) -> Estimate:
    """Return how far the values have come on the way from the floor's mean to the ceiling's.

    0 at the floor, 1 at the ceiling: comparable between metrics of different scale. NaN
    where the ceiling does not lie above the floor, within the images' chance: then there
    is no way to go.
    """

    def share(low: np.ndarray, value: np.ndarray, high: np.ndarray) -> float:
        return (value.mean() - low.mean()) / (high.mean() - low.mean())

    if not difference_of(ceiling, floor, seed).low > 0:
        return Estimate(np.nan, np.nan, np.nan, len(np.asarray(values)))
    return bootstrap(share, floor, values, ceiling, seed=seed)


# --- many at once ----------------------------------------------------------------------


def means_of(columns: Mapping[Hashable, ArrayLike], seed: int = 0) -> dict[Hashable, Estimate]:
    """Return ``mean_of`` each column of a table, or each entry of a mapping, by its name."""
    return {name: mean_of(values, seed) for name, values in columns.items()}


def frame_of(
    found: Mapping[tuple, Estimate], names: Sequence[str], value: str = "mean"
) -> pd.DataFrame:
    """Lay estimates out, a row each: ``names`` of the parts of their keys, ``value``, low, high, n.

    ValueError for a key of another length than ``names``.
    """
    rows = [(*key, e.value, e.low, e.high, e.n) for key, e in found.items()]
    columns = [*names, value, "low", "high", "n"]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"names = {list(names)} do not fit the keys {list(found)[:3]} ...")
    return pd.DataFrame(rows, columns=columns)


def _finite(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    """Return the values as a flat float64 array; ValueError when empty or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty list of numbers, has shape {array.shape}")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name}[{where}] is {array[where]}: drop or repair it first")
    return array
