"""For what neurons fire: paper A, Figures 4, 5, S.1 and S.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from mmn_utils.exhibits import plots
from mmn_utils.neurons.decoding import SIGN, Signed
from mmn_utils.neurons.table import RANDOM, TOP
from mmn_utils.studies.selectivity.activity import Portrait
from mmn_utils.studies.selectivity.matrix import ClassMatrix
from mmn_utils.studies.selectivity.overlap import Example

FAINT = "#AAAAAA"
WORDS = 6  # of a unit, in the heading of its row
PICTURES, UNITS = 4, 4  # what is shown of a class beside the matrix


def top_activating(portraits: Sequence[Portrait]) -> Figure:
    """Draw Figure 4: a row of pictures for each unit, with its mask, and whether it is right.

    Under each picture stands how strongly the unit fires there; above, on the median picture.
    """
    columns = max(len(portrait.pictures) for portrait in portraits)
    width = plots.WIDTH["page"]
    fig = plt.figure(figsize=(width, len(portraits) * (width / columns + 0.66)))
    panels = fig.subfigures(len(portraits), 1, squeeze=False)[:, 0]
    for panel, one in zip(panels, portraits, strict=True):
        words = ", ".join([word for word in one.words if word][:WORDS])  # a blank shows nothing
        heading = (
            f"{SIGN[one.sign]}{one.unit}, found for “{one.noun}”, writes: {words}\n"
            f"its largest activation is under each picture; on the median picture {one.median:z.2f}"
        )
        panel.suptitle(heading, fontsize=7.5, x=0.01, ha="left", parse_math=False)
        axes = panel.subplots(1, columns, squeeze=False)[0]
        for ax, *seen in zip(axes, one.pictures, one.masks, one.shows, one.peaks, strict=False):
            _hit_or_miss(ax, one.noun, *seen)
    return fig


def _hit_or_miss(
    ax: Axes, noun: str, picture: Image.Image, mask: np.ndarray, hit: bool, peak: float
) -> None:
    """Show where a unit is active in a picture, whether that shows a noun, and how active it is."""
    plots.heatmap_overlay(ax, picture, mask)
    colour = plots.INK if hit else plots.palette("prompts")
    ax.set_title(f"{'shows' if hit else 'no'} {noun}", fontsize=6.5, color=colour)
    ax.set_xlabel(f"{peak:.2f}", fontsize=6.5, loc="left", labelpad=1)


def category_overlap(table: pd.DataFrame, n_units: int) -> Figure:
    """Draw Figure 5: IoU with the object in each category, of top and of random units.

    ``table`` with category, ``pictures``, each condition, its ``low`` and ``high``, and
    ``possible``, which no mask of that size can exceed, NaN where that is unknown.
    """
    names = {TOP: f"top {n_units} units", RANDOM: "random units of the same layers"}
    heights = {name: table[name] for name in names}
    spans = {name: table[[f"{name} low", f"{name} high"]].to_numpy() for name in names}
    fig, ax = plt.subplots(figsize=(plots.WIDTH["page"], 2.5))
    labels = [f"{one.category} ({one.pictures})" for one in table.itertuples()]
    plots.interval_bar(ax, labels, heights, spans, names)
    if table["possible"].notna().any():
        x, style = np.arange(len(table)), {"colors": plots.INK, "linewidth": 1.2}
        most = "most that masks of this size can have"
        ax.hlines(table["possible"], x - 0.4, x + 0.4, label=most, **style)
    ax.set(ylabel="IoU with the object")
    plt.setp(ax.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    ax.grid(False, axis="x")
    plots.legend_above(ax)
    return fig


def example_masks(examples: Sequence[Example]) -> Figure:
    """Draw Figure S.1: for each picture its object, and masks with their IoU.

    The object's outline, in the first column, is repeated faintly beneath every mask's.
    """
    columns = 1 + max(len(one.masks) for one in examples)
    width = plots.WIDTH["page"]
    size = (width, len(examples) * (width / columns + 0.2))
    fig, axes = plt.subplots(len(examples), columns, figsize=size, squeeze=False)
    for row, one in zip(axes, examples, strict=True):
        _outlined(row[0], one.picture, one.truth, one.category, "coco", dim=0.0)
        for ax, mask, name, iou in zip(row[1:], one.masks, one.names, one.ious, strict=False):
            _outlined(ax, one.picture, mask, f"{name}\n{iou:.2f}", "prompts", dim=0.45)
            _faintly_outlined(ax, one.truth, one.picture.size)
        for ax in row[1 + len(one.masks) :]:
            ax.set_visible(False)
    return fig


def _outlined(
    ax: Axes, picture: Image.Image, mask: np.ndarray, title: str, condition: str, dim: float
) -> None:
    plots.heatmap_overlay(ax, picture, mask, plots.palette(condition), dim=dim)
    ax.set_title(title, fontsize=6, pad=2)


def _faintly_outlined(ax: Axes, truth: np.ndarray, size: tuple[int, int]) -> None:
    """Draw the outline of an object (h, w) over a picture (width, height) that is shown."""
    height, width = truth.shape
    x, y = ((np.arange(n) + 0.5) * of / n - 0.5 for n, of in ((width, size[0]), (height, size[1])))
    ax.contour(x, y, truth, levels=[0.5], colors=[plots.palette("coco")], linewidths=0.5)


def class_selectivity(
    matrix: ClassMatrix,
    units: Mapping[str, Sequence[Signed]],
    pictures: Mapping[str, Sequence[Image.Image]],
    words: Mapping[Signed, Sequence[str]],
    named: Mapping[str, float],
    naming: Mapping[str, int],
) -> Figure:
    """Draw Figure S.2: the matrix of classes, and some classes' pictures and units.

    ``units`` of each class with their signs, ``pictures`` of those that are shown, ``words`` that
    each unit writes. The share of captions in which each class is ``named`` first, and how many
    of its units write its name (``naming``), stand beside its row.
    """
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(plots.WIDTH["page"], 3.7), width_ratios=[1.3, 1]
    )
    _matrix(left, matrix)
    left.set_title("(a) mean activation, relative to the row's largest")
    for column, (title, values) in enumerate(
        {"named": [f"{named[name]:.0%}" for name in matrix.classes],
         "write it": [str(naming[name]) for name in matrix.classes]}.items()
    ):  # fmt: skip
        _beside(left, len(matrix.classes) + 0.2 + 1.25 * column, title, values)
    plots.bare(right)
    for i, name in enumerate(pictures):
        lines = [
            f"{SIGN[unit[1]]}{unit[0]}: {', '.join(word.strip() for word in words[unit][:5])}"
            for unit in units[name][:UNITS]
        ]
        title = f"({'bc'[i]}) {name}: pictures and steadiest units"
        _class_panel(right, 1 - 0.53 * i, title, pictures[name][:PICTURES], lines)
    return fig


def _matrix(ax: Axes, matrix: ClassMatrix) -> None:
    """Shade the matrix, write its values, and frame each row's largest mean."""
    shades = LinearSegmentedColormap.from_list("shades", ["white", plots.palette(TOP)])
    count = len(matrix.classes)
    ax.imshow(np.nan_to_num(matrix.relative), cmap=shades, vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(matrix.relative):
        colour = "white" if value > 0.6 else plots.INK if value > 0 else FAINT
        ax.text(column, row, _short(value), ha="center", va="center", fontsize=6, color=colour)
    ticks = range(count)
    ax.set(xlabel="pictures of", ylabel="units of", xticks=ticks, yticks=ticks)
    ax.set(xticklabels=matrix.classes, yticklabels=matrix.classes)
    ax.set_xlim(-0.5, count + 1.8)  # room for what stands beside the rows
    ax.spines["bottom"].set_bounds(-0.5, count - 0.5)
    ax.tick_params(length=0)
    plt.setp(ax.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    frame = {"ms": 15, "mfc": "none", "mec": plots.palette("prompts"), "mew": 1.1}
    ax.plot(matrix.mean.argmax(1), ticks, "s", **frame)
    ax.grid(False)


def _beside(ax: Axes, x: float, title: str, values: Sequence[str]) -> None:
    """Write a value beside each row of the matrix, and their title as the ticks' labels are."""
    for row, value in enumerate(values):
        ax.text(x, row, value, ha="center", va="center", fontsize=6.5)
    turned = {"rotation": 45, "rotation_mode": "anchor", "ha": "right", "va": "top"}
    ax.text(x, len(values) - 0.35, title, fontsize=7.5, **turned)


def _short(value: float) -> str:
    """Write a share in at most four signs; nothing but a row's largest is written as 1."""
    if not value > 0:  # NaN too: a row without a positive mean
        return "<0"
    if value < 0.005:
        return "~0"
    if 0.995 <= value < 1:
        return ">.99"
    return f"{value:.2f}".removeprefix("0")


def _class_panel(
    ax: Axes, top: float, title: str, pictures: Sequence[Image.Image], lines: Sequence[str]
) -> None:
    """Lay out a class from ``top`` downwards: a title, a row of pictures, a line for each unit."""
    text = {"transform": ax.transAxes, "va": "top", "parse_math": False}
    ax.text(0, top, title, weight="bold", fontsize=7.5, **text)
    for column, picture in enumerate(pictures):
        inset = ax.inset_axes([0.25 * column, top - 0.28, 0.235, 0.22])
        inset.imshow(picture)
        plots.bare(inset)
    for row, line in enumerate(lines):
        ax.text(0, top - 0.305 - 0.045 * row, line, fontsize=6.2, **text)
