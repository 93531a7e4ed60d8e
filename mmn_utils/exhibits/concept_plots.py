"""Plots of paper B's exhibits: methods side by side, neurons' maps, scores of concepts.

The look is that of ``plots``; each method has one colour and one name everywhere.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mmn_utils.exhibits import plots
from mmn_utils.measures.estimates import Estimate
from mmn_utils.studies.specificity import HeatMap

# Each method with its condition of the house's palette and its name in legends and tables.
CONDITIONS = {"activation": "random", "attribution": "prompts", "contribution": "multimodal"}
NAMES = {
    "activation": "activation (Base)",
    "attribution": "attribution (Mmns)",
    "contribution": "contribution (Ours)",
}
PAPER_NAMES = {"activation": "Base", "attribution": "Mmns", "contribution": "Ours"}


def colour(method: str) -> str:
    """Return a method's colour; ValueError for another name."""
    if method not in CONDITIONS:
        raise ValueError(f"no colour for {method!r}; methods are {', '.join(CONDITIONS)}")
    return plots.palette(CONDITIONS[method])


def layer_lines(ax: Axes, counts: pd.DataFrame, column: str, by: str) -> None:
    """Draw how many neurons lie in each layer, one line for each method or each k.

    ``counts`` as from ``concepts.layer_counts``; ``column`` neurons or entries. Lines are
    shares of their own sum, so that lists of any length can be compared.
    """
    groups = list(counts.groupby(by, sort=False))
    fades = np.linspace(0.35, 1, len(groups))
    for fade, (value, part) in zip(fades, groups, strict=True):
        drawn = colour(value) if by == "method" else colour(part["method"].iloc[0])
        name = NAMES[value] if by == "method" else f"top {value}"
        share = part[column] / part[column].sum()
        alpha = 1 if by == "method" else fade
        ax.plot(part["layer"], share, marker="o", color=drawn, alpha=alpha, label=name)
    layers = counts["layer"].max() + 1
    step = max(1, -(-layers // 14))
    ax.set(xticks=range(0, layers, step), xlabel="layer", ylabel=f"share of {column}")
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # room for the legend above the lines
    ax.legend(loc="upper left")


def method_bars(
    ax: Axes, labels: Sequence[str], found: Mapping[str, Sequence[Estimate]], ylabel: str
) -> None:
    """Draw bars with intervals, a group for each label and a bar for each method."""
    plots.interval_bar(
        ax,
        labels,
        {CONDITIONS[method]: [e.value for e in row] for method, row in found.items()},
        {CONDITIONS[method]: [e.ci for e in row] for method, row in found.items()},
        {CONDITIONS[method]: NAMES[method] for method in found},
    )
    ax.set_ylabel(ylabel)


def shared_lines(
    ax: Axes, curves: Mapping[tuple[str, bool], pd.DataFrame], chance: pd.Series
) -> None:
    """Draw what N images have in common, against N: whole lines one concept, dashed others.

    ``curves[method, same]`` has the columns n, mean, low, high; ``chance`` is indexed by N.
    """
    for (method, same), some in curves.items():
        kind = "same concept" if same else "unrelated"
        line = {"linestyle": "-" if same else "--", "marker": "o" if same else "x"}
        ax.plot(some["n"], some["mean"], color=colour(method), label=f"{method}, {kind}", **line)
        if same:
            ax.fill_between(
                some["n"], some["low"], some["high"], color=colour(method), alpha=0.18, linewidth=0
            )
    ax.plot(chance.index, chance, color=plots.INK, linestyle=":", linewidth=0.9, label="by chance")
    ax.set(xticks=list(chance.index), xlabel="images N", ylim=(0, 1.02))


def focus_panels(
    rows: Sequence[tuple[Image.Image, str, np.ndarray, np.ndarray]], ks: Sequence[int]
) -> Figure:
    """Show each concept's picture with the maps and masks of its top-k neurons.

    A row: picture, concept, maps (ks, H, W) of the mean activation, masks (ks, H, W) bool.
    """
    columns = 1 + 2 * len(ks)
    side = plots.WIDTH["page"] / columns
    size = (plots.WIDTH["page"], len(rows) * (side + 0.02) + 0.24)
    fig, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for line, (picture, concept, maps, masks) in zip(axes, rows, strict=True):
        line[0].imshow(picture)
        plots.bare(line[0])
        line[0].set_ylabel(concept, fontsize=7.5)
        for i in range(len(ks)):
            plots.heatmap_overlay(line[1 + 2 * i], picture, maps[i])
            plots.heatmap_overlay(line[2 + 2 * i], picture, masks[i])
    axes[0, 0].set_title("photograph", fontsize=7)
    for i, k in enumerate(ks):
        axes[0, 1 + 2 * i].set_title(f"top {k}", fontsize=7)
        axes[0, 2 + 2 * i].set_title("mask", fontsize=7)
    return fig


def note(text: str) -> Figure:
    """Say in a figure why there is nothing to show."""
    fig, ax = plt.subplots(figsize=(plots.WIDTH["page"], 1.1))
    plots.bare(ax)
    ax.text(0.5, 0.5, textwrap.fill(text, 95), ha="center", va="center", transform=ax.transAxes)
    return fig


def score_matrix(ax: Axes, heat: HeatMap, by: str = "all") -> None:
    """Draw one image's scores: rows are concepts' top neurons, columns concepts; dark is high.

    ``by`` as ``HeatMap.normalised``; the cells hold the scores as they are.
    """
    size = len(heat.concepts)
    shown = heat.normalised(by)
    ax.imshow(shown, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for i in range(size):
        for j in range(size):
            ink = "white" if shown[i, j] > 0.6 else plots.INK
            text = f"{round(float(heat.scores[i, j]), 2) + 0.0:.2f}"  # never -0.00
            ax.text(j, i, text, ha="center", va="center", fontsize=6.5, color=ink)
    turned = {"rotation": 30, "ha": "right"} if size > 3 else {}
    ax.set_xticks(range(size), heat.concepts, parse_math=False, **turned)
    rows = [f"{c}\n{n}" for c, n in zip(heat.concepts, heat.neurons, strict=True)]
    ax.set_yticks(range(size), rows, fontsize=6.5, parse_math=False)
    ax.grid(False)
    ax.tick_params(length=0)
