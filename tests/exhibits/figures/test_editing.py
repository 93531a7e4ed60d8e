"""Figures of edits: every number is where it belongs, and can be read."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mmn_utils.exhibits import plots
from mmn_utils.exhibits.figures import editing
from tests.exhibits.legible import assert_legible

MEASURES = ["efficacy", "generality", "locality", "fluency", "exact"]
WAYS = ["Algorithm 1", "Adam", "squared norm", "whole model"]


@pytest.fixture(autouse=True)
def look():
    plots.use_style()
    yield
    plt.close("all")


def summary_by(columns: list[str], *values) -> pd.DataFrame:
    """Make up a summary of each measure for each combination of values; all means differ."""
    rows = list(itertools.product(*values, MEASURES))
    table = pd.DataFrame(rows, columns=[*columns, "measure"])
    table["mean"] = np.linspace(0.1, 0.9, len(table))
    return table.assign(low=table["mean"] - 0.05, high=table["mean"] + 0.1, n=24)


def intervals(container) -> np.ndarray:
    """Read the low and high ends that an error bar draws: (points, 2)."""
    (lines,) = container.lines[2]
    return np.array([segment[:, 1] for segment in lines.get_segments()])


def test_each_way_has_a_bar_with_its_interval_for_each_measure():
    summary = summary_by(["method"], WAYS)
    summary.loc[summary["measure"] == "locality", "n"] = np.arange(20, 24)
    fig = editing.evaluation(summary, WAYS)
    assert_legible(fig)
    (ax,) = fig.axes
    shown = summary[summary["measure"] != "exact"].set_index("method")
    bars, errors = ax.containers[::2], ax.containers[1::2]
    for way, some, bounds in zip(WAYS, bars, errors, strict=True):
        np.testing.assert_allclose([bar.get_height() for bar in some], shown.loc[way, "mean"])
        np.testing.assert_allclose(intervals(bounds), shown.loc[way, ["low", "high"]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == WAYS
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert [label.split("\n")[0] for label in labels] == list(editing.QUESTIONS)
    assert [label.split("\n")[-1] for label in labels] == [
        "n = 24", "n = 24", "n = 20 to 23", "n = 24",
    ]  # fmt: skip


def test_a_measure_without_images_has_no_place():
    summary = summary_by(["method"], WAYS[:2])
    fig = editing.evaluation(summary[summary["measure"] != "locality"], WAYS[:2])
    labels = [label.get_text() for label in fig.axes[0].get_xticklabels()]
    assert len(labels) == 3
    assert labels[0].endswith("\nn = 24")


def test_a_sweep_has_a_line_for_each_strength():
    summary = summary_by(["neurons", "strength"], [1, 5, 10], [0.5, 1.0, 2.0])
    fig = editing.sweep(summary)
    assert_legible(fig, also=editing.SHADES)
    for ax, measure in zip(fig.axes, ("generality", "locality"), strict=True):
        assert ax.get_title(loc="left").startswith(measure)
        assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "5", "10"]
        for strength, line in zip([0.5, 1.0, 2.0], ax.containers, strict=True):
            rows = summary[(summary["measure"] == measure) & (summary["strength"] == strength)]
            np.testing.assert_allclose(line.lines[0].get_ydata(orig=False), rows["mean"])
            np.testing.assert_allclose(intervals(line), rows[["low", "high"]])
        (ring,) = [line for line in ax.lines if line.get_markersize() == 9]
        printed = summary.query("measure == @measure and strength == 1 and neurons == 5")
        assert ring.get_ydata().tolist() == printed["mean"].tolist()
        assert ", n = 24:" in ax.get_title(loc="left")
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["0.5 × dw", "1 × dw", "2 × dw", "as the paper prints"]


def test_a_sweep_without_the_papers_setting_has_no_ring():
    for values in ([[1, 10], [0.5, 1.0]], [[1, 5], [0.5, 2.0]]):
        fig = editing.sweep(summary_by(["neurons", "strength"], *values))
        assert all(line.get_markersize() < 9 for ax in fig.axes for line in ax.lines)


def test_more_than_there_are_colours_for_is_refused():
    with pytest.raises(ValueError, match="5 ways of editing; there are colours for 4"):
        editing.evaluation(summary_by(["method"], [*WAYS, "more"]), [*WAYS, "more"])
    strengths = [0.5, 1.0, 2.0, 4.0, 8.0]
    with pytest.raises(ValueError, match="5 strengths; there are shades for 4"):
        editing.sweep(summary_by(["neurons", "strength"], [1, 5], strengths))
