"""A neuron's card on paper: legible, true to its numbers, and honest where there is no grid."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmn_utils.exhibits import plots
from mmn_utils.exhibits.figures import cards
from tests.exhibits.legible import assert_legible

EDGES = (*(-(2.0**p) for p in range(3, -6, -1)), 0.0, *(2.0**p for p in range(-5, 4)))
WRITES = [("<b>$x$", 0.5), (" ", 0.4), (" horse", 0.3), ("&amp;", 0.2), ("a_b^c", 0.1), (" y", 0.0)]


@pytest.fixture(autouse=True)
def style():
    plots.use_style()


def portrait(title: str, field: np.ndarray | None) -> cards.Portrait:
    picture = Image.new("RGB", (40, 30), (200, 128, 0))
    point = None if field is None else (0.75, 0.25)
    counts = tuple(range(len(EDGES) + 1))
    strongest = [(str(i), picture, 2.0 - i, point) for i in range(4)]
    suppresses = [(f" no{i}", 0.1 * (5 - i)) for i in range(5)]
    reason = "" if field is not None else "queries have no place"
    return cards.Portrait(
        title, picture, field, reason, WRITES, suppresses, counts, EDGES, strongest
    )


def test_cards_are_legible_and_circle_where_a_unit_was_most_active():
    field = np.arange(12.0).reshape(3, 4)
    fig = cards.neuron_cards([portrait("L0.u1 one", field), portrait("L0.u2 other", field)])
    assert_legible(fig)
    assert [panel.get_suptitle() for panel in fig.subfigs] == ["L0.u1 one", "L0.u2 other"]
    shown = [ax for ax in fig.findobj(type(fig.axes[0])) if ax.images]
    assert len(shown) == 2 * (1 + cards.PICTURES)
    for ax in (one for one in shown if one.lines):
        assert ax.lines[0].get_xydata().tolist() == [[30, 7.5]]
    assert sum(bool(ax.lines) for ax in shown) == 2 * cards.PICTURES


def test_bars_are_the_logits_and_the_shares():
    fig = cards.neuron_cards([portrait("L0.u1", np.eye(3))])
    words, levels = fig.subfigs[0].axes[1:3]
    assert [bar.get_width() for bar in words.patches] == pytest.approx(
        [0.5, 0.4, 0.3, 0.2, 0.1, -0.5, -0.4, -0.3, -0.2, -0.1]
    )
    assert [text.get_text().strip() for text in words.texts][:4] == [
        "<b>$x$", "(blank)", "horse", "&amp;",
    ]  # fmt: skip
    heights = [bar.get_height() for bar in levels.patches]
    assert heights == pytest.approx([i / sum(range(20)) for i in range(20)])
    colours = [bar.get_facecolor() for bar in levels.patches]
    assert len(set(colours[:10])) == len(set(colours[10:])) == 1
    assert colours[9] != colours[10], "0 divides the colours"


def test_without_a_grid_it_says_so_and_circles_nothing():
    fig = cards.neuron_cards([portrait("L0.u1", None)])
    assert_legible(fig)
    assert fig.subfigs[0].axes[0].get_xlabel() == "no grid, no heat map"
    assert not [ax for ax in fig.findobj(type(fig.axes[0])) if ax.images and ax.lines]


def test_numbers_are_those_drawn():
    field = np.arange(6.0).reshape(2, 3)
    numbers = cards.numbers([portrait("L0.u1", field), portrait("L0.u2", None)])
    first = numbers[numbers["neuron"] == "L0.u1"].groupby("what", sort=False)["value"].agg(list)
    assert first["field"] == list(range(6))
    assert first["writes"] == [0.5, 0.4, 0.3, 0.2, 0.1]
    assert first["histogram"] == list(range(20))
    assert first["strongest"] == [2.0, 1.0, 0.0]
    assert "field" not in set(numbers.loc[numbers["neuron"] == "L0.u2", "what"])
