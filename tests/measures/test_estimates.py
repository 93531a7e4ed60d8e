"""Estimates: intervals that cover what they should, and numbers as prose wants them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mmn_utils.measures.estimates import (
    Estimate,
    bootstrap,
    difference_of,
    falls_of,
    frame_of,
    further_digits,
    ks_of,
    mean_of,
    means_of,
    ratio_of,
    share_of,
    share_of_gap,
    shares_of,
)


def test_an_estimate_prints_with_its_interval():
    found = Estimate(0.5136, 0.4741, 0.5522, 40)
    assert f"{found:.2f}" == "0.51 [0.47, 0.55]"
    assert f"{found:.0%}" == "51% [47%, 55%]"
    assert f"{Estimate(-0.0, -0.0, 0.0, 1):.1f}" == "0.0 [0.0, 0.0]"
    assert str(found) == "0.514 [0.474, 0.552]"
    assert f"{Estimate(0.1276, 0.1274, 0.1279, 40):.0%}" == "12.8% [12.7%, 12.8%]"
    assert found.ci == (0.4741, 0.5522)
    assert found.covers(0.5)
    assert not found.covers(0.6)


@pytest.mark.parametrize(
    ("low", "high", "further"),
    [(0.1, 0.2, 0), (0.12, 0.13, 1), (0.5, 0.5, 0), (0.5, 0.5 + 1e-9, 3), (-0.0, 0.0, 0)],
)
def test_ends_get_as_many_digits_as_tell_them_apart(low, high, further):
    assert further_digits(lambda number, more: f"{number:.{1 + more}f}", low, high) == further


def test_the_interval_of_a_mean_is_about_that_of_the_normal():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = mean_of(values)
    error = 1.96 * values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.ci == pytest.approx((values.mean() - error, values.mean() + error), abs=0.01)
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


def test_a_bootstrap_of_kinds_is_biased_downwards():
    kinds = np.random.default_rng(0).integers(0, 400, size=(60, 5))  # five units an image

    def different(some):
        return len(np.unique(some))

    assert bootstrap(different, kinds).high < different(kinds)


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(1).gamma(2.0, size=40)
    ours = bootstrap(np.median, values, resamples=4000, seed=5)
    theirs = stats.bootstrap((values,), np.median, n_resamples=4000, method="BCa", rng=7)
    low, high = theirs.confidence_interval
    assert ours.ci == pytest.approx((low, high), abs=0.1 * (high - low))


def test_one_image_has_no_interval_but_as_a_share():
    for found in (mean_of([3.0]), difference_of([3.0], [1.0]), bootstrap(np.mean, [3.0])):
        assert np.isfinite(found.value)
        assert np.isnan(found.ci).all()
        assert not found.low > 0
    assert np.isnan(ratio_of([3.0], [2.0]).value)
    one = share_of([1.0])
    assert (one.value, one.high) == (1, 1)
    assert 0 < one.low < 0.5
    assert falls_of([[3.0, 2.0]]).ci == (0, 1)
    assert ks_of([1.0], [2.0])[0].ci == (0, 1)


def test_all_alike_is_not_certain_where_it_is_a_share():
    for n in (2, 10, 200):
        assert share_of(np.ones(n)).low < 1
        assert share_of(np.full(n, 0.5)).low < 0.5 < share_of(np.full(n, 0.5)).high
        assert difference_of(np.ones(n), np.zeros(n)).low < 1
        assert difference_of(np.ones(n), np.ones(n)).low < 0 < difference_of([1, 1], [1, 1]).high
        assert difference_of(np.full(n, 0.75), np.full(n, 0.5)).low < 0.25
    assert f"{share_of(np.ones(30)):.2g}" == "1 [0.89, 1]"
    assert mean_of([2.5, 2.5]).ci == (2.5, 2.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "non-empty"), ([[0.5]], "non-empty"), ([0.5, np.nan], r"values\[1\] is nan"),
     ([0.5, 1.1], r"values\[1\] is 1\.1, no share"), ([-0.1], r"values\[0\] is -0\.1")],
)  # fmt: skip
def test_what_is_no_share_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        share_of(values)
    if "no share" not in message and "-0" not in message:
        with pytest.raises(ValueError, match=message):
            mean_of(values)


def test_a_ratio_wants_something_to_divide_by():
    assert ratio_of(np.arange(1, 6), np.arange(2, 12, 2)).value == 0.5
    lost = ratio_of([1.0, 2.0, 3.0], [-1.0, 0.1, 1.0])
    assert np.isnan([lost.value, *lost.ci]).all()
    assert lost.n == 3
    with pytest.raises(ValueError, match="1 and 2 values are no pairs"):
        ratio_of([1], [1, 2])


def test_falls_are_counted_and_sure_only_where_images_agree():
    rng = np.random.default_rng(0)
    curve = np.array([1.0, 0.8, 0.6, 0.6, 0.7])  # falls twice, stays, rises
    table = curve + rng.normal(0, 0.02, (40, 5))
    found = falls_of(pd.DataFrame(table))
    assert found.value in (0.5, 0.75)
    assert found.ci == (1.5 / 4, 3.5 / 4)  # two surely fall, one surely does not
    assert found.n == 40
    assert falls_of(np.outer(np.ones(9), [3, 2, 1])).ci == (0.75, 1)
    assert falls_of(np.outer(np.ones(9), [3, 3, 4])).ci == (0, 0.25)
    for wrong in ([1.0, 2.0], [[1.0], [2.0]], [[1.0, np.nan]], np.empty((0, 3))):
        with pytest.raises(ValueError, match="no steps, or holds NaN"):
            falls_of(wrong)


def test_the_test_of_two_samples_is_that_of_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 80), rng.normal(0.6, 1, 80)
    found, p = ks_of(first, second)
    expected = stats.ks_2samp(first, second)
    assert (found.value, p) == pytest.approx((expected.statistic, expected.pvalue))
    assert 0 < found.low < found.value < found.high < 1
    apart, p = ks_of(first, first + 100)
    assert apart.high == 1
    assert 0.9 < apart.low < 1
    assert p < 1e-10
    same, p = ks_of(first, first)
    assert (same.value, same.low, p) == (0, 0, 1)
    assert same.high > 0


@pytest.mark.parametrize(("values", "share"), [([0, 0], 0), ([1, 3], 0.5), ([4, 4], 1)])
def test_a_share_of_the_gap_counts_from_floor_to_ceiling(values, share):
    assert share_of_gap([0, 0], values, [4, 4]).value == share


def test_without_a_gap_there_is_no_share():
    assert np.isnan(share_of_gap([1, 1], [1, 2], [1, 1]).value)
    rng = np.random.default_rng(0)
    floor, ceiling = rng.normal(0, 1, 30), rng.normal(0.01, 1, 30)
    assert np.isnan(share_of_gap(floor, floor, ceiling).value)


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


def test_many_means_are_laid_out_by_their_keys():
    table = pd.DataFrame({("a", 1): [1.0, 2.0], ("a", 2): [3.0, 5.0]})
    found = means_of(table, 4)
    assert found == {key: mean_of(table[key], 4) for key in table}
    assert shares_of(table / 5) == {key: share_of(table[key] / 5) for key in table}
    frame = frame_of(found, ["letter", "k"], "height")
    assert list(frame) == ["letter", "k", "height", "low", "high", "n"]
    assert frame["letter"].tolist() == ["a", "a"]
    assert frame["height"].tolist() == [1.5, 4.0]
    assert frame["n"].tolist() == [2, 2]
    with pytest.raises(ValueError, match="do not fit the keys"):
        frame_of(found, ["letter"])
