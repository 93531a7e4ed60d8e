"""Means and ratios over scenes, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mmn_utils.miniature.quality.intervals import NOTHING, difference, mean, ratio, resampled, share


def test_mean_leaves_out_what_could_not_be_measured():
    value, low, high, n = mean(pd.Series([0.0, 1.0, np.nan, 1.0, 0.0]))
    assert (value, n) == (0.5, 4)
    assert low < 0.5 < high
    assert mean(pd.Series([np.nan])) == NOTHING


def test_shares_stay_between_nothing_and_all():
    value, low, high, n = share(pd.Series([True, True, True]))
    assert (value, high, n) == (1, 1, 3)
    assert 0 < low < 1


def test_differences_are_of_scenes_that_have_both():
    value, low, high, n = difference(pd.Series([1.0, np.nan, 1.0]), pd.Series([0.0, 1.0, 1.0]))
    assert (value, n) == (0.5, 2)
    assert -1 <= low < 0.5 < high <= 1


def test_a_statistic_of_rows_is_resampled_and_left_out_one_by_one():
    values = np.array([0.0, 2.0, 3.0, 7.0])
    value, low, high, n = resampled(4, lambda rows: values[rows].mean(1))
    assert (value, n) == (3, 4)
    assert 0 < low < 3 < high < 7
    assert resampled(1, lambda rows: values[rows].mean(1))[::3] == (0, 1)
    assert np.isnan(resampled(1, lambda rows: values[rows].mean(1))[1:3]).all()


def test_ratio_is_of_means_over_the_same_scenes():
    above, below = pd.Series([2.0, 4.0, np.nan]), pd.Series([1.0, 1.0, 5.0])
    value, low, high, n = ratio(above, below)
    assert (value, n) == (3.0, 2)
    assert low < 2 < 4 < high
    few = ratio(pd.Series([1.0, 2.0]), pd.Series([0.0, 1.0]))  # two scenes cannot tell it from 0
    assert few[0] == 3
    assert np.isnan(few[1:3]).all()


def test_a_ratio_to_nothing_has_no_value():
    value, low, high, n = ratio(pd.Series([1.0, 2.0]), pd.Series([0.0, 0.0]))
    assert np.isnan([value, low, high]).all()
    assert n == 2
    assert mean(pd.Series([np.nan]))[3] == 0
