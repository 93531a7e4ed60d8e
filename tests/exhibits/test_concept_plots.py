"""Plots of paper B: every number is where it belongs, and an absence says why."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmn_utils.exhibits import concept_plots, plots
from mmn_utils.measures.estimates import Estimate
from mmn_utils.neurons.methods import METHODS
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.specificity import HeatMap


@pytest.fixture
def ax():
    plots.use_style()
    fig, ax = plt.subplots()
    yield ax
    fig.savefig(io.BytesIO())
    plt.close(fig)


def test_every_method_has_its_colour_and_names():
    assert len({concept_plots.colour(method) for method in METHODS}) == 3
    assert set(concept_plots.NAMES) == set(concept_plots.PAPER_NAMES) == set(METHODS)
    with pytest.raises(ValueError, match="no colour for 'ours'"):
        concept_plots.colour("ours")


@pytest.mark.parametrize("by", ["k", "method"])
def test_layer_lines_are_shares(ax, by):
    method = ["contribution"] * 8 if by == "k" else ["contribution"] * 4 + ["attribution"] * 4
    counts = pd.DataFrame(
        {"method": method, "k": [1] * 4 + [5] * 4, "layer": [0, 1, 2, 3] * 2,
         "neurons": [1, 1, 2, 4, 0, 0, 0, 5]}
    )  # fmt: skip
    concept_plots.layer_lines(ax, counts, "neurons", by)
    assert ax.lines[0].get_ydata().tolist() == [0.125, 0.125, 0.25, 0.5]
    assert ax.lines[1].get_ydata().tolist() == [0, 0, 0, 1]


def test_method_bars_have_their_heights(ax):
    found = {"contribution": [Estimate(0.9, 0.8, 1.0, 5)], "attribution": [Estimate(0.3, 0, 1, 5)]}
    concept_plots.method_bars(ax, ["k = 1"], found, "share")
    assert [bar.get_height() for bar in ax.patches] == [0.9, 0.3]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["contribution (Ours)", "attribution (Mmns)"]


def test_shared_lines_tell_same_from_unrelated(ax):
    curve = pd.DataFrame({"n": [2, 3], "mean": [0.8, 0.6], "low": [0.7, 0.5], "high": [0.9, 0.7]})
    curves = {("contribution", True): curve, ("contribution", False): curve}
    concept_plots.shared_lines(ax, curves, pd.Series({2: 0.1, 3: 0.01}))
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--", ":"]
    assert ax.lines[0].get_ydata().tolist() == [0.8, 0.6]
    assert len(ax.collections) == 1


def test_focus_panels_have_a_map_and_a_mask_for_each_k():
    picture = Image.new("RGB", (20, 20))
    maps, masks = np.zeros((2, 20, 20)), np.zeros((2, 20, 20), bool)
    fig = concept_plots.focus_panels([(picture, "cat", maps, masks)] * 3, [1, 10])
    assert len(fig.axes) == 3 * 5
    assert [ax.get_title(loc="left") for ax in fig.axes[:5]] == [
        "photograph", "top 1", "mask", "top 10", "mask",
    ]  # fmt: skip
    fig.savefig(io.BytesIO())
    plt.close(fig)


def test_a_note_says_it_in_words():
    fig = concept_plots.note("No heat maps: queries have no place.")
    assert "queries have no place" in fig.axes[0].texts[0].get_text()
    plt.close(fig)


def test_score_matrix_writes_the_scores(ax):
    heat = HeatMap("a", ("cat", "$x"), (Neuron(0, 1), Neuron(3, 4)), np.array([[2.0, 0], [-1, 1]]))
    concept_plots.score_matrix(ax, heat)
    assert [text.get_text() for text in ax.texts] == ["2.00", "0.00", "-1.00", "1.00"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["cat", "$x"]
    assert ax.get_yticklabels()[1].get_text() == "$x\nL3.u4"
    np.testing.assert_allclose(ax.images[0].get_array()[1], [0, 2 / 3])
