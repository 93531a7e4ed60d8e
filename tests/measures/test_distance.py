"""Kolmogorov and Smirnov's D: the test is scipy's, the interval the one that it turns around."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmn_utils.measures import distance
from mmn_utils.measures.distance import interval_of, kolmogorov_smirnov


@pytest.mark.filterwarnings("ignore:ks_2samp")  # from the reference; ours is silent
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=25),
    st.lists(st.integers(0, 20), min_size=1, max_size=25),
)
def test_kolmogorov_smirnov_is_the_largest_gap(a, b):
    """Property: the statistic is the largest gap of the distribution functions; symmetric."""
    grid = np.arange(21)
    gap = max(abs(np.mean(np.array(a) <= x) - np.mean(np.array(b) <= x)) for x in grid)
    found = kolmogorov_smirnov(a, b)
    assert found[0] == pytest.approx(gap)
    assert found == pytest.approx(kolmogorov_smirnov(b, a))
    assert found[1] == pytest.approx(stats.ks_2samp(a, b).pvalue)


def test_kolmogorov_smirnov_tells_apart():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=300), rng.normal(size=300)
    assert kolmogorov_smirnov(a, b)[1] > 0.01
    assert kolmogorov_smirnov(a, b + 5)[0] > 0.9
    assert kolmogorov_smirnov(a, a) == (0.0, 1.0)


@pytest.mark.parametrize("n", [8, 60])
def test_simulated_samples_are_as_far_apart_as_scipy_finds(n):
    """The middle 95 % of D, against plain samples and scipy; a step at most."""
    rng = np.random.default_rng(1)
    at = 16  # D = 0.6
    a, noise = rng.normal(size=(2, 2000, n))
    b = 0.5 * a + np.sqrt(0.75) * noise + 2 * stats.norm.ppf((1 + distance.TRUE[at]) / 2)
    shown = [stats.ks_2samp(*pair, method="asymp").statistic for pair in zip(a, b, strict=True)]
    low, high = np.quantile(shown, [0.025, 0.975])
    usual = np.quantile(distance._simulated(n, 0.5)[at] / n, [0.025, 0.975])
    assert usual == pytest.approx([low, high], abs=1 / n + 1e-9)


def test_the_correlation_is_scipys_of_ranks():
    rng = np.random.default_rng(2)
    first = rng.integers(0, 9, 50).astype(float)
    second = first + rng.integers(0, 9, 50)
    spearman = stats.spearmanr(first, second).statistic
    expected = 2 * np.sin(np.pi * spearman / 6)
    assert distance._correlation(first, second) == pytest.approx(expected, abs=0.05 + 1e-12)
    assert distance._correlation(first, np.exp(first)) == 0.95
    assert distance._correlation(first, -first) == -0.95
    assert distance._correlation(first, np.ones(50)) == 0


@given(st.sampled_from([2, 9, 20]), st.floats(-2, 2), st.integers(0, 99))
def test_intervals_hold_what_was_seen_and_depend_on_ranks_alone(n, shift, seed):
    """Property: 0 <= low <= D <= high <= 1; a growing function of both changes nothing."""
    first, second = np.random.default_rng(seed).normal(size=(2, n))
    second += shift
    d = kolmogorov_smirnov(first, second)[0]
    low, high = interval_of(d, first, second)
    assert 0 <= low <= d <= high <= 1
    assert low < high
    assert interval_of(d, np.exp(first), np.exp(second)) == (low, high)


def test_a_larger_distance_has_larger_bounds():
    first, second = np.random.default_rng(3).normal(size=(2, 30))
    bounds = np.array([interval_of(d, first, second) for d in np.arange(31) / 30])
    assert (np.diff(bounds, axis=0) >= 0).all()
    assert bounds[0, 0] == 0
    assert bounds[-1, 1] == 1


def test_where_the_test_finds_nothing_none_may_be_the_truth():
    rng = np.random.default_rng(4)
    for _ in range(100):
        first, second = rng.normal(size=(2, 40))
        second[:20] += rng.uniform(0, 1.5)
        d, p = kolmogorov_smirnov(first, second)
        low, _ = interval_of(d, first, second)
        assert low == 0 or p < 0.1
        assert low > 0 or p > 0.005
