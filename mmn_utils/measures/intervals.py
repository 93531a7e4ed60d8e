"""95 % intervals that cover: of means, shares, differences, ratios, and whatever is resampled.

All but ``bca`` are closed forms over the last axis, the cases, so that many samples are one
call: arrays (..., n) give low and high (...). Their coverage is measured in
``tests/measures/test_coverage.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtrit

LEVEL = 0.95
Z = float(ndtri((1 + LEVEL) / 2))
MANY_TIES = 0.2  # share of pairs without a difference, from which on pseudo-pairs are added


class Interval(NamedTuple):
    """A confidence interval, of one sample or of many; unpacks to (low, high)."""

    low: np.ndarray
    high: np.ndarray


def student(n: int, tests: int = 1) -> float:
    """Return Student's t for the mean of n cases, or for each of several tests together.

    NaN for fewer than two cases.
    """
    tail = (1 - LEVEL) / 2 / tests
    return float(stdtrit(n - 1, 1 - tail)) if n > 1 else np.nan


def of_means(values: np.ndarray) -> Interval:
    """Return the intervals of means: Student's t, corrected for skewness.

    Hall's cubic (1992) turns the studentised mean of a skewed sample into one whose
    distribution is symmetrical, and can be inverted by a cube root. NaN for a single case;
    of width 0 where all cases are equal. Of eight cases it still covers .92 where they are
    exponential, but not where most are equal and a few stand out: for yes and no, and for
    shares, take ``of_shares``.
    """
    values = np.asarray(values, dtype=float)
    n, mean = values.shape[-1], values.mean(-1)
    reach = student(n) / np.sqrt(n)
    if n < 2:
        return Interval(mean + reach, mean + reach)
    away = values - mean[..., None]
    away[np.ptp(values, -1) == 0] = 0  # a mean of equal numbers may be off by rounding
    spread = np.sqrt((away**2).sum(-1) / (n - 1))
    third = _divided((away**3).mean(-1), spread**3) / 3
    bounds = (_uncubed(q - third / (2 * n), third) for q in (reach, -reach))
    return Interval(*(mean - spread * bound for bound in bounds))


def _uncubed(wanted: np.ndarray, third: np.ndarray) -> np.ndarray:
    """Solve t + third t² + third² t³ / 3 = wanted for t."""
    curved = np.abs(third) > 1e-6
    some = np.where(curved, third, 1)
    return np.where(curved, (np.cbrt(1 + 3 * some * wanted) - 1) / some, wanted)


def wilson(share: ArrayLike, n: ArrayLike) -> Interval:
    """Return Wilson's intervals of shares of n cases: in [0, 1], and never of width 0."""
    share, n = np.asarray(share, dtype=float), np.asarray(n, dtype=float)
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    reach = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + (Z / (2 * n)) ** 2)
    # at both ends of the scale the bounds are exact but for rounding
    low = np.where(share == 0, 0, np.clip(middle - reach, 0, share))
    return Interval(low, np.where(share == 1, 1, np.clip(middle + reach, share, 1)))


def of_shares(values: np.ndarray) -> Interval:
    """Return the intervals of means of shares, one value in [0, 1] a case.

    Wilson's. Where a case is itself a share of several things, its values spread less than
    yes and no would, and the sample counts for more than n: for as many as would have the
    spread observed, less what estimating it costs, t for z (Korn and Graubard 1998). Never
    for fewer than n, and for n where the cases do not differ. Of eight to ten cases it covers
    .90 only where nearly all lie at one end of the scale and a few far from it.
    """
    values = np.asarray(values, dtype=float)
    n, mean = values.shape[-1], values.mean(-1)
    if n < 2:
        return wilson(mean, n)
    yes_or_no = _yes_or_no(values) | (np.ptp(values, -1) == 0)
    gain = _divided(mean * (1 - mean), values.var(-1, ddof=1)) * (Z / student(n)) ** 2
    return wilson(mean, n * np.where(yes_or_no, 1, np.maximum(gain, 1)))


def of_differences(first: np.ndarray, second: np.ndarray) -> Interval:
    """Return the intervals of mean differences of pairs.

    As ``of_means``, but where many pairs do not differ at all, or all by as much: what few
    others show says little of the spread. There a pair more is added that differs by as much
    as those usually do, and one that differs so the other way (Bonett and Price 2012, after
    Agresti and Min, for yes and no; there with z, else with t). Values in [0, 1] are known to
    differ by 1 at most, so that theirs are never of width 0.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    gap, n = first - second, first.shape[-1]
    within = _all_within(first) & _all_within(second)
    yes_or_no = _yes_or_no(first) & _yes_or_no(second)
    alike = ((gap == 0).mean(-1) >= MANY_TIES) | (within & (np.ptp(gap, -1) < 1e-9))
    usual = np.sqrt(_divided((gap**2).sum(-1), (gap != 0).sum(-1)))
    usual = np.where((gap == 0).all(-1), np.where(within, 1, 0), usual)
    mean = gap.sum(-1) / (n + 2)
    spread = np.sqrt(np.maximum(((gap**2).sum(-1) + 2 * usual**2) / (n + 2) - mean**2, 0))
    reach = np.where(yes_or_no, Z, student(n)) * spread / np.sqrt(n + 2)
    found = []
    for plain, padded in zip(of_means(gap), (mean - reach, mean + reach), strict=True):
        bound = np.where(yes_or_no | alike, padded, plain)
        found.append(np.where(within, np.clip(bound, -1, 1), bound))
    return Interval(*found)


def of_ratios(above: np.ndarray, below: np.ndarray) -> Interval:
    """Return the intervals of ratios of means over the same cases: Fieller's (1954).

    All ratios r for which the mean of above - r below is not told from 0 by Student's t. NaN
    where the mean below is not told from 0: then there is no ratio, and the set no interval.
    """
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    n = above.shape[-1]
    a, b = above.mean(-1), below.mean(-1)
    p, q = above - a[..., None], below - b[..., None]
    cost = student(n) ** 2 / (n * max(n - 1, 1))
    square, middle, rest = (
        x * y - cost * (u * v).sum(-1) for x, y, u, v in ((b, b, q, q), (a, b, p, q), (a, a, p, p))
    )
    reach = np.sqrt(np.maximum(middle**2 - square * rest, 0))
    some = np.where(square > 0, square, np.nan)
    return Interval((middle - reach) / some, (middle + reach) / some)


def bca(value: float, drawn: np.ndarray, left: np.ndarray) -> tuple[float, float]:
    """Return Efron's BCa interval of any statistic: bias-corrected and accelerated.

    ``value`` of the sample, ``drawn`` of its resamples, ``left`` with each case left out, of
    which those that are no number are passed over. Draws that equal the value count half.
    """
    some = 1 / (2 * len(drawn))
    below = (drawn < value).mean() + (drawn == value).mean() / 2
    bias = ndtri(np.clip(below, some, 1 - some))
    left = left[np.isfinite(left)]
    away = left.mean() - left if len(left) else np.zeros(1)
    size = (away**2).sum() ** 1.5
    acceleration = (away**3).sum() / (6 * size) if size > 0 else 0.0
    moved = bias + np.array([-Z, Z])
    low, high = np.quantile(drawn, ndtr(bias + moved / (1 - acceleration * moved)))
    return float(low), float(high)


def _yes_or_no(values: np.ndarray) -> np.ndarray:
    return ((values == 0) | (values == 1)).all(-1)


def _all_within(values: np.ndarray) -> np.ndarray:
    return ((values >= 0) & (values <= 1)).all(-1)


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, with 0 where there is nothing to divide by."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)
