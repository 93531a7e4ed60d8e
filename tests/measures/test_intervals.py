"""Intervals: identities, and independent references at single points; see test_coverage too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from mmn_utils.measures import intervals

numbers = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=30).map(np.array)
shares = st.lists(st.sampled_from([0, 0.1, 0.25, 0.5, 0.9, 1]), min_size=1, max_size=30).map(
    np.array
)


@given(numbers, st.floats(-50, 50), st.floats(0.1, 10))
def test_intervals_of_means_move_with_their_values(values, shift, scale):
    """Property: shifting and stretching the values does the same to the interval."""
    assume(np.ptp(values) > 1e-3)
    low, high = intervals.of_means(values)
    assert low < values.mean() < high
    moved = intervals.of_means(scale * values + shift)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), rel=1e-6, abs=1e-4)
    turned = intervals.of_means(-values)
    assert turned == pytest.approx((-high, -low), rel=1e-9, abs=1e-9)


@given(st.floats(0.1, 5), st.lists(st.floats(0, 50), min_size=1, max_size=15))
def test_the_mean_of_a_symmetrical_sample_has_students_interval(middle, away):
    assume(max(away) > 1e-3)
    values = middle + np.array([*away, *(-x for x in away)])
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose(intervals.of_means(values), (low, high), rtol=1e-6, atol=1e-6)


def test_a_long_tail_draws_the_interval_its_way():
    values = np.random.default_rng(0).lognormal(0, 1, 30)
    low, high = intervals.of_means(values)
    assert high - values.mean() > 1.3 * (values.mean() - low)
    theirs = stats.bootstrap((values,), np.mean, method="BCa", rng=1).confidence_interval
    assert low == pytest.approx(theirs.low, rel=0.1)
    assert high >= theirs.high


def test_the_cubic_is_solved():
    for third in (-2.0, -1e-7, 0.0, 0.4):
        for wanted in (-1.0, 0.0, 0.8):
            t = float(intervals._uncubed(np.array(wanted), np.array(third)))
            assert t + third * t**2 + third**2 * t**3 / 3 == pytest.approx(wanted, abs=1e-6)


@given(st.integers(1, 300), st.data())
def test_shares_of_yes_and_no_have_wilsons_interval(n, data):
    """Property: scipy's, to rounding."""
    yes = data.draw(st.integers(0, n))
    theirs = stats.binomtest(yes, n).proportion_ci(method="wilson")
    found = intervals.of_shares(np.arange(n) < yes)
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-12)


@given(shares)
def test_shares_stay_in_their_scale_and_are_never_certain(values):
    """Property: 0 <= low <= mean <= high <= 1, never of width 0; 1 - x turns it around."""
    low, high = intervals.of_shares(values)
    assert 0 <= low <= values.mean() <= high <= 1
    assert high - low > 0.001
    turned = intervals.of_shares(1 - values)
    np.testing.assert_allclose(turned, (1 - high, 1 - low), atol=1e-9)


@given(shares)
def test_shares_count_for_as_many_as_there_are_at_least(values):
    """Property: never wider than n answers of yes and no would make it."""
    low, high = intervals.of_shares(values)
    widest = intervals.wilson(values.mean(), len(values))
    assert widest.low - 1e-12 <= low
    assert high <= widest.high + 1e-12


def test_shares_of_many_things_are_known_better_than_yes_and_no():
    values = np.random.default_rng(0).binomial(20, 0.3, size=40) / 20
    low, high = intervals.of_shares(values)
    pooled = stats.binomtest(round(values.sum() * 20), 800).proportion_ci(method="wilson")
    assert high - low == pytest.approx(pooled.high - pooled.low, rel=0.25)


