"""Figures 4, 5, S.1 and S.2 of paper A: legible, and true to what they are given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from mmn_utils.exhibits import plots
from mmn_utils.exhibits.figures import selectivity
from mmn_utils.neurons.table import RANDOM, TOP, Neuron
from mmn_utils.studies.selectivity.activity import Portrait
from mmn_utils.studies.selectivity.matrix import class_matrix
from mmn_utils.studies.selectivity.overlap import Example
from tests.exhibits.legible import assert_legible

CATEGORIES = ["fire hydrant", "dining table", "teddy bear", "sports ball", "traffic light", "cat",
              "motorcycle", "refrigerator", "hot dog", "person", "airplane", "plant"]  # fmt: skip


@pytest.fixture(autouse=True)
def style():
    plots.use_style()


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (40, 40), (shade, 128, 0))


def corner(size: int) -> np.ndarray:
    """A mask of the upper left corner: bool (40, 40)."""
    mask = np.zeros((40, 40), bool)
    mask[:size, :size] = True
    return mask


def shown(ax) -> np.ndarray:
    """What an overlay shows inside its mask, at the upper left."""
    return np.rint(np.asarray(ax.images[0].get_array())[0, 0] * 255)


def portrait(noun: str, count: int) -> Portrait:
    """A unit of which every other picture shows its noun."""
    pictures, masks = [picture(40 * i) for i in range(count)], np.stack([corner(10)] * count)
    words = ("$croak", "", "tadpole", "pond", "toad", "frogs", "green", "slime")
    shows = [i % 2 == 0 for i in range(count)]
    peaks = [2.5 - 0.25 * i for i in range(count)]
    return Portrait(noun, Neuron(2, 81), words, pictures, masks, shows, peaks, 0.125, -1)


def test_figure_4_shows_each_picture_and_says_which_is_right():
    fig = selectivity.top_activating([portrait("frog", 6), portrait("sheep", 6)])
    assert_legible(fig)
    panels = [fig.axes[:6], fig.axes[6:]]
    for noun, panel in zip(("frog", "sheep"), panels, strict=True):
        titles = [one for ax in panel for one in ax.findobj(Text) if noun in one.get_text()]
        assert [one.get_text() for one in titles] == [f"shows {noun}", f"no {noun}"] * 3
        assert [one.get_color() for one in titles] == [plots.INK, plots.palette("prompts")] * 3
        assert [shown(ax).tolist() for ax in panel] == [[40 * i, 128, 0] for i in range(6)]
        assert [ax.get_xlabel() for ax in panel[:2]] == ["2.50", "2.25"]
    heading, usual = fig.subfigs[1].get_suptitle().splitlines()
    assert heading.startswith("−L2.u81, found for “sheep”, writes: $croak, tadpole")
    assert heading.endswith("toad, frogs, green")
    assert usual.endswith("on the median picture 0.12")


def test_figure_5_draws_bars_with_their_intervals():
    heights = np.linspace(0.3, 0.1, len(CATEGORIES))
    table = pd.DataFrame({"category": CATEGORIES, TOP: heights, RANDOM: heights / 2})
    table["pictures"], table["possible"] = range(10, 22), 0.4
    for name in (TOP, RANDOM):
        table[f"{name} low"], table[f"{name} high"] = table[name] - 0.05, table[name] + 0.04
    fig = selectivity.category_overlap(table, 20)
    assert_legible(fig)
    (ax,) = fig.axes
    bars = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(bars, [*heights, *heights / 2])
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        f"{name} ({10 + i})" for i, name in enumerate(CATEGORIES)
    ]
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend[0] == "most that masks of this size can have"
    assert legend[1:] == ["top 20 units", "random units of the same layers"]
    spans = [line.get_segments() for line in ax.collections]
    np.testing.assert_allclose(spans[0][0][:, 1], [0.25, 0.34])
    np.testing.assert_allclose(spans[-1][3], [[2.6, 0.4], [3.4, 0.4]])


def test_figure_5_leaves_out_what_is_possible_where_that_is_unknown():
    table = pd.DataFrame({"category": ["cat"], "pictures": 3, "possible": np.nan})
    for name in (TOP, RANDOM):
        table[name], table[f"{name} low"], table[f"{name} high"] = 0.2, 0.1, 0.3
    (ax,) = selectivity.category_overlap(table, 20).axes
    assert len(ax.get_legend().get_texts()) == 2


def example(category: str, count: int) -> Example:
    masks = np.stack([corner(5 + i) for i in range(count)])
    names = ["mean of 20", *(f"L2.u{i}" for i in range(count - 1))]
    ious = [0.1 * i for i in range(count)]
    return Example(category, picture(90), corner(20), masks, names, ious)


def test_figure_s1_outlines_the_object_then_masks_with_their_iou():
    fig = selectivity.example_masks([example("dog", 7), example("bicycle", 6)])
    assert_legible(fig)
    titles = [ax.get_title(loc="left") for ax in fig.axes if ax.get_visible()]
    assert titles[:3] == ["dog", "mean of 20\n0.00", "L2.u0\n0.10"]
    assert titles[8] == "bicycle"
    assert len(titles) == 8 + 7  # a unit less beside the bicycle
    outside = np.asarray(fig.axes[1].images[0].get_array())[-1, -1]
    inside = np.asarray(fig.axes[1].images[0].get_array())[0, 0]
    np.testing.assert_allclose(outside, inside * 0.55)


def figure_s2(names: list[str], activations: np.ndarray):
    matrix = class_matrix(activations, names, names)
    units = {
        name: [(Neuron(2, 10 * i + j), 1 - 2 * (j % 2)) for j in range(5)]
        for i, name in enumerate(names)
    }
    pictures = {name: [picture(20 * i)] * 5 for i, name in list(enumerate(names))[:2]}
    words = {unit: [" sweet", "wine", "$"] for some in units.values() for unit in some}
    named, naming = {name: i / 10 for i, name in enumerate(names)}, dict.fromkeys(names, 7)
    return matrix, selectivity.class_selectivity(matrix, units, pictures, words, named, naming)


def test_figure_s2_writes_the_matrix_and_frames_each_rows_largest():
    names = ["african elephant", *CATEGORIES[:9]]
    activations = np.eye(10)[::-1] + np.linspace(-0.5, 0.4, 10)
    matrix, fig = figure_s2(sorted(names), activations)
    assert_legible(fig)
    left, right = fig.axes
    np.testing.assert_array_equal(left.images[0].get_array(), matrix.relative)
    written = [text.get_text() for text in left.texts]
    assert written[:3] == ["<0", "<0", "<0"]
    assert written[9] == "1.00"
    (frames,) = left.lines
    assert frames.get_xdata().tolist() == list(range(9, -1, -1))
    lines = [text.get_text() for text in right.texts]
    assert lines[:2] == [
        "(b) african elephant: pictures and steadiest units",
        "+L2.u0: sweet, wine, $",
    ]
    assert lines[2].startswith("−L2.u1:")
    assert len(lines) == 2 * (1 + 4)
    insets = [np.asarray(inset.images[0].get_array())[0, 0, 0] for inset in right.child_axes]
    assert insets == [0] * 4 + [20] * 4


def test_figure_s2_has_no_ratios_in_a_row_that_is_never_active():
    _, fig = figure_s2(["a", "b"], np.array([[-0.2, -0.1], [0.1, 0.4]]))
    written = [text.get_text() for text in fig.axes[0].texts]
    assert written[:4] == ["<0", "<0", ".25", "1.00"]
    assert written[4:] == ["0%", "10%", "named", "7", "7", "write it"]


def test_figure_s2_writes_one_only_where_the_frame_is():
    _, fig = figure_s2(["a", "b"], np.array([[1.0, 0.999], [0.001, 0.4]]))
    assert [text.get_text() for text in fig.axes[0].texts[:4]] == ["1.00", ">.99", "~0", "1.00"]
