"""One look for every figure.

Widths are in inches and fit a paper: ``WIDTH["column"]`` for one column,
``WIDTH["page"]`` for the full text. Each condition has one colour everywhere, from
Okabe and Ito's palette, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

WIDTH = {"column": 3.3, "page": 6.9}
MAP = "viridis"  # even steps of a map look even, in print and to colour-blind readers
COLOURS = {
    "multimodal": "#0072B2",
    "interpretable": "#009E73",
    "random": "#8C8C8C",
    "prompts": "#D55E00",
    "captions": "#CC79A7",
    "coco": "#E69F00",
}
INK = "#222222"
STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.bbox": None,  # a tight box would make the width depend on the labels
    "pdf.fonttype": 42,  # text stays text
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same pixels everywhere
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Give every figure from here on the house's look."""
    mpl.rcdefaults()  # what a user's matplotlibrc says must not reach the figures
    mpl.rcParams.update(STYLE)


def palette(condition: str) -> str:
    """Return the colour of a condition, the same in every figure."""
    if condition not in COLOURS:
        raise ValueError(f"no colour for {condition!r}; conditions are {', '.join(COLOURS)}")
    return COLOURS[condition]


def _unit_range(values: np.ndarray) -> np.ndarray:
    """Scale to 0..1; a constant map becomes all 0, and what is not finite becomes 0."""
    values = np.nan_to_num(np.asarray(values, dtype=float), nan=0.0, posinf=0.0, neginf=0.0)
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values)


def _resized(field: np.ndarray, size: tuple[int, int], smooth: bool) -> np.ndarray:
    """Resize a (h, w) field to (width, height) pixels; bilinear, or nearest for a mask."""
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(field.astype(np.float32)).resize(size, how))


def heatmap_overlay(
    ax: Axes,
    image: Image.Image | np.ndarray,
    map_or_mask: ArrayLike,
    colour: str = COLOURS["prompts"],
    dim: float = 0.45,
) -> None:
    """Show an image with an activation map or a mask (h, w) over it, stretched to its size.

    A map (float) colours the grey image from its lowest value to its highest, by ``MAP``; a mask
    (bool) leaves the image as it is inside, dims it outside by ``dim``, and is outlined in
    ``colour``.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    pixels = np.asarray(picture.convert("RGB"), dtype=float) / 255
    field = np.asarray(map_or_mask)
    if field.ndim != 2:
        raise ValueError(f"a map or mask must be (h, w); got shape {field.shape}")
    if field.dtype == bool:
        inside = _resized(field, picture.size, smooth=False) > 0.5
        ax.imshow(np.where(inside[..., None], pixels, pixels * (1 - dim)))
        if inside.any() and not inside.all():
            ax.contour(inside, levels=[0.5], colors=[colour], linewidths=1.0)
    else:
        ax.imshow(picture.convert("L"), cmap="gray", vmin=0, vmax=255)
        shade = _resized(_unit_range(field), picture.size, smooth=True)
        ax.imshow(shade, cmap=MAP, vmin=0, vmax=1, alpha=0.7)
    bare(ax)


def bare(ax: Axes) -> None:
    """Take ticks, frame and grid from the axes, as an image wants it."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def legend_above(ax: Axes) -> None:
    """Put the legend over the axes, to the right, where it hides nothing."""
    entries = len(ax.get_legend_handles_labels()[1])
    ax.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=entries,
        borderaxespad=0.2,
        columnspacing=1.2,
        handlelength=1.2,
    )


