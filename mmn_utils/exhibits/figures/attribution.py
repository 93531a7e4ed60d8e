"""Units with the highest attribution: what they write, where they look, in which layers they lie.

Paper A, Figures 1, 2 and S.4, and the photographs over Table S.1.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mmn_utils.exhibits import plots
from mmn_utils.neurons.decoding import SIGN
from mmn_utils.studies.agreement import writes_noun
from mmn_utils.studies.examples import Panel, Spoken

BAND = "#F0E442"  # the depths where the paper finds most units


def one_unit(
    picture: Image.Image,
    activation: np.ndarray,
    region: np.ndarray,
    spoken: Spoken,
    quantile: float,
) -> Figure:
    """Show a photograph, a unit's activation (H, W) on it, where it is high, and its words.

    ``region`` bool (H, W) is what lies above the ``quantile``. The words' logits are drawn over
    the span that nearly all tokens have; the noun is in bold.
    """
    size = (plots.WIDTH["page"], 1.95)
    fig, axes = plt.subplots(1, 4, figsize=size, width_ratios=[1, 1, 1, 1.05])
    axes[0].imshow(picture)
    plots.bare(axes[0])
    plots.heatmap_overlay(axes[1], picture, activation)
    plots.heatmap_overlay(axes[2], picture, region)
    _word_bars(axes[3], spoken)
    titles = ["picture", "activation", f"above the {quantile} quantile", f"{spoken.unit} writes"]
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
    return fig


def _word_bars(ax: Axes, spoken: Spoken) -> None:
    words = spoken.words
    place = np.arange(len(words))[::-1]
    ax.barh(place, words["logit"], color=plots.palette("multimodal"), height=0.7)
    ax.axvspan(*spoken.span, color=plots.palette("random"), alpha=0.3, lw=0, zorder=0)
    ax.set_yticks(place, words["text"].str.strip(), fontsize=7, parse_math=False)
    for label, is_noun in zip(ax.get_yticklabels(), words["is_noun"], strict=True):
        label.set_fontweight("bold" if is_noun else "normal")
    ax.set_xlabel("logit (grey: 99 % of tokens)")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def best_units(panels: Sequence[Panel]) -> Figure:
    """Show photographs with the region of their best units; below each, two words of every unit.

    With the sign of its activation. Units that write the photograph's noun are in bold, with that
    word as one of the two.
    """
    width = plots.WIDTH["page"] / len(panels)
    size, heights = (plots.WIDTH["page"], width + 2.2), [width, 1.45]
    fig, axes = plt.subplots(2, len(panels), figsize=size, height_ratios=heights, squeeze=False)
    for panel, shown, below in zip(panels, *axes, strict=True):
        plots.heatmap_overlay(shown, panel.picture, panel.region)
        shown.set_title(panel.title)
        said = textwrap.fill(panel.caption, 24, max_lines=3)
        said += "\n" * (2 - said.count("\n"))  # three lines each, so that all lists begin alike
        shown.set_xlabel(said, fontsize=6, parse_math=False)
        _two_words_each(below, panel.units)
    return fig


def _two_words_each(ax: Axes, units: pd.DataFrame) -> None:
    plots.bare(ax)
    for line, row in enumerate(units.itertuples()):
        look = {"fontsize": 6.5, "va": "top", "parse_math": False}
        if row.writes_noun:
            look |= {"weight": "bold", "color": plots.palette("multimodal")}
        ax.text(0, 1 - 0.2 * line, f"{row.neuron} {SIGN[row.sign]}", **look)
        ax.text(0.06, 0.91 - 0.2 * line, _two_words(row.tokens, row.target), **look)


def _two_words(tokens: Sequence[str], noun: str) -> str:
    """Name the two loudest tokens or, where it comes later, the first one and the noun."""
    first, second, *later = [token.strip() or "(blank)" for token in tokens]
    named = [token for token in later if writes_noun([token], noun)]
    if named and not writes_noun([first, second], noun):
        return f"{first} … {named[0]}"
    return f"{first}, {second}"


def pair_regions(panels: Sequence[Panel]) -> Figure:
    """Show photographs in a row, each with a region and a title of two lines."""
    size = (plots.WIDTH["page"], 1.5)
    fig, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for panel, ax in zip(panels, axes[0], strict=True):
        plots.heatmap_overlay(ax, panel.picture, panel.region)
        ax.set_title(panel.title, fontsize=7)
    return fig


def layers(counts: pd.DataFrame, k: int, band: tuple[float, float]) -> Figure:
    """Draw how many different units, and how many entries of top ``k`` lists, each layer has.

    ``counts`` as from ``translation.layer_counts``; ``band`` the depths, from 0 to 1, that are
    shaded, their bounds drawn over the bars. A dotted line is what each layer had if all but the
    last, which cannot have any, had as many.
    """
    names = {"multimodal": f"top {k}", "interpretable": "interpretable"}
    low, high = (depth * len(counts) - 0.5 for depth in band)
    fig, axes = plt.subplots(1, 2, figsize=(plots.WIDTH["page"], 2.5))
    for ax, what in zip(axes, ("different units", "entries in top lists"), strict=True):
        plots.layer_histogram(ax, {kind: counts[f"{what}, {kind}"] for kind in names}, names)
        ax.axvspan(low, high, label="paper: most", color=BAND, alpha=0.35, lw=0, zorder=0)
        for bound in (low, high):
            ax.axvline(bound, color=plots.INK, lw=1, ls="--")
        even = counts[f"{what}, multimodal"].sum() / (len(counts) - 1)
        ax.axhline(even, color=plots.INK, lw=1, ls=":", label="evenly spread")
        ax.set(ylabel=what, xlim=(-0.6, len(counts) - 0.4))
        ax.margins(y=0.1)
    handles = axes[0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=4)
    for ax in axes:
        ax.get_legend().remove()
    return fig
