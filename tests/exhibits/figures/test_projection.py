"""Figures of notebook 01: legible, and of the numbers that they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from mmn_utils.exhibits import plots
from mmn_utils.exhibits.figures import projection as figures
from tests.exhibits.legible import assert_legible


@pytest.fixture(autouse=True)
def style():
    plots.use_style()
    yield
    plt.close("all")


def test_one_photograph_is_shown_small():
    fig = figures.one_photograph(Image.new("RGB", (8, 8), (9, 9, 9)))
    assert_legible(fig)
    assert fig.get_figwidth() == 1.6
    assert fig.axes[0].images[0].get_array()[0, 0].tolist() == [9, 9, 9]


@pytest.mark.parametrize("centre", [0.0, 1500.0])
def test_distributions_are_cumulative_shares_of_pictures(centre):
    rng = np.random.default_rng(0)
    kinds = ["random", "prompts", "shuffled", "captions", "coco"]
    means = pd.DataFrame({kind: centre + rng.normal(20 * i, 9, 50) for i, kind in enumerate(kinds)})
    fig = figures.distributions(means, means + 5)
    assert_legible(fig)
    left, right = fig.axes
    for ax, kinds, shift in ((left, [*figures.NAMES], 0), (right, ["random", "prompts"], 5)):
        for line, kind in zip(ax.lines, [*kinds, "shuffled"], strict=False):
            scores, shares = line.get_data()
            assert np.allclose(scores[1:], np.sort(means[kind] + shift))
            assert np.allclose(shares, np.arange(51) / 50)
        (low, high) = ax.lines[-1].get_ydata()
        expected = stats.ks_2samp(means["random"], means["prompts"]).statistic
        assert high - low == pytest.approx(expected)
        assert ax.texts[0].get_text() == f"D = {expected:.3f}"
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == [*figures.NAMES.values(), figures.ANOTHER]
