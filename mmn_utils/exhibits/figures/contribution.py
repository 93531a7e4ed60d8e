"""Neurons by their contribution to a word, beside two other methods: paper B, Figures 2 to 5.

And Table 1, which is made of pictures. Each method has one colour and one name everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill, shorten

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from mmn_utils.exhibits import plots
from mmn_utils.studies.concepts.sharing import Sharing
from mmn_utils.studies.concepts.specificity import HeatMap
from mmn_utils.studies.concepts.tables import NAMES
from mmn_utils.studies.concepts.views import View

CONDITIONS = {
    "activation": "random",
    "attribution": "prompts",
    "contribution": "multimodal",
    "contribution_gate": "interpretable",
}
KINDS = {"same": "same concept", "different": "unrelated"}
SHORT = {name: name.replace("_gate", " (gate)") for name in CONDITIONS}
MASK, TRUTH = "#FFFFFF", "#FFD400"  # outlines, each on a dark one of its own


def colour(method: str) -> str:
    """Return a method's colour; ValueError for another name."""
    if method not in CONDITIONS:
        raise ValueError(f"no colour for {method!r}; methods are {', '.join(CONDITIONS)}")
    return plots.palette(CONDITIONS[method])


# --- Figure 2 --------------------------------------------------------------------------


def layers(counts: pd.DataFrame, k: int) -> Figure:
    """Draw Figure 2: the layers of contribution's neurons for every k, and of all methods' top k.

    ``counts`` as from ``layers.layer_counts``. Lines are shares of their own sum, so that
    lists of any length can be compared.
    """
    fig = Figure(figsize=(plots.WIDTH["page"], 2.5))
    left, right = fig.subplots(1, 2)
    ours = counts[counts["method"] == "contribution"]
    sizes = list(ours.groupby("k", sort=False))
    for (size, part), alpha in zip(sizes, np.linspace(0.35, 1, len(sizes)), strict=True):
        _layer_line(left, part, "neurons", "contribution", f"top {size}", alpha)
    for method, part in counts[counts["k"] == k].groupby("method", sort=False):
        _layer_line(right, part, "entries", method, NAMES[method])
    for ax in (left, right):
        _layer_axis(ax, int(counts["layer"].max()) + 1)
    left.set(title="contribution: different neurons", ylabel="share of different neurons")
    right.set(title=f"top {k} by three methods", ylabel="share of entries")
    return fig


def _layer_line(
    ax: Axes, part: pd.DataFrame, column: str, method: str, label: str, alpha: float = 1
) -> None:
    share = part[column] / part[column].sum()
    ax.plot(part["layer"], share, marker="o", color=colour(method), alpha=alpha, label=label)


