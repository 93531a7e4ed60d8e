"""How far two samples lie apart: Kolmogorov and Smirnov's D, its test and its interval.

D of two samples gains from chance, and gains again in resamples of them, so no bootstrap
covers it. Its interval is found by turning the question around: which true D make the one
observed usual? D does not depend on the scale, only on ranks, so two normal distributions
that lie apart by some shift stand for all pairs. Measured, it covers .94 to .98 where they do
lie apart by a shift, also of skewed or bounded distributions, more where they differ in
spread alone or hardly at all (D has then several places to be large at, or no room to err
downwards), and down to .92 where a skewed one is held against a symmetrical one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

from mmn_utils.measures.intervals import LEVEL

# true D for which samples are simulated: closer together where they hardly overlap
TRUE = np.concatenate(
    [np.linspace(0, 0.9, 25), [0.925, 0.95, 0.965, 0.98, 0.99, 0.995, 0.999, 0.9999]]
)
SIMULATED = 200_000  # cases of each sample, in all simulated samples together
APART = 100.0  # further than any shift of a sample against another


def kolmogorov_smirnov(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """Test whether two samples come from one distribution: D and p (two-sided, scipy's).

    Paper A, section 2.1, for decoded prompts against random ones. The p-value is exact
    where scipy can compute it, else asymptotic.
    """
    from scipy import stats  # here, since it costs most notebooks half a second for nothing

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful")
        result = stats.ks_2samp(a, b)
    return float(result.statistic), float(result.pvalue)


def interval_of(d: float, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the interval of the true D of two samples over the same n cases, ``d`` apart.

    Those D for which ``d`` lies in the middle 95 % of what simulated samples of n pairs show,
    whose rank correlation is the samples' own to a tenth. Never narrower than D's step, 1 / n,
    on the side of more.
    """
    n = len(first)
    low, high = _bounds(n, _correlation(first, second))[:, round(d * n)]
    return float(min(low, d)), float(min(max(high, d + 1 / n), 1))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the normal correlation that has the samples' rank correlation, to a tenth."""
    a, b = _ranks(first), _ranks(second)
    size = np.sqrt((a @ a) * (b @ b))
    normal = 2 * np.sin(np.pi / 6 * (a @ b) / size) if size > 0 else 0.0
    return float(np.clip(np.round(normal, 1), -0.95, 0.95)) + 0.0  # -0.0 and 0.0 are one number


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank values, equal ones by their middle, and centre the ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - count / 2)[place]
    return ranks - ranks.mean()


@lru_cache(maxsize=256)
def _bounds(n: int, correlation: float) -> np.ndarray:
    """Return the bounds (2, n + 1) of the true D for each D that n pairs can show: 0, 1 / n ... 1.

    Where the chance to see as much (low), or as little (high), is that of one tail; what was
    seen itself counts half (mid-p), so that steps make the interval neither too wide nor too
    narrow on average.
    """
    seen = _simulated(n, correlation)
    counts = np.stack([np.bincount(row, minlength=n + 1) for row in seen]) / seen.shape[1]
    as_little = counts.cumsum(1) - counts / 2
    ends = 1 / (2 * seen.shape[1])
    chances = [ndtri(np.clip(some, ends, 1 - ends)) for some in (1 - as_little, as_little)]
    tail = ndtri((1 - LEVEL) / 2)
    low = [np.interp(tail, np.maximum.accumulate(some), TRUE) for some in chances[0].T]
    rising = (np.maximum.accumulate(some[::-1]) for some in chances[1].T)
    high = [np.interp(tail, some, TRUE[::-1], left=1) for some in rising]
    return np.array([low, high])


def _simulated(n: int, correlation: float) -> np.ndarray:
    """Return n D of simulated samples of n normal pairs: (``TRUE`` D, samples), whole numbers.

    The same samples are shifted for each true D.
    """
    rng = np.random.default_rng(0)
    samples = int(np.clip(SIMULATED // n, 400, 2000))
    a, noise = rng.normal(size=(2, samples, n))
    b = np.sort(correlation * a + np.sqrt(1 - correlation**2) * noise, axis=1)
    row = np.arange(samples)[:, None]
    ladder = (np.sort(a, axis=1) + APART * row).ravel()  # all samples in one sorted list
    seen = []
    for shift in 2 * ndtri((1 + TRUE) / 2):
        below = np.searchsorted(ladder, (b + shift + APART * row).ravel()).reshape(samples, n)
        gap = below - row * n - np.arange(n)  # cases of a less those of b, just below each of b
        seen.append(np.maximum(gap.max(1), (1 - gap).max(1)))
    return np.array(seen)
