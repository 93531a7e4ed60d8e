"""Figures of notebook 02: legible, and of the numbers that they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmn_utils.exhibits import plots
from mmn_utils.exhibits.figures import attribution as figures
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.examples import Panel
from tests.exhibits.legible import assert_legible

PICTURE = Image.new("RGB", (40, 40), (200, 100, 50))
REGION = np.zeros((32, 32), dtype=bool)
REGION[4:12, 4:20] = True


@pytest.fixture(autouse=True)
def style():
    plots.use_style()
    yield
    plt.close("all")


def a_panel(title: str, words: int = 5) -> Panel:
    units = pd.DataFrame(
        {"neuron": [Neuron(27, 16000 + i) for i in range(words)],
         "tokens": [[" helicopters", " ", "$x^2"]] * words,
         "interpretable": [i % 2 == 0 for i in range(words)]}
    )  # fmt: skip
    return Panel(title, PICTURE, "A picture of a HELICOPTER on the carpet.", units, REGION)


def test_one_unit_is_shown_with_its_field_its_region_and_its_words():
    words = [" there", "$5 ^", " moo", " dairy", " milk", " calf", " cows", " ox", " bull", "\n"]
    spoken = pd.DataFrame({"text": words, "probability": np.linspace(0.0012, 0.001, 10)})
    field = np.linspace(-1, 1, 32 * 32).reshape(32, 32)
    fig = figures.one_unit(PICTURE, field, REGION, spoken, Neuron(2, 775), 0.95)
    assert_legible(fig)
    bars = fig.axes[3].patches
    assert [bar.get_width() for bar in bars] == spoken["probability"].tolist()
    assert [label.get_text() for label in fig.axes[3].get_yticklabels()][:2] == ["there", "$5 ^"]
    assert bars[0].get_y() > bars[1].get_y()  # the most probable on top
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == ["photograph", "activation", "above the 0.95 quantile", "L2.u775 writes"]
    inside = fig.axes[2].images[0].get_array()[10, 10]
    np.testing.assert_allclose(inside, np.array([200, 100, 50]) / 255)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_best_units_stand_below_their_photograph(count):
    panels = [a_panel(title) for title in ("animal", "vehicle", "a", "b", "c", "d")[:count]]
    fig = figures.best_units(panels)
    assert_legible(fig)
    shown, below = fig.axes[0], fig.axes[count]
    assert shown.get_title(loc="left") == "animal"
    assert "HELICOPTER" in shown.get_xlabel()
    texts = [text.get_text() for text in below.texts]
    assert texts[:4] == ["L27.u16000", "helicopters, (blank)", "L27.u16001", "helicopters, (blank)"]
    assert [below.texts[i].get_weight() for i in (0, 2)] == ["bold", "normal"]


def test_regions_of_pairs_stand_in_a_row():
    fig = figures.pair_regions([a_panel("horse\nall"), a_panel("horse\ninterpretable")])
    assert_legible(fig)
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == ["horse\nall", "horse\ninterpretable"]


@pytest.mark.parametrize("layers", [6, 28])
def test_layers_have_their_counts_and_the_papers_band(layers):
    kinds = ("multimodal", "interpretable")
    counts = pd.DataFrame(
        {f"{what}, {kind}": np.arange(layers) * (300 if kind == "multimodal" else 100)
         for what in ("different units", "entries in top lists") for kind in kinds}
    )  # fmt: skip
    fig = figures.layers(counts, 100, (0.25, 0.5))
    assert_legible(fig, also=[figures.BAND])
    for ax, what in zip(fig.axes, ("different units", "entries in top lists"), strict=True):
        *bars, band = ax.patches
        heights = [bar.get_height() for bar in bars]
        expected = [counts[f"{what}, {kind}"].tolist() for kind in kinds]
        assert heights == [*expected[0], *expected[1]]
        assert band.get_x() == pytest.approx(0.25 * layers - 0.5)
        assert band.get_width() == pytest.approx(0.25 * layers)
        assert ax.get_ylabel() == what
        names = {text.get_text() for text in ax.get_legend().get_texts()}
        assert names == {"top 100", "interpretable", "paper: most units"}
