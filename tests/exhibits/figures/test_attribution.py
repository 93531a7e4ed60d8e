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
from mmn_utils.studies.examples import Panel, Spoken
from tests.exhibits.legible import assert_legible

PICTURE = Image.new("RGB", (40, 40), (200, 100, 50))
REGION = np.zeros((32, 32), dtype=bool)
REGION[4:12, 4:20] = True


@pytest.fixture(autouse=True)
def style():
    plots.use_style()
    yield
    plt.close("all")


def a_panel(title: str, tokens: list[str] = ("helicopters", " ", "$x^2"), words: int = 5) -> Panel:
    units = pd.DataFrame(
        {"neuron": [Neuron(27, 16000 + i) for i in range(words)], "target": "boat",
         "tokens": [list(tokens)] * words, "sign": [1, -1, 1, 1, 1][:words],
         "writes_noun": [i % 2 == 0 for i in range(words)]}
    )  # fmt: skip
    return Panel(title, PICTURE, "A picture of a HELICOPTER on the carpet.", units, REGION)


def test_one_unit_is_shown_with_its_field_its_region_and_its_words():
    words = [" there", "$5 ^", " moo", " dairy", " milk", " calf", " cows", " ox", " bull", "\n"]
    logits = np.linspace(0.3, 0.2, 10)
    is_noun = [word == " cows" for word in words]
    said = pd.DataFrame({"text": words, "logit": logits, "is_noun": is_noun})
    field = np.linspace(-1, 1, 32 * 32).reshape(32, 32)
    spoken = Spoken("L2.u775 (−)", said, (-0.15, 0.21))
    fig = figures.one_unit(PICTURE, field, REGION, spoken, 0.95)
    assert_legible(fig)
    *bars, span = fig.axes[3].patches
    assert [bar.get_width() for bar in bars] == logits.tolist()
    assert (span.get_x(), span.get_width()) == pytest.approx((-0.15, 0.36))
    labels = fig.axes[3].get_yticklabels()
    assert [label.get_text() for label in labels][:2] == ["there", "$5 ^"]
    assert [label.get_weight() == "bold" for label in labels] == is_noun
    assert bars[0].get_y() > bars[1].get_y()  # the loudest on top
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == ["picture", "activation", "above the 0.95 quantile", "L2.u775 (−) writes"]
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
    two = "helicopters, (blank)"
    assert texts[:4] == ["L27.u16000 +", two, "L27.u16001 −", two]
    assert [below.texts[i].get_weight() for i in range(4)] == ["bold", "bold", "normal", "normal"]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["sea", "boats", "boat"], "sea, boats"),
        (["sea", "ship", "mast", "boats", "boat"], "sea … boats"),
        (["sea", "ship", "boating"], "sea, ship"),
    ],
)
def test_the_noun_is_among_the_words_shown(tokens, expected):
    fig = figures.best_units([a_panel("vehicle", tokens)])
    assert fig.axes[1].texts[1].get_text() == expected


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
        low, high, even = ax.lines
        assert low.get_xdata()[0] == pytest.approx(0.25 * layers - 0.5)
        assert high.get_xdata()[0] == pytest.approx(0.5 * layers - 0.5)
        assert low.get_zorder() > max(bar.get_zorder() for bar in bars)  # no bar hides it
        assert even.get_ydata()[0] == pytest.approx(sum(expected[0]) / (layers - 1))
        assert ax.get_ylabel() == what
    names = {text.get_text() for text in fig.legends[0].get_texts()}
    assert names == {"top 100", "interpretable", "paper: most", "evenly spread"}
