"""Estimates: intervals that cover what they should, and numbers as prose wants them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mmn_utils.measures.estimates import (
    Estimate,
    bootstrap,
    difference_of,
    jackknife,
    ks_of,
    mean_of,
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
