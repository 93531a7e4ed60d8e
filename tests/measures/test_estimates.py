"""Estimates: intervals that cover what they should, and numbers as prose wants them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmn_utils.measures import estimates
from mmn_utils.measures.estimates import (
    Estimate,
    bootstrap,
    bootstrap_interval,
    difference_of,
    frame_of,
    jackknife,
    kolmogorov_smirnov,
    ks_of,
    mean_of,
    means_of,
    share_of_gap,
)


def test_an_estimate_prints_with_its_interval():
    found = Estimate(0.5136, 0.4741, 0.5522, 40)
    assert f"{found:.2f}" == "0.51 [0.47, 0.55]"
    assert f"{found:.0%}" == "51% [47%, 55%]"
    assert f"{Estimate(-0.0, -0.0, 0.0, 1):.1f}" == "0.0 [0.0, 0.0]"
    assert str(found) == "0.514 [0.474, 0.552]"
    assert found.ci == (0.4741, 0.5522)
    assert found.covers(0.5)
    assert not found.covers(0.6)


def test_the_interval_of_a_mean_is_about_that_of_the_normal():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = mean_of(values)
    error = 1.96 * values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.ci == pytest.approx((values.mean() - error, values.mean() + error), abs=0.04)
    assert found.n == 400


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    images = rng.normal(0, 100, 50)
    found = difference_of(images + 1 + rng.normal(0, 0.1, 50), images)
    assert found.covers(1)
    assert found.high - found.low < 0.1


def test_bootstrap_resamples_columns_together_and_is_repeatable():
    column = np.arange(30.0)
    together = bootstrap(lambda a, b: float(np.abs(a - b).max()), column, column)
    assert together.ci == (0, 0)
    first = bootstrap(np.mean, column, seed=3)
    assert first == bootstrap(np.mean, column, seed=3)
    assert first != bootstrap(np.mean, column, seed=4)


def test_bootstrap_wants_images_and_numbers():
    with pytest.raises(ValueError, match=r"lengths \[2, 3\]"):
        bootstrap(np.mean, [1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="lengths"):
        bootstrap(np.mean, [])
    with pytest.raises(ValueError, match="only 0 of 1000 resamples"):
        bootstrap(lambda a: np.nan, [1, 2])


def test_leaving_out_each_image_gives_a_mean_its_classical_interval():
    values = np.random.default_rng(0).normal(3, 2, 50)
    found = jackknife(np.mean, values)
    assert found.value == values.mean()
    assert found.n == 50
    low, high = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    np.testing.assert_allclose(found.ci, (low, high), rtol=1e-12)


def test_leaving_out_each_image_covers_counts_of_kinds_where_resampling_cannot():
    kinds = np.random.default_rng(0).integers(0, 400, size=(60, 5))  # five units an image

    def different(some):
        return len(np.unique(some))

    assert jackknife(different, kinds).covers(different(kinds))
    assert bootstrap(different, kinds).high < different(kinds)


def test_leaving_out_each_image_wants_two_and_a_number_each():
    with pytest.raises(ValueError, match="one image alone"):
        jackknife(np.mean, [1.0])
    with pytest.raises(ValueError, match="no number without image 1"), np.errstate(all="ignore"):
        jackknife(lambda x: 1 / x.sum(), [0.0, 2.0, 0.0])
    with pytest.raises(ValueError, match=r"lengths \[2, 3\]"):
        jackknife(np.mean, [1.0, 2.0], [1.0, 2.0, 3.0])


def test_the_test_of_two_samples_is_that_of_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 80), rng.normal(0.6, 1, 80)
    found, p = ks_of(first, second)
    expected = stats.ks_2samp(first, second)
    assert (found.value, p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.covers(found.value)
    apart, p = ks_of(first, first + 100)
    assert apart.ci == (1, 1)
    assert p < 1e-10


@pytest.mark.parametrize(("values", "share"), [([0, 0], 0), ([1, 3], 0.5), ([4, 4], 1)])
def test_a_share_of_the_gap_counts_from_floor_to_ceiling(values, share):
    assert share_of_gap([0, 0], values, [4, 4]).value == share


def test_without_a_gap_there_is_no_share():
    assert np.isnan(share_of_gap([1, 1], [1, 2], [1, 1]).value)
    rng = np.random.default_rng(0)
    floor, ceiling = rng.normal(0, 1, 30), rng.normal(0.01, 1, 30)
    assert np.isnan(share_of_gap(floor, floor, ceiling).value)


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bootstrap_agrees_with_scipy(statistic):
    values = np.random.default_rng(1).gamma(2.0, size=80)
    ours = bootstrap_interval(values, n=4000, seed=5, statistic=statistic)
    theirs = stats.bootstrap(
        (values,), statistic, n_resamples=4000, method="percentile", rng=7
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.1 * width
    assert abs(ours.high - theirs.high) < 0.1 * width


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(size=60), n=400, seed=i) for i in range(300)]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.90 < covered < 0.98


@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=30),
    st.floats(-50, 50),
    st.floats(0.1, 10),
)
def test_intervals_move_with_their_values(values, shift, scale):
    """Property: shifting and stretching the values does the same to the interval."""
    low, high = bootstrap_interval(values, n=50)
    moved = bootstrap_interval(scale * np.array(values) + shift, n=50)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-6)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_intervals_repeat_and_levels_nest():
    values = np.random.default_rng(2).normal(size=50)
    assert bootstrap_interval(values) == bootstrap_interval(list(values))
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    narrow, wide = (bootstrap_interval(values, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_interval([3.0]) == (3.0, 3.0)


def test_resampling_in_parts_is_resampling(monkeypatch):
    """A long list is resampled a few rows at a time; the interval is as good."""
    values = np.random.default_rng(3).normal(size=200)
    whole = bootstrap_interval(values, n=2000)
    monkeypatch.setattr(estimates, "RESAMPLES_AT_ONCE", 1000)
    assert bootstrap_interval(values, n=2000) == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "non-empty"),
        (([[1.0, 2.0]],), "non-empty"),
        (([1.0, float("nan")],), r"values\[1\] is nan"),
        (([1.0], 0), "n=0"),
        (([1.0], 10, 1.0), r"level=1\.0"),
    ],
)
def test_bad_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(*arguments)


def test_pairs_cancel_what_they_share():
    rng = np.random.default_rng(4)
    shared = rng.normal(scale=100, size=60)
    found = difference_of(shared + 1 + rng.normal(scale=0.1, size=60), shared)
    assert found.low < found.value < found.high
    assert found.n == 60
    assert found.low > 0.9
    assert found.high < 1.1
    with pytest.raises(ValueError, match="2 and 3 values are no pairs"):
        difference_of([1, 2], [1, 2, 3])


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
    with pytest.raises(ValueError, match="b must be a non-empty"):
        kolmogorov_smirnov(a, [])


def test_many_means_are_laid_out_by_their_keys():
    table = pd.DataFrame({("a", 1): [1.0, 2.0], ("a", 2): [3.0, 5.0]})
    found = means_of(table, 4)
    assert found == {key: mean_of(table[key], 4) for key in table}
    frame = frame_of(found, ["letter", "k"], "height")
    assert list(frame) == ["letter", "k", "height", "low", "high", "n"]
    assert frame["letter"].tolist() == ["a", "a"]
    assert frame["height"].tolist() == [1.5, 4.0]
    assert frame["n"].tolist() == [2, 2]
    with pytest.raises(ValueError, match="do not fit the keys"):
        frame_of(found, ["letter"])