@given(shares, st.data())
def test_differences_turn_with_their_sides_and_are_never_certain(first, data):
    """Property: low <= mean <= high in [-1, 1], never of width 0; swapping the sides negates."""
    options = st.sampled_from([0, 0.1, 0.5, 1])
    second = np.array(data.draw(st.lists(options, min_size=len(first), max_size=len(first))))
    assume(len(first) > 1)
    low, high = intervals.of_differences(first, second)
    assert -1 <= low <= (first - second).mean() + 1e-12
    assert (first - second).mean() - 1e-12 <= high <= 1
    assert high - low > 1e-3
    turned = intervals.of_differences(second, first)
    np.testing.assert_allclose(turned, (-high, -low), atol=1e-9)


def test_differences_of_yes_and_no_by_hand():
    """Of 10 pairs 3 are lost and 1 won: Bonett and Price's is that of 4 and 2 of 12."""
    first = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
    second = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0, 0])
    middle, square = 2 / 12, 6 / 12
    reach = stats.norm.ppf(0.975) * np.sqrt((square - middle**2) / 12)
    found = intervals.of_differences(first, second)
    np.testing.assert_allclose(found, (middle - reach, middle + reach), rtol=1e-12)


def test_differences_of_numbers_are_means_of_differences():
    first, second = np.random.default_rng(0).normal(size=(2, 20))
    np.testing.assert_array_equal(
        intervals.of_differences(first, second), intervals.of_means(first - second)
    )
    np.testing.assert_array_equal(intervals.of_differences(first, first), (0, 0))


@given(st.integers(3, 30), st.integers(0, 99), st.floats(0.1, 10))
def test_ratios_are_those_that_the_t_test_does_not_refuse(n, seed, scale):
    """Property: at both bounds scipy's p of above - r below is .05; the scale goes through."""
    rng = np.random.default_rng(seed)
    above, below = rng.gamma(3, size=n), rng.normal(20, 1, n)
    found = intervals.of_ratios(above, below)
    for bound in found:
        assert stats.ttest_1samp(above - bound * below, 0).pvalue == pytest.approx(0.05, rel=1e-6)
    assert found.low < above.mean() / below.mean() < found.high
    scaled = intervals.of_ratios(scale * above, below)
    np.testing.assert_allclose(scaled, (scale * found.low, scale * found.high), rtol=1e-6)


def test_there_is_no_ratio_to_what_may_be_nothing():
    rng = np.random.default_rng(0)
    assert np.isnan(intervals.of_ratios(np.ones(8), rng.normal(0, 1, 8))).all()
    assert np.isnan(intervals.of_ratios(np.ones(1), np.ones(1))).all()


def test_bca_is_scipys():
    values = np.random.default_rng(3).gamma(1.0, size=25)
    rng = np.random.default_rng(4)
    drawn = values[rng.integers(0, 25, (9999, 25))].var(1)
    left = np.array([np.delete(values, i).var() for i in range(25)])
    found = intervals.bca(values.var(), drawn, left)
    theirs = stats.bootstrap((values,), np.var, n_resamples=9999, method="BCa", rng=5)
    np.testing.assert_allclose(found, theirs.confidence_interval, rtol=0.06)
    assert intervals.bca(1.0, np.ones(50), np.full(9, np.nan)) == (1, 1)


@pytest.mark.parametrize("of", [intervals.of_means, intervals.of_shares])
def test_many_samples_at_once_are_each_by_itself(of):
    values = np.random.default_rng(0).integers(0, 3, size=(50, 6)) / 2
    together = np.array(of(values))
    np.testing.assert_allclose(together.T, [of(row) for row in values], atol=1e-12)


@pytest.mark.parametrize("of", [intervals.of_differences, intervals.of_ratios])
def test_many_pairs_of_samples_at_once_are_each_by_themselves(of):
    pair = np.random.default_rng(0).integers(0, 3, size=(2, 50, 6)) / 2
    pair[1] += of is intervals.of_ratios
    together = np.array(of(*pair))
    single = [of(*rows) for rows in zip(*pair, strict=True)]
    np.testing.assert_allclose(together.T, single, atol=1e-12)