def image_grid(
    images: Sequence[Image.Image | np.ndarray],
    titles: Sequence[str] | None = None,
    columns: int = 6,
    width: float = WIDTH["page"],
    wrap: int = 24,
) -> tuple[Figure, np.ndarray]:
    """Show images in a grid; return the figure and its axes, flat, one per image."""
    if not len(images):
        raise ValueError("no images to show")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images; give one each")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    lines = max((len(textwrap.wrap(title, wrap)) for title in titles or ()), default=0)
    height = rows * (width / columns + 0.14 * lines) + 0.05
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    for ax in axes.flat:
        bare(ax)
    for i, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        ax.imshow(np.asarray(image), cmap="gray")
        if titles is not None:
            ax.set_title(textwrap.fill(titles[i], wrap), fontsize=6.5)
    return fig, axes.flat[: len(images)]


def interval_bar(
    ax: Axes,
    labels: Sequence[str],
    values: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """Draw grouped bars, one group a label and one bar a condition, with their intervals.

    ``values[condition][i]`` and ``intervals[condition][i] = (low, high)`` belong to
    ``labels[i]``; ``names`` says how the legend calls a condition.
    """
    places = np.arange(len(labels))
    width = 0.8 / len(values)
    for i, (condition, heights) in enumerate(values.items()):
        heights = np.asarray(heights, dtype=float)
        x = places + (i - (len(values) - 1) / 2) * width
        label = (names or {}).get(condition, condition)
        ax.bar(x, heights, width * 0.92, color=palette(condition), label=label)
        if intervals is not None:
            low, high = np.asarray(intervals[condition], dtype=float).T
            error = np.clip([heights - low, high - heights], 0, None)
            ax.errorbar(x, heights, error, fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.5)
    ax.set_xticks(places, labels)
    if len(values) > 1:
        legend_above(ax)


def layer_histogram(
    ax: Axes,
    counts: Mapping[str, Sequence[int]],
    names: Mapping[str, str] | None = None,
) -> None:
    """Draw how many units lie in each layer, one row of bars per condition.

    ``counts[condition][l]`` belongs to layer l, counted from 0. Conditions lie over one
    another, first at the back, so give the larger first.
    """
    lengths = {len(layers) for layers in counts.values()}
    if len(lengths) != 1:
        raise ValueError(f"conditions differ in their number of layers: {sorted(lengths)}")
    layers = np.arange(lengths.pop())
    for condition, heights in counts.items():
        label = (names or {}).get(condition, condition)
        ax.bar(layers, heights, 0.85, color=palette(condition), label=label)
    step = max(1, math.ceil(len(layers) / 14))
    ax.set(xticks=layers[::step], xlabel="layer", ylabel="unique units")
    if len(counts) > 1:
        legend_above(ax)


def line_with_interval(
    ax: Axes,
    x: ArrayLike,
    y: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    condition: str,
    name: str | None = None,
    **line: Any,
) -> None:
    """Draw a line in its condition's colour, with a band from ``low`` to ``high``."""
    colour = palette(condition)
    ax.plot(x, y, color=colour, marker="o", label=name or condition, **line)
    ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def text_table(
    ax: Axes,
    table: pd.DataFrame,
    widths: Sequence[float] | None = None,
    fontsize: float = 6.5,
) -> None:
    """Write a table of texts into the axes: a rule under the header, no boxes.

    ``widths`` are the columns' shares of the axes' width, equal by default.
    """
    columns = len(table.columns)
    shares = np.asarray(widths if widths is not None else [1] * columns, dtype=float)
    if len(shares) != columns:
        raise ValueError(f"{len(shares)} widths for {columns} columns")
    left = np.concatenate([[0], np.cumsum(shares / shares.sum())[:-1]])
    height = 1 / (len(table) + 1)
    bare(ax)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    for row, cells in enumerate([table.columns, *table.itertuples(index=False)]):
        y = 1 - (row + 0.5) * height
        weight = "bold" if row == 0 else "normal"
        for x, cell in zip(left, cells, strict=True):
            ax.text(
                x,
                y,
                str(cell),
                va="center",
                ha="left",
                fontsize=fontsize,
                weight=weight,
                parse_math=False,
            )
    ax.axhline(1 - height, color=INK, linewidth=0.6)