def _layer_axis(ax: Axes, layers: int) -> None:
    ax.set(xticks=range(0, layers, max(1, -(-layers // 14))), xlabel="layer")
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # room for the legend above the lines
    ax.legend(loc="upper left")


# --- Table 1 ---------------------------------------------------------------------------


def heat_maps(views: Sequence[View], ks: Sequence[int], no_grid: str | None = None) -> Figure:
    """Show each concept's picture with the maps and masks of its top-k neurons, as Table 1 does.

    Every map goes from its lowest value to its highest. Outlined are the mask, and with dashes
    the annotated objects that the concept names. Where there are no maps, the figure says why:
    ``no_grid``.
    """
    if no_grid is not None:
        return _note(f"No heat maps: {no_grid}.")
    columns = 1 + 2 * len(ks)
    side = plots.WIDTH["page"] / columns
    fig = Figure(figsize=(plots.WIDTH["page"], len(views) * (side + 0.02) + 0.62))
    axes = fig.subplots(len(views), columns, squeeze=False)
    for line, view in zip(axes, views, strict=True):
        line[0].imshow(view.picture)
        line[0].set_ylabel(view.concept, fontsize=7.5, parse_math=False)
        for place, field in enumerate(zip(view.maps, view.masks, strict=True)):
            plots.heatmap_overlay(line[1 + 2 * place], view.picture, field[0])
            _mask(line[2 + 2 * place], view, field[1])
        for ax in line:
            plots.bare(ax)
            _outline(ax, view.truth, TRUTH, "dashed")
    titles = ["picture", *(title for k in ks for title in (f"top {k}", "mask"))]
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=7)
    _map_key(fig, axes)
    return fig


def _mask(ax: Axes, view: View, inside: np.ndarray) -> None:
    """Dim the picture outside of a mask, and outline the mask."""
    pixels = np.asarray(view.picture.convert("RGB").resize(inside.shape[::-1]), dtype=float) / 255
    extent = (-0.5, view.picture.width - 0.5, view.picture.height - 0.5, -0.5)
    ax.imshow(np.where(inside[..., None], pixels, 0.45 * pixels), extent=extent)
    _outline(ax, inside, MASK, "solid", view)


def _outline(
    ax: Axes, inside: np.ndarray | None, colour: str, style: str, view: View | None = None
) -> None:
    """Draw the outline of a mask in a light colour on a dark one, to be seen on any picture."""
    if inside is None or not inside.any() or inside.all():
        return
    lines = ax.contour(
        inside, levels=[0.5], colors=[colour], linewidths=0.9, linestyles=style,
        extent=(*ax.get_xlim(), *ax.get_ylim()[::-1]),
    )  # fmt: skip
    lines.set_path_effects([withStroke(linewidth=2.2, foreground=plots.INK)])


def _map_key(fig: Figure, axes: np.ndarray) -> None:
    """Explain colours and outlines below the maps."""
    bar = fig.colorbar(
        ScalarMappable(Normalize(0, 1), plots.MAP), ax=axes, location="bottom", shrink=0.3,
        aspect=30, pad=0.01, ticks=[0, 1], anchor=(0, 1),
    )  # fmt: skip
    low, high = bar.ax.set_xticklabels(["lowest", "highest of each map"], fontsize=7)
    low.set_horizontalalignment("left")
    high.set_horizontalalignment("right")
    bar.outline.set_visible(False)


def _note(text: str) -> Figure:
    """Say in a figure why there is nothing to show."""
    fig = Figure(figsize=(plots.WIDTH["page"], 1.1))
    ax = fig.subplots()
    plots.bare(ax)
    ax.text(0.5, 0.5, fill(text, 95), ha="center", va="center", transform=ax.transAxes)
    return fig


# --- Figure 3 --------------------------------------------------------------------------


def shuffled(stays: pd.DataFrame, examples: pd.DataFrame) -> Figure:
    """Draw Figure 3: the share of neurons that a shuffle leaves, beside captions and neurons.

    ``stays``: method, k, ratio, low, high, chance; ``examples`` as from
    ``concept_tables.shuffled_exhibit``, a table of texts.
    """
    fig = Figure(figsize=(plots.WIDTH["page"], 2.7))
    left, right = fig.subfigures(1, 2, width_ratios=[1, 1.5])
    ax = left.subplots()
    parts = {CONDITIONS[method]: part for method, part in stays.groupby("method", sort=False)}
    plots.interval_bar(
        ax,
        [f"k = {k}" for k in dict.fromkeys(stays["k"])],
        {name: part["ratio"].tolist() for name, part in parts.items()},
        {name: list(zip(part["low"], part["high"], strict=True)) for name, part in parts.items()},
        {CONDITIONS[method]: NAMES[method] for method in CONDITIONS},
    )
    for place, luck in enumerate(stays.drop_duplicates("k")["chance"]):
        ax.hlines(luck, place - 0.42, place + 0.42, color=plots.INK, linestyle=":", linewidth=1)
    ax.set(ylabel="neurons that stay, $r_k$", ylim=(0, 1.02))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=1, fontsize=7)
    texts = examples.map(lambda cell: fill(shorten(str(cell), 62, placeholder=" …"), 31))
    plots.text_table(right.subplots(), texts, widths=[0.55, 1.3, 1.3], fontsize=6)
    return fig


# --- Figure 4 --------------------------------------------------------------------------


def shared(found: Sharing, curves: pd.DataFrame, chance: pd.DataFrame) -> Figure:
    """Draw Figure 4: what images of some concepts share, and the mean against N for every k.

    ``curves`` as from ``Sharing.curves``; ``chance`` as from ``sharing.by_chance``, its columns
    are the k of the lower row.
    """
    fig = Figure(figsize=(plots.WIDTH["page"], 4.5))
    upper, lower = fig.subfigures(2, 1, height_ratios=[1, 1.25])
    _shared_bars(upper.subplots(), found)
    axes = lower.subplots(1, len(chance.columns), sharey=True, squeeze=False)[0]
    for ax, size in zip(axes, chance.columns, strict=True):
        _shared_lines(ax, curves[curves["k"] == size], chance[size])
        ax.set(title=f"k = {size}")
    axes[0].set_ylabel("share of the top k")
    handles, labels = axes[0].get_legend_handles_labels()
    lower.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7)
    return fig


def _shared_bars(ax: Axes, found: Sharing) -> None:
    """Draw some concepts' shares with the spread of the choices of images."""
    concepts = found.shown()
    ends = {m: (concepts[f"{m}_low"], concepts[f"{m}_high"]) for m in found.methods}
    plots.interval_bar(
        ax,
        [f"{c}\n({n})" for c, n in zip(concepts.index, concepts["images"], strict=True)],
        {CONDITIONS[m]: concepts[m].tolist() for m in found.methods},
        {CONDITIONS[m]: list(zip(*ends[m], strict=True)) for m in found.methods},
        {CONDITIONS[m]: NAMES[m] for m in found.methods},
    )
    border = int(concepts["object"].sum())
    if 0 < border < len(concepts):
        ax.axvline(border - 0.5, color=plots.INK, linewidth=0.6, linestyle=":")
    ax.set(ylabel=f"shared by {found.n} images", title=f"k = {found.k}")
    ax.set_ylim(0, 1.02)
    for label in ax.get_xticklabels():
        label.set_parse_math(False)


def _shared_lines(ax: Axes, curves: pd.DataFrame, chance: pd.Series) -> None:
    """Draw what N images have in common, against N: whole lines one concept, dashed others."""
    for (method, kind), some in curves.groupby(["method", "concept"], sort=False):
        same = kind == "same"
        line = {"linestyle": "-" if same else "--", "marker": "o" if same else "x"}
        label = f"{SHORT[method]}, {KINDS[kind]}"
        ax.plot(some["n"], some["mean"], color=colour(method), label=label, **line)
        band = {"color": colour(method), "alpha": 0.18, "linewidth": 0}
        ax.fill_between(some["n"], some["low"], some["high"], **band)
    ax.plot(chance.index, chance, color=plots.INK, linestyle=":", linewidth=0.9, label="by chance")
    ax.set(xticks=list(chance.index), xlabel="images N", ylim=(0, 1.02))


# --- Figure 5 --------------------------------------------------------------------------


def own_concept(
    heats: Mapping[str, Sequence[HeatMap]], images: Sequence[str], captions: Mapping[str, str]
) -> Figure:
    """Draw Figure 5: the scores of concepts' top neurons (rows) for all concepts of a caption.

    A row of ``images`` for each reading of the activation. Dark is high, in each picture from its
    lowest score to its highest; the cells hold the scores as they are. ``captions`` by image.
    """
    fig = Figure(figsize=(plots.WIDTH["page"], 2.55 * len(heats)))
    axes = fig.subplots(len(heats), len(images), squeeze=False)
    for line, (reading, some) in zip(axes, heats.items(), strict=True):
        by_image = {heat.image: heat for heat in some}
        for ax, image in zip(line, images, strict=True):
            _score_matrix(ax, by_image[image])
        line[0].set_ylabel("concept and its top neuron" + f"\n({reading})" * (len(heats) > 1))
    for ax, image in zip(axes[0], images, strict=True):
        caption = shorten(captions[image], 66, placeholder=" …")
        ax.set_title(fill(caption, 34), fontsize=6.5, parse_math=False)
    return fig


def _score_matrix(ax: Axes, heat: HeatMap) -> None:
    size, shade = len(heat.concepts), heat.normalised("all")
    ax.imshow(shade, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for (i, j), score in np.ndenumerate(heat.scores):
        ink = "white" if shade[i, j] > 0.6 else plots.INK
        text = f"{round(float(score), 2) + 0.0:.2f}"  # never -0.00
        ax.text(j, i, text, ha="center", va="center", fontsize=6.5, color=ink)
    turned = {"rotation": 30, "ha": "right"} if size > 3 else {}
    ax.set_xticks(range(size), heat.concepts, parse_math=False, **turned)
    rows = [f"{c}\n{n}" for c, n in zip(heat.concepts, heat.neurons, strict=True)]
    ax.set_yticks(range(size), rows, fontsize=6.5, parse_math=False)
    ax.grid(False)
    ax.tick_params(length=0)
