"""Figures of notebook 01: legible, and of the numbers that they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

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
def test_distributions_are_shares_of_pictures(centre):
    rng = np.random.default_rng(0)
    kinds = ["random", "prompts", "shuffled", "captions", "coco"]
    means = pd.DataFrame({kind: centre + rng.normal(20 * i, 9, 50) for i, kind in enumerate(kinds)})
    fig = figures.distributions(means, means + 5)
    assert_legible(fig)
    left, right = fig.axes
    assert (len(left.patches), len(right.patches)) == (2 * 4 + 1, 2 * 2 + 1)
    filled = [patch for patch in left.patches if patch.get_fill()]
    for patch, kind in zip(filled, figures.NAMES, strict=True):
        share, edges, _ = patch.get_data()
        expected = np.histogram(means[kind], edges)[0] / 50
        np.testing.assert_allclose(share, expected)
        assert share.sum() == pytest.approx(1)  # no picture lies outside
    best = [patch for patch in right.patches if patch.get_fill()][1].get_data()
    np.testing.assert_allclose(best.values, np.histogram(means["prompts"] + 5, best.edges)[0] / 50)
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == [*figures.NAMES.values(), figures.ANOTHER]
