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
from mmn_utils.neurons.table import RANDOM, TOP, Neuron
from mmn_utils.studies.selectivity.activity import Portrait
from mmn_utils.studies.selectivity.classes import ClassMatrix
from mmn_utils.studies.selectivity.overlap import Example

FAINT = "#AAAAAA"
WORDS = 6  # of a unit, in the heading of its row
EXAMPLES, PICTURES, UNITS = 2, 4, 4  # classes beside the matrix, and what is shown of each


def top_activating(portraits: Sequence[Portrait]) -> Figure:
    """Draw Figure 4: a row of pictures for each unit, with its mask, and whether it is right."""
    columns = max(len(portrait.pictures) for portrait in portraits)
    width = plots.WIDTH["page"]
    fig = plt.figure(figsize=(width, len(portraits) * (width / columns + 0.38)))
    panels = fig.subfigures(len(portraits), 1, squeeze=False)[:, 0]
    for panel, one in zip(panels, portraits, strict=True):
        heading = f"{one.unit}, found for “{one.noun}”, writes: {', '.join(one.words[:WORDS])}"
        panel.suptitle(heading, fontsize=8, x=0.01, ha="left", parse_math=False)
        axes = panel.subplots(1, columns, squeeze=False)[0]
        for ax, *seen in zip(axes, one.pictures, one.masks, one.shows, strict=False):
            _hit_or_miss(ax, one.noun, *seen)
    return fig


def _hit_or_miss(ax: Axes, noun: str, picture: Image.Image, mask: np.ndarray, hit: bool) -> None:
    """Show where a unit is active in a picture, with a title that says whether it shows a noun."""
    plots.heatmap_overlay(ax, picture, mask)
    colour = plots.INK if hit else plots.palette("prompts")
    ax.set_title(f"{'shows' if hit else 'no'} {noun}", fontsize=6.5, color=colour)


def category_overlap(table: pd.DataFrame, n_units: int) -> Figure:
    """Draw Figure 5: IoU with the object in each category, of top and of random units.

    ``table`` with category, each condition, and its ``low`` and ``high``.
    """
    names = {TOP: f"top {n_units} units", RANDOM: "random units of the same layers"}
    heights = {name: table[name] for name in names}
    spans = {name: table[[f"{name} low", f"{name} high"]].to_numpy() for name in names}
    fig, ax = plt.subplots(figsize=(plots.WIDTH["page"], 2.5))
    plots.interval_bar(ax, table["category"], heights, spans, names)
    ax.set(ylabel="IoU with the object")
    plt.setp(ax.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    ax.grid(False, axis="x")
    plots.legend_above(ax)
    return fig


def example_masks(examples: Sequence[Example]) -> Figure:
    """Draw Figure S.1: for each picture its object, and masks with their IoU."""
    columns = 1 + max(len(one.masks) for one in examples)
    width = plots.WIDTH["page"]
    size = (width, len(examples) * (width / columns + 0.2))
    fig, axes = plt.subplots(len(examples), columns, figsize=size, squeeze=False)
    for row, one in zip(axes, examples, strict=True):
        _outlined(row[0], one.picture, one.truth, one.category, "coco", dim=0.0)
        for ax, mask, name, iou in zip(row[1:], one.masks, one.names, one.ious, strict=False):
            _outlined(ax, one.picture, mask, f"{name}\n{iou:.2f}", "prompts", dim=0.45)
        for ax in row[1 + len(one.masks) :]:
            ax.set_visible(False)
    return fig


def _outlined(
    ax: Axes, picture: Image.Image, mask: np.ndarray, title: str, condition: str, dim: float
) -> None:
    plots.heatmap_overlay(ax, picture, mask, plots.palette(condition), dim=dim)
    ax.set_title(title, fontsize=6, pad=2)


def class_selectivity(
    matrix: ClassMatrix,
    units: Mapping[str, Sequence[Neuron]],
    pictures: Mapping[str, Sequence[Image.Image]],
    words: Mapping[Neuron, Sequence[str]],
) -> Figure:
    """Draw Figure S.2: the matrix of classes, and the first classes' pictures and units.

    ``units`` and ``pictures`` of each class, ``words`` that each unit writes.
    """
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(plots.WIDTH["page"], 3.5), width_ratios=[1.15, 1]
    )
    _matrix(left, matrix)
    left.set_title("(a) mean activation, relative to the row's largest")
    plots.bare(right)
    for i, name in enumerate(list(units)[:EXAMPLES]):
        lines = [
            f"{unit}: {', '.join(word.strip() for word in words[unit][:5])}"
            for unit in units[name][:UNITS]
        ]
        title = f"({'bc'[i]}) {name}: pictures and steadiest units"
        _class_panel(right, 1 - 0.53 * i, title, pictures[name][:PICTURES], lines)
    return fig


def _matrix(ax: Axes, matrix: ClassMatrix) -> None:
    """Shade the matrix, write its values, and frame each row's largest mean."""
    shades = LinearSegmentedColormap.from_list("shades", ["white", plots.palette(TOP)])
    ax.imshow(np.nan_to_num(matrix.relative), cmap=shades, vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(matrix.relative):
        text = f"{value:.2f}".removeprefix("0") if value > 0 else "<0"
        colour = "white" if value > 0.6 else plots.INK if value > 0 else FAINT
        ax.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    ticks = range(len(matrix.classes))
    ax.set(xlabel="pictures of", ylabel="units of", xticks=ticks, yticks=ticks)
    ax.set(xticklabels=matrix.classes, yticklabels=matrix.classes)
    ax.tick_params(length=0)
    plt.setp(ax.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    frame = {"ms": 17, "mfc": "none", "mec": plots.palette("prompts"), "mew": 1.1}
    ax.plot(matrix.mean.argmax(1), ticks, "s", **frame)
    ax.grid(False)


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
