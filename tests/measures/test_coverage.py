"""Nominal 95 % intervals cover as often as they say: simulated samples of known truth.

Asked for is a coverage of .93 to .97 at 8, 10, 30, 60 and 200 cases. A simulation of R samples
adds its own error, of which three standard errors, 3 sqrt(.95 x .05 / R), are allowed beyond
those bounds. Samples are drawn with fixed seeds, so nothing here passes or fails by chance.

Where the truth is a share of yes and no, or a distance between few cases, a sample can only
come out in steps, and exact coverage swings around the nominal one as the truth moves between
them, by .05 and more at ten cases; no interval escapes that (Brown, Cai and DasGupta 2001).
Coverage is therefore averaged over truths around the one named.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from mmn_utils.measures import distance, intervals
from mmn_utils.measures.estimates import bootstrap, falls_of

SIZES = (8, 10, 30, 60, 200)
SAMPLES = {8: 8000, 10: 8000, 30: 4000, 60: 4000, 200: 3000}
LEAST, MOST = 0.93, 0.97

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def coverage(interval, truth) -> float:
    """Return the share of intervals that hold the truth."""
    low, high = interval
    return float(np.mean((low <= truth + 1e-9) & (truth - 1e-9 <= high)))


def error(samples: int) -> float:
    """Return three standard errors of a coverage of .95."""
    return 3 * np.sqrt(0.95 * 0.05 / samples)


def percentile(values: np.ndarray, resamples: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return plain percentile intervals of means: what does not cover."""
    n = values.shape[1]
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples) / n
    low, high = np.quantile(values @ weights.T, [0.025, 0.975], axis=1)
    return low, high


# --- means --------------------------------------------------------------------------------

NUMBERS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, size: rng.normal(2, 1, size), 2),
    "gamma, 4": (lambda rng, size: rng.gamma(4, size=size), 4),
    "gamma, 2": (lambda rng, size: rng.gamma(2, size=size), 2),
    "lognormal": (lambda rng, size: rng.lognormal(0, 0.5, size), np.exp(0.125)),
    "beta, 2, 5": (lambda rng, size: rng.beta(2, 5, size), 2 / 7),
    "beta, 5, 1": (lambda rng, size: rng.beta(5, 1, size), 5 / 6),
    "uniform": (lambda rng, size: rng.uniform(size=size), 0.5),
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", NUMBERS)
def test_means_are_covered(name, n):
    draw, truth = NUMBERS[name]
    values = draw(np.random.default_rng(n), (SAMPLES[n], n))
    covered = coverage(intervals.of_means(values), truth)
    assert LEAST - error(len(values)) <= covered <= MOST + error(len(values))


@pytest.mark.parametrize("name", NUMBERS)
def test_percentiles_of_resamples_do_not_cover_means_of_few(name):
    draw, truth = NUMBERS[name]
    values = draw(np.random.default_rng(8), (SAMPLES[8], 8))
    assert coverage(percentile(values), truth) < LEAST - error(len(values))


# --- shares -------------------------------------------------------------------------------

AROUND = {0.1: (0.06, 0.14), 0.5: (0.4, 0.6), 0.95: (0.91, 0.99)}


def exact_coverage(n: int, truths: np.ndarray) -> float:
    """Return how often Wilson's interval holds the truth, averaged over truths; no simulation."""
    yes = np.arange(n + 1)
    low, high = intervals.of_shares(np.arange(n) < yes[:, None])
    holds = (low <= truths[:, None]) & (truths[:, None] <= high)
    return float((holds * stats.binom.pmf(yes, n, truths[:, None])).sum(1).mean())


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("share", AROUND)
def test_shares_of_yes_and_no_are_covered(share, n):
    assert LEAST <= exact_coverage(n, np.linspace(*AROUND[share], 81)) <= MOST


def test_percentiles_of_resamples_do_not_cover_a_share_of_nearly_all():
    values = np.random.default_rng(0).random((8000, 10)) < 0.95
    assert coverage(percentile(values), 0.95) < 0.5
    assert coverage(intervals.of_shares(values), 0.95) > 0.9


