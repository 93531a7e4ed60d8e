"""Measured numbers with their intervals, ready for prose, tables and claims.

The cases are images: every 95 % interval is over them, so what is computed inside an image
(its patches, its units) never counts as more than one case. ``intervals`` and ``distance``
say how each is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mmn_utils.measures import distance, intervals

RESAMPLES = 1000
FURTHER = 3  # digits at most that tell the ends of an interval apart


@dataclass(frozen=True)
class Estimate:
    """A number over ``n`` cases with its interval; ``f"{x:.2f}"`` is "0.51 [0.47, 0.55]".

    Written with up to three more digits where the ends of the interval would look the same.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def ci(self) -> tuple[float, float]:
        """The interval."""
        return self.low, self.high

    def covers(self, number: float) -> bool:
        """Say whether a number lies in the interval."""
        return self.low <= number <= self.high

    def __format__(self, spec: str) -> str:
        def write(number: float, further: int) -> str:
            return format(number + 0.0, _finer(spec or ".3g", further))  # -0.0 and 0.0 are one

        further = further_digits(write, self.low, self.high)
        return "{} [{}, {}]".format(*(write(x, further) for x in (self.value, *self.ci)))

    def __str__(self) -> str:
        return format(self, "")


def further_digits(write: Callable[[float, int], str], low: float, high: float) -> int:
    """Return how many digits more than usual tell the ends of an interval apart, 3 at most.

    ``write(number, further)`` writes one end. 0 where both are the same number.
    """
    if low == high:
        return 0
    apart = (n for n in range(FURTHER) if write(low, n) != write(high, n))
    return next(apart, FURTHER)


def _finer(spec: str, digits: int) -> str:
    """Ask for some more digits than a format does."""
    return re.sub(r"\.(\d+)", lambda found: f".{int(found[1]) + digits}", spec)


def mean_of(values: ArrayLike, seed: int = 0) -> Estimate:
    """Return the mean of one value per image: Student's t, corrected for skewness.

    A single image has no interval: its bounds are NaN. Where all values are equal the width is
    0; for shares, which may well be equal by chance, take ``share_of``. ``seed`` is there as in
    all estimates and changes nothing, since nothing is drawn. ValueError for no values or NaN.
    """
    values = _finite(values, "values")
    return _estimate(values.mean(), intervals.of_means(values), len(values))


def share_of(values: ArrayLike, seed: int = 0) -> Estimate:
    """Return the mean of a share per image, or of yes and no: Wilson's interval.

    In [0, 1] and never of width 0, for one image neither. See ``intervals.of_shares`` for
    images that are shares of several things. ValueError for no values, NaN, and values
    outside [0, 1]; ``seed`` changes nothing.
    """
    values = _finite(values, "values")
    outside = (values < 0) | (values > 1)
    if outside.any():
        where = int(outside.argmax())
        raise ValueError(f"values[{where}] is {values[where]}, no share: take mean_of")
    return _estimate(values.mean(), intervals.of_shares(values), len(values))


def difference_of(first: ArrayLike, second: ArrayLike, seed: int = 0) -> Estimate:
    """Return the mean of ``first - second``, image by image: both in the same order.

    The interval of ``mean_of``, but where pairs are yes and no or often alike; see
    ``intervals.of_differences``. Between values in [0, 1] never of width 0. NaN bounds for a
    single pair, unless it is of yes and no. ValueError where lengths differ; ``seed`` changes
    nothing.
    """
    first, second = _pairs(first, second)
    found = intervals.of_differences(first, second)
    return _estimate((first - second).mean(), found, len(first))


def ratio_of(first: ArrayLike, second: ArrayLike, seed: int = 0) -> Estimate:
    """Return the ratio of the mean of ``first`` to that of ``second`` over the same images.

    Fieller's interval. All NaN where the mean of ``second`` cannot be told from 0, so for a
    single image: what is divided by chance is no number to be read out. ValueError where
    lengths differ; ``seed`` changes nothing.
    """
    first, second = _pairs(first, second)
    found = intervals.of_ratios(first, second)
    value = first.mean() / second.mean() if np.isfinite(found.low) else np.nan
    return _estimate(value, found, len(first))


def share_of_gap(
    floor: ArrayLike, values: ArrayLike, ceiling: ArrayLike, seed: int = 0
) -> Estimate:
    """Return how far the values have come on the way from the floor's mean to the ceiling's.

    0 at the floor, 1 at the ceiling: comparable between metrics of different scale. NaN
    where the ceiling does not lie above the floor, within the images' chance: then there
    is no way to go. The interval is ``ratio_of``'s.
    """
    floor, values = _pairs(floor, values)
    floor, ceiling = _pairs(floor, ceiling)
    found = ratio_of(values - floor, ceiling - floor, seed)
    if not ceiling.mean() > floor.mean():
        return Estimate(np.nan, np.nan, np.nan, found.n)
    return found


