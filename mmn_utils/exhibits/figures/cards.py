"""A neuron's card on paper: where it looks, what it writes, how active it is, what drives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from mmn_utils.exhibits import plots

WORDS, PICTURES = 5, 3  # of each end, and of those that drive it most
WIDTHS = (1.05, 1.0, 1.0, 2.25)  # of the four parts


@dataclass(frozen=True, eq=False)
class Portrait:
    """What is drawn of a neuron.

    ``field`` (rows, columns) its activation at the patches of ``picture``, or None where image
    tokens have no place, and why in ``no_grid``; ``writes`` and ``suppresses`` its tokens with
    logits above a uniform one; ``histogram`` counts between ``edges``, the outer bins open;
    ``strongest`` the pictures that drive it: id, picture, the value there, and where, (x, y) as
    shares of the picture, or None.
    """

    title: str
    picture: Image.Image
    field: np.ndarray | None
    no_grid: str
    writes: Sequence[tuple[str, float]]
    suppresses: Sequence[tuple[str, float]]
    histogram: Sequence[int]
    edges: Sequence[float]
    strongest: Sequence[tuple[str, Image.Image, float, tuple[float, float] | None]]

    def numbers(self) -> pd.DataFrame:
        """List what is drawn, a row each: title, what, name, value."""
        bins = [f"from {low:g}" for low in (-np.inf, *self.edges)]
        field = [] if self.field is None else self.field.ravel()
        parts = {
            "field": [(f"patch {i}", float(value)) for i, value in enumerate(field)],
            "writes": list(self.writes)[:WORDS],
            "suppresses": list(self.suppresses)[:WORDS],
            "histogram": list(zip(bins, self.histogram, strict=True)),
            "strongest": [(image, value) for image, _, value, _ in self.strongest[:PICTURES]],
        }
        rows = [(self.title, what, *one) for what, some in parts.items() for one in some]
        return pd.DataFrame(rows, columns=["neuron", "what", "name", "value"])


def numbers(portraits: Sequence[Portrait]) -> pd.DataFrame:
    """List what the cards of some neurons show."""
    return pd.concat([one.numbers() for one in portraits], ignore_index=True)


def neuron_cards(portraits: Sequence[Portrait]) -> Figure:
    """Draw the cards of some neurons below each other."""
    fig = plt.figure(figsize=(plots.WIDTH["page"], 1.95 * len(portraits)))
    for panel, one in zip(
        fig.subfigures(len(portraits), 1, squeeze=False)[:, 0], portraits, strict=True
    ):
        _card(panel, one)
    return fig


def _card(panel: SubFigure, one: Portrait) -> None:
    panel.suptitle(one.title, fontsize=8, x=0.01, ha="left", weight="bold", parse_math=False)
    looks, words, levels, driven = panel.subplots(1, 4, width_ratios=WIDTHS)
    _heat(looks, one)
    _both_ends(words, one)
    _levels(levels, one)
    plots.bare(driven)
    driven.set_title("pictures that drive it most", fontsize=7)
    for place, (_, picture, value, point) in enumerate(one.strongest[:PICTURES]):
        ax = driven.inset_axes([place / PICTURES, 0.05, 0.94 / PICTURES, 0.9])
        ax.imshow(picture)
        plots.bare(ax)
        ax.set_xlabel(f"{value:+.2f}", fontsize=6.5)
        if point is not None:
            spot = (point[0] * picture.width, point[1] * picture.height)
            look = {"mfc": "none", "mec": plots.palette("prompts"), "mew": 1.2}
            ax.plot(*spot, "o", ms=9, **look)


def _heat(ax: Axes, one: Portrait) -> None:
    if one.field is None:
        ax.imshow(one.picture)
        plots.bare(ax)
        ax.set_xlabel("no grid, no heat map", fontsize=6.5)
    else:
        plots.heatmap_overlay(ax, one.picture, one.field)
        ax.set_xlabel(f"{one.field.min():+.2f} to {one.field.max():+.2f}", fontsize=6.5)
    ax.set_title("activation", fontsize=7)


def _both_ends(ax: Axes, one: Portrait) -> None:
    """Draw what it writes as bars to the right, what it suppresses as bars to the left."""
    ends = (("multimodal", one.writes[:WORDS], 1), ("prompts", one.suppresses[:WORDS], -1))
    row, rows = 0, sum(len(tokens) for _, tokens, _ in ends)
    for colour, tokens, sign in ends:
        for text, logit in tokens:
            ax.barh(rows - row, sign * logit, color=plots.palette(colour), height=0.7)
            side = {"ha": "right" if sign > 0 else "left", "va": "center"}
            label = f" {text.strip() or '(blank)'} "
            ax.text(0, rows - row, label, fontsize=6, parse_math=False, **side)
            row += 1
    reach = max((abs(logit) for _, tokens, _ in ends for _, logit in tokens), default=1.0)
    ax.set(xlim=(-1.15 * reach, 1.15 * reach), yticks=[])
    ax.axvline(0, color=plots.INK, lw=0.6)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="x", labelsize=6)
    ax.set_title("suppresses | writes (logit)", fontsize=7)


def _levels(ax: Axes, one: Portrait) -> None:
    """Draw how often it is how active; bins double in width away from 0."""
    counts = np.asarray(one.histogram, float)
    share = counts / max(counts.sum(), 1)
    below = list(one.edges).index(0.0) + 1
    colours = [plots.palette("prompts")] * below
    colours += [plots.palette("multimodal")] * (len(share) - below)
    ax.bar(np.arange(len(share)), share, 0.9, color=colours)
    shown = [i for i, edge in enumerate(one.edges) if abs(edge) in (0.0, 0.125, 1.0)]
    names = [f"{one.edges[i]:g}".replace("0.", ".") for i in shown]
    ax.set_xticks([i + 0.5 for i in shown], names, fontsize=6)
    ax.tick_params(axis="y", labelsize=6)
    ax.set_title("share of image tokens", fontsize=7)
    ax.set_xlabel("activation", fontsize=6.5)