PARTS: dict[str, tuple[Draw, float]] = {
    "of 10, .05": (lambda rng, size: rng.binomial(10, 0.05, size) / 10, 0.05),
    "of 10, .5": (lambda rng, size: rng.binomial(10, 0.5, size) / 10, 0.5),
    "of 10, .95": (lambda rng, size: rng.binomial(10, 0.95, size) / 10, 0.95),
    "of 10, unlike": (lambda rng, size: rng.binomial(10, rng.beta(9, 1, size)) / 10, 0.9),
    "of 10, any": (lambda rng, size: rng.binomial(10, rng.random(size)) / 10, 0.5),
    "beta, .5, .5": (lambda rng, size: rng.beta(0.5, 0.5, size), 0.5),
    "beta, 5, 1": (lambda rng, size: rng.beta(5, 1, size), 5 / 6),
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", PARTS)
def test_means_of_shares_within_cases_are_covered(name, n):
    draw, truth = PARTS[name]
    values = draw(np.random.default_rng(n), (SAMPLES[n], n))
    covered = coverage(intervals.of_shares(values), truth)
    assert LEAST - error(len(values)) <= covered <= MOST + error(len(values))


# --- differences --------------------------------------------------------------------------


def _pairs(more: float, less: float, seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of yes and no, of which a share turns to no, and another to yes."""
    kind = np.random.default_rng(seed).random((SAMPLES[n], n))
    lost, won = kind < more, (more <= kind) & (kind < more + less)
    both = kind > (1 + more + less) / 2
    return (lost | both).astype(float), (won | both).astype(float)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("change", [(0.2, 0.1), (0.5, 0.05), (0.3, 0.3), (0.5, 0.2)])
def test_differences_of_yes_and_no_are_covered(change, n):
    """At 8 and 10 pairs they lean to the safe side: up to .99."""
    covered = []
    for i, shift in enumerate(np.linspace(-0.05, 0.05, 5)):
        more, less = change[0] + shift, change[1]
        covered.append(coverage(intervals.of_differences(*_pairs(more, less, i, n)), more - less))
    most = MOST if n > 10 else 0.99
    assert LEAST - error(5 * SAMPLES[n]) <= np.mean(covered) <= most + error(5 * SAMPLES[n])


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("change", [(0.05, 0.02), (0.1, 0), (0.9, 0)])
def test_where_hardly_any_pair_differs_or_all_do_differences_are_safe(change, n):
    covered = coverage(intervals.of_differences(*_pairs(*change, 0, n)), change[0] - change[1])
    assert covered >= LEAST - error(SAMPLES[n])


DIFFERENCES: dict[str, Callable] = {
    "normal": lambda rng, size: (rng.normal(1, 1, size), rng.normal(0, 2, size), 1),
    "gamma": lambda rng, size: (rng.gamma(3, size=size), rng.gamma(2, size=size), 1),
    "beta": lambda rng, size: (rng.beta(2, 5, size), rng.beta(2, 4, size), 2 / 7 - 1 / 3),
    "far apart": lambda rng, size: (rng.beta(5, 1, size), rng.beta(1, 5, size), 2 / 3),
    "of 10": lambda rng, size: (rng.binomial(10, 0.3, size) / 10, rng.binomial(10, 0.1, size) / 10,
                                0.2),
    "of 5": lambda rng, size: (rng.binomial(5, 0.9, size) / 5, rng.binomial(5, 0.8, size) / 5, 0.1),
    "half alike": lambda rng, size: (
        rng.beta(2, 2, size) * (rng.random(size) < 0.5), np.zeros(size), 0.25),
}  # fmt: skip


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_are_covered(name, n):
    first, second, truth = DIFFERENCES[name](np.random.default_rng(n), (SAMPLES[n], n))
    covered = coverage(intervals.of_differences(first, second), truth)
    assert LEAST - error(len(first)) <= covered <= MOST + error(len(first))


# --- ratios -------------------------------------------------------------------------------


def _alike(rng, size):
    shared = rng.lognormal(0, 0.5, size)
    above, below = shared * rng.lognormal(0, 0.5, size), 2 * shared * rng.lognormal(0, 0.3, size)
    return above, below, np.exp(0.125) / (2 * np.exp(0.045))


RATIOS: dict[str, Callable] = {
    "normal": lambda rng, size: (rng.normal(1, 1, size), rng.normal(3, 1, size), 1 / 3),
    "gamma": lambda rng, size: (rng.gamma(4, size=size), rng.gamma(3, size=size), 4 / 3),
    "beta": lambda rng, size: (rng.beta(2, 5, size), rng.beta(2, 8, size), 10 / 7),
    "alike": _alike,
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", RATIOS)
def test_ratios_are_covered(name, n):
    above, below, truth = RATIOS[name](np.random.default_rng(n), (SAMPLES[n], n))
    found = intervals.of_ratios(above, below)
    told = np.isfinite(found.low)
    assert told.mean() > 0.98
    covered = coverage(np.array(found)[:, told], truth)
    assert LEAST - error(len(above)) <= covered <= MOST + error(len(above))


# --- Kolmogorov and Smirnov's D -------------------------------------------------------------

NORMAL, SKEWED = stats.norm, stats.gamma
SHAPES = {
    "normal": [(NORMAL(), NORMAL(shift)) for shift in (0.6, 1.0, 1.4, 2.0)],
    "gamma": [(SKEWED(2), SKEWED(shape)) for shape in (3.0, 3.6, 4.2, 5.0)],
    "beta": [(stats.beta(2, 5), stats.beta(a, 4)) for a in (2.5, 3.0, 4.0, 5.0)],
    "spread too": [(NORMAL(), NORMAL(shift, 1.5)) for shift in (0.8, 1.1, 1.5, 2.0)],
}


def _apart(pair, n: int, correlation: float, samples: int) -> tuple[np.ndarray, float]:
    """Return intervals of D of samples of two distributions (2, samples), and the true D."""
    u, noise = np.random.default_rng(n).normal(size=(2, samples, n))
    v = correlation * u + np.sqrt(1 - correlation**2) * noise
    first, second = (of.ppf(stats.norm.cdf(z)) for of, z in zip(pair, (u, v), strict=True))
    order = np.concatenate([first, second], axis=1).argsort(axis=1)
    gaps = np.where(order < n, 1, -1).cumsum(1)
    seen = np.abs(gaps).max(1) / n
    found = [distance.interval_of(*row) for row in zip(seen, first, second, strict=True)]
    grid = np.unique([of.ppf(np.linspace(1e-6, 1 - 1e-6, 4001)) for of in pair])
    return np.array(found).T, float(np.abs(pair[0].cdf(grid) - pair[1].cdf(grid)).max())


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    ("shape", "correlation"),
    [("normal", 0.0), ("normal", 0.5), ("gamma", 0.5), ("beta", 0.0), ("spread too", 0.5)],
)
def test_distances_are_covered(shape, correlation, n):
    samples = 400
    covered = [coverage(*_apart(pair, n, correlation, samples)) for pair in SHAPES[shape]]
    allowed = error(samples * len(covered))
    assert LEAST - allowed <= np.mean(covered) <= MOST + allowed


@pytest.mark.parametrize("n", SIZES)
def test_of_two_samples_of_one_distribution_none_is_held_apart(n):
    """At the end of the scale it can miss to one side only: half of the 5 %, or less."""
    covered = coverage(_apart((NORMAL(), NORMAL()), n, 0.0, 600)[0], 0)
    assert covered >= 0.975 - 3 * np.sqrt(0.025 * 0.975 / 600)


def test_resamples_do_not_cover_a_distance():
    rng = np.random.default_rng(0)
    truth = 2 * stats.norm.cdf(0.5) - 1

    def largest_gap(a, b):
        both = np.concatenate([a, b])
        return np.abs((a <= both[:, None]).mean(1) - (b <= both[:, None]).mean(1)).max()

    held = []
    for seed in range(60):
        pair = rng.normal([[0], [1]], 1, (2, 30))
        held.append(bootstrap(largest_gap, *pair, resamples=200, seed=seed).covers(truth))
    assert np.mean(held) < LEAST - 3 * np.sqrt(0.93 * 0.07 / 60)


# --- falls --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [8, 30, 200])
@pytest.mark.parametrize("size", [0.1, 0.5, 2.0])
def test_shares_of_falls_are_covered(n, size):
    """Bonferroni's: at least .95, whatever the curve; the more so where little is sure."""
    curve = size * np.array([0.0, -1, -2, -2.5, -2.2, -2.3, -3])  # falls at 5 of 6 steps
    rng = np.random.default_rng(n)
    held = [falls_of(curve + rng.normal(0, 1, (n, 7))).covers(5 / 6) for _ in range(400)]
    assert np.mean(held) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400)