def falls_of(table: ArrayLike, seed: int = 0) -> Estimate:
    """Return the share of steps at which the mean falls, from each column to the next.

    ``table``: images by columns. The columns are what they are, the images a sample. So the
    interval goes from the share of steps that surely fall to that of steps that do not surely
    rise or stay, by Student's t for all steps together (Bonferroni), and half a step further
    on either side, as finely as a count of steps can tell. ``n`` counts images. ValueError
    for fewer than two columns, no images or NaN; ``seed`` changes nothing.
    """
    table = np.asarray(table, dtype=float)
    if table.ndim != 2 or table.shape[1] < 2 or not len(table) or not np.isfinite(table).all():
        raise ValueError(f"a table of shape {table.shape} has no steps, or holds NaN")
    n, steps = len(table), table.shape[1] - 1
    change = np.diff(table, axis=1)
    mean = change.mean(0)
    reach = np.full(steps, np.inf)
    if n > 1:
        reach = intervals.student(n, steps) * change.std(0, ddof=1) / np.sqrt(n)
    low = ((mean + reach < 0).sum() - 0.5) / steps
    high = (steps - (mean - reach >= 0).sum() + 0.5) / steps
    return Estimate(float((mean < 0).mean()), max(float(low), 0.0), min(float(high), 1.0), n)


def ks_of(first: ArrayLike, second: ArrayLike, seed: int = 0) -> tuple[Estimate, float]:
    """Return Kolmogorov and Smirnov's D of two samples over the same images, and its p.

    p is the test, the interval tells how large D is. It is of those D that make the observed
    one usual (``distance.interval_of``), and holds 0 where the samples may be of one
    distribution. ValueError where lengths differ; ``seed`` changes nothing, what is simulated
    is the same for all.
    """
    first, second = _pairs(first, second)
    d, p = distance.kolmogorov_smirnov(first, second)
    return Estimate(d, *distance.interval_of(d, first, second), len(first)), p


def bootstrap(
    statistic: Callable[..., float], *columns: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Return any statistic of columns whose first axis are the images, resampled together.

    For what has no estimate of its own here. ``statistic`` gets the columns and returns one
    number, NaN where it has none; the interval (BCa) is over the resamples that have one.
    NaN bounds for a single image. ValueError for columns of unequal or no length, and where
    fewer than half of the resamples have a number.
    """
    arrays, n = _aligned(columns)
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, n, size=(resamples, n))
    drawn = _of_rows(statistic, arrays, rows)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < resamples / 2:
        raise ValueError(
            f"the statistic is a number in only {len(drawn)} of {resamples} resamples; "
            "take more images, or a statistic without a vanishing denominator"
        )
    value = float(statistic(*arrays))
    if n < 2:
        return Estimate(value, np.nan, np.nan, n)
    left = _of_rows(statistic, arrays, ~np.eye(n, dtype=bool))
    return Estimate(value, *intervals.bca(value, drawn, left), n)


def _of_rows(
    statistic: Callable[..., float], arrays: Sequence[np.ndarray], rows: np.ndarray
) -> np.ndarray:
    """Compute a statistic of the images of each row, given by number or as a mask."""
    return np.array([statistic(*(array[row] for array in arrays)) for row in rows], dtype=float)


def _aligned(columns: Sequence[ArrayLike]) -> tuple[list[np.ndarray], int]:
    """Return the columns as arrays, and their common length; ValueError if they have none."""
    arrays = [np.asarray(column) for column in columns]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"columns of lengths {sorted(lengths)}: give one entry for each image")
    return arrays, lengths.pop()


# --- many at once ----------------------------------------------------------------------


def means_of(columns: Mapping[Hashable, ArrayLike], seed: int = 0) -> dict[Hashable, Estimate]:
    """Return ``mean_of`` each column of a table, or each entry of a mapping, by its name."""
    return {name: mean_of(values, seed) for name, values in columns.items()}


def shares_of(columns: Mapping[Hashable, ArrayLike], seed: int = 0) -> dict[Hashable, Estimate]:
    """Return ``share_of`` each column of a table, or each entry of a mapping, by its name."""
    return {name: share_of(values, seed) for name, values in columns.items()}


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


def _estimate(value: float, interval: intervals.Interval, n: int) -> Estimate:
    """Make an estimate of numpy's numbers."""
    return Estimate(float(value), float(interval.low), float(interval.high), n)


def _pairs(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays of finite numbers; ValueError unless they are equally long."""
    first, second = _finite(first, "first"), _finite(second, "second")
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs: align them first")
    return first, second


def _finite(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    """Return the values as a flat float64 array; ValueError when empty or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty list of numbers, has shape {array.shape}")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name}[{where}] is {array[where]}: drop or repair it first")
    return array
