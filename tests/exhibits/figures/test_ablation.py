"""Figures 6 and S.3 of paper A: legible, and true to the numbers they are given."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mmn_utils.exhibits import plots
from mmn_utils.exhibits.figures import ablation
from mmn_utils.exhibits.formats import PNG_DPI
from tests.exhibits.legible import assert_legible

KS = [0, 1, 2, 3, 6, 11, 22, 43, 86]
CAPTION = "a photograph of a man who holds a large umbrella over two small dogs"


@pytest.fixture(autouse=True)
def style():
    plots.use_style()


def made_curves(suffix: str = "") -> pd.DataFrame:
    rows = []
    for i, condition in enumerate(ablation.NAMES):
        for j, k in enumerate(KS):
            mean = 1 - 0.08 * j / (i + 1)
            rows.append((condition, k, mean, mean - 0.05, mean + 0.05))
    names = [f"{name}{suffix}" for name in ("mean", "low", "high")]
    return pd.DataFrame(rows, columns=["condition", "k", *names])


def figure_6(said: list[str] | None = None, curves: pd.DataFrame | None = None) -> Figure:
    said = said or [f"a horse and {k} dogs on the grass" for k in KS]
    captions = pd.DataFrame({"k": KS, "top": said, "random": [said[0]] * len(KS)})
    names = {"image": "10000576", "noun": "horse", "prefix": "A picture of"}
    picture = Image.new("RGB", (40, 30), (0, 128, 0))
    curves = made_curves(" relative") if curves is None else curves
    return ablation.noun_probability(curves, 6144, picture, captions, **names)


def assert_drawn(ax, curves: pd.DataFrame, suffix: str = "") -> None:
    """Compare lines and bands of the axes with the numbers of the frame."""
    lines = [line for line in ax.lines if len(line.get_xdata()) == len(KS)]
    bands = [band.get_paths()[0].vertices for band in ax.collections]
    parts = list(curves.groupby("condition", sort=False))
    for line, band, (condition, some) in zip(lines, bands, parts, strict=True):
        assert line.get_label() == ablation.NAMES[condition]
        assert line.get_color() == plots.palette(ablation.COLOURS[condition])
        assert line.get_xdata().tolist() == [0.5, *KS[1:]]
        np.testing.assert_array_equal(line.get_ydata(), some[f"mean{suffix}"])
        assert band[:, 1].min() == some[f"low{suffix}"].min()
        assert band[:, 1].max() == some[f"high{suffix}"].max()
    assert [label.get_text() for label in ax.get_xticklabels()] == list(map(str, KS))


@pytest.mark.parametrize("steep", [False, True])
def test_the_legend_of_figure_6_stands_where_no_curve_is(steep):
    curves = made_curves(" relative")
    if steep:
        top = (curves["condition"] == "top") & (curves["k"] > 0)
        curves.loc[top, ["mean relative", "low relative", "high relative"]] = 0.01
    fig = figure_6(curves=curves)
    fig.draw_without_rendering()
    ax = fig.subfigs[0].axes[0]
    within = ax.get_legend().get_window_extent().y0 < ax.get_window_extent().y1 - 1
    assert within != steep  # beside the curves, or above their axes


@pytest.mark.parametrize("steep", [False, True])
def test_the_legend_of_figure_s3_stands_where_no_curve_is(steep):
    curves = made_curves()
    if steep:
        top = (curves["condition"] == "top") & (curves["k"] > 0)
        curves.loc[top, ["mean", "low", "high"]] = 0.1
    fig = ablation.caption_similarity(curves, 6144, floor=0.5)
    assert_legible(fig)
    fig.draw_without_rendering()
    ax = fig.axes[0]
    within = ax.get_legend().get_window_extent().y0 < ax.get_window_extent().y1 - 1
    assert within != steep


def test_figure_6_draws_the_curves_and_the_picture():
    fig = figure_6()
    assert_legible(fig)
    assert_drawn(fig.axes[0], made_curves(" relative"), " relative")
    pictures = [image for ax in fig.axes for inset in ax.child_axes for image in inset.images]
    assert [image.get_array().shape for image in pictures] == [(30, 40, 3)]


def written(fig: Figure) -> list[list]:
    """Return the texts of Figure 6's table, row by row, under the header."""
    ax = max(fig.axes, key=lambda ax: len(ax.texts))
    return [ax.texts[i : i + 3] for i in range(3, len(ax.texts), 3)]


def test_figure_6_writes_each_caption_and_dittos_where_it_stays():
    said = ["a horse", "a horse", "a dog", "a dog", "a horse", *["grass"] * 4]
    table = [[text.get_text() for text in row] for row in written(figure_6(said))]
    assert [row[0] for row in table] == list(map(str, KS))
    assert [row[1] for row in table] == ["a horse", "″", "a dog", "″", "a horse", "grass", *"″″″"]
    assert [row[2] for row in table] == ["a horse", *"″″″″″″″″"]


def test_long_captions_stay_in_their_columns():
    fig = figure_6([f"{k} {CAPTION}" for k in KS])
    fig.set_dpi(PNG_DPI)  # letters are wider where there are fewer dots
    fig.draw_without_rendering()
    for row in written(fig):
        boxes = [text.get_window_extent() for text in row]
        assert all(one.x1 < next.x0 for one, next in pairwise(boxes))
        assert boxes[-1].x1 <= fig.bbox.x1
    assert "…" in written(fig)[0][1].get_text()


def test_figure_s3_draws_the_curves_and_the_floor():
    fig = ablation.caption_similarity(made_curves(), 458752, 0.41)
    assert_legible(fig)
    (ax,) = fig.axes
    assert_drawn(ax, made_curves())
    assert ax.lines[-1].get_ydata() == [0.41, 0.41]
    assert ax.get_xlabel() == "units ablated, of 458,752"


@pytest.mark.parametrize("floor", [0.41, 0.7])
def test_the_floor_is_named_where_no_other_print_stands(floor):
    (ax,) = ablation.caption_similarity(made_curves(), 458752, floor).axes
    ax.figure.draw_without_rendering()
    legend = ax.get_legend()
    box = legend.get_window_extent()
    assert not any(text.get_window_extent().overlaps(box) for text in ax.texts)
    named = [text.get_text() for text in (*ax.texts, *legend.get_texts())]
    assert named.count("captions of other pictures") == 1
