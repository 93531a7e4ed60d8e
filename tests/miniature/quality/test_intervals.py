"""Means and ratios over scenes, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mmn_utils.miniature.quality.intervals import mean, ratio


def test_mean_leaves_out_what_could_not_be_measured():
    value, low, high, n = mean(pd.Series([0.0, 1.0, np.nan, 1.0, 0.0]))
    assert (value, n) == (0.5, 4)
    assert 0 <= low < 0.5 < high <= 1


def test_ratio_is_of_means_over_the_same_scenes():
    above, below = pd.Series([2.0, 4.0, np.nan]), pd.Series([1.0, 1.0, 5.0])
    value, low, high, n = ratio(above, below)
    assert (value, low, high, n) == (3.0, 2.0, 4.0, 2)


def test_a_ratio_to_nothing_has_no_value():
    value, low, high, n = ratio(pd.Series([1.0, 2.0]), pd.Series([0.0, 0.0]))
    assert np.isnan([value, low, high]).all()
    assert n == 2
    assert mean(pd.Series([np.nan]))[3] == 0
