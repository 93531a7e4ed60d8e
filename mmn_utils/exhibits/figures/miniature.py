"""Figures of the miniature: its scenes, its training, its captions, and its layers."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mmn_utils.datasets.base import Photograph
from mmn_utils.exhibits.plots import INK, WIDTH, bare, palette

QUIET = "#888888"  # of words that name and do not tell
SMALL = 6  # points
THINGS = ("prompts", "multimodal", "coco")  # colours of a scene's first, second, third thing
LINES = ("multimodal", "prompts", "interpretable")  # colours of a panel's lines, in their order
FEW = 20  # points of a curve that are marked one by one
SHARE = "named rightly"  # what is measured from 0 to 1


# --- scenes -----------------------------------------------------------------------------


def scenes(shown: Sequence[Photograph], strange: Sequence[Photograph]) -> Figure:
    """Draw scenes with a caption over them, their masks, and as many others with what is there.

    ValueError for a scene with more things than ``THINGS`` has colours.
    """
    fig, axes = plt.subplots(3, len(shown), figsize=(WIDTH["page"], 3.75), squeeze=False)
    for (top, middle, bottom), scene, other in zip(axes.T, shown, strange, strict=True):
        _picture(top, scene.open())
        _picture(middle, _tinted(scene))
        _picture(bottom, other.open())
        bottom.set_xlabel(textwrap.fill(f"({_things(other)})", 22), fontsize=SMALL)
        for thing in scene.instances:
            y, x = np.argwhere(thing.mask).mean(axis=0)
            _middle_of(middle, x, y, thing.category)
        _over(top, scene.captions[0], 21)
    _name_rows(axes, ("held-out scene", "its masks", "looks never seen"))
    return fig


def _tinted(scene: Photograph) -> np.ndarray:
    """Return a scene in pale grey, (h, w, 3) in 0..1, with each thing in a colour of its own."""
    if len(scene.instances) > len(THINGS):
        raise ValueError(
            f"scene {scene.id} has {len(scene.instances)} things; there are {len(THINGS)} colours"
        )
    grey = np.asarray(scene.open().convert("L"), dtype=float)[..., None].repeat(3, axis=2)
    pixels = grey / 400 + 0.36
    for thing, colour in zip(scene.instances, THINGS, strict=False):
        tint = np.array(to_rgb(palette(colour)))
        pixels[thing.mask] = 0.35 * pixels[thing.mask] + 0.65 * tint
    return pixels.clip(0, 1)


def captions(drawn: pd.DataFrame, by_id: Callable[[str], Photograph], columns: int = 6) -> Figure:
    """Draw scenes with their captions over them and what is there beneath.

    ``drawn`` has image, caption and right: the upper row shows captions that are right, the
    lower one those that are not, ``columns`` at most. ``by_id`` finds the scene of an image.
    """
    groups = [drawn[drawn["right"] == truth] for truth in (True, False)]
    fig, axes = plt.subplots(2, columns, figsize=(WIDTH["page"], 3.3), squeeze=False)
    for row, group, colour in zip(axes, groups, (INK, palette("prompts")), strict=True):
        for ax in row:
            bare(ax)
        for ax, (image, caption) in zip(row, group[["image", "caption"]].to_numpy(), strict=False):
            scene = by_id(image)
            ax.imshow(scene.open())
            _over(ax, caption or "(nothing)", 20, max_lines=4, color=colour)
            ax.set_xlabel(textwrap.fill(f"({_things(scene)})", 22), fontsize=SMALL)
    _name_rows(axes, ("first noun is there", "first noun is not"))
    return fig


def systems(scenes: Sequence[Photograph], said: pd.DataFrame) -> Figure:
    """Draw scenes over what each system says of them, in colour where the first noun is not there.

    ``said`` has image, system, caption and right; systems stand in the order of its rows.
    """
    size, widths = (WIDTH["page"], 3.2), [0.55, *[1] * len(scenes)]
    grid = {"height_ratios": [1, 1.5], "width_ratios": widths}
    fig, axes = plt.subplots(2, len(widths), figsize=size, squeeze=False, **grid)
    names = list(said["system"].unique())
    for ax in (*axes[1], axes[0, 0]):
        ax.set_axis_off()
    _lines(axes[1, 0], names, [QUIET] * len(names))
    for top, bottom, scene in zip(*axes[:, 1:], scenes, strict=True):
        _picture(top, scene.open())
        _over(top, _things(scene), 20)
        rows = said[said["image"] == scene.id].set_index("system").loc[names]
        texts = [textwrap.fill(text or "(nothing)", 21, max_lines=3) for text in rows["caption"]]
        _lines(bottom, texts, [INK if right else palette("prompts") for right in rows["right"]])
    return fig


def _lines(ax: Axes, texts: Sequence[str], colours: Sequence[str]) -> None:
    """Write texts in small print beneath each other, at places that do not depend on them."""
    for place, (text, colour) in enumerate(zip(texts, colours, strict=True)):
        y = 1 - place / max(4, len(texts))
        ax.text(0, y, text, fontsize=SMALL, va="top", color=colour)


def _picture(ax: Axes, image) -> None:
    ax.imshow(image)
    bare(ax)


def _over(ax: Axes, text: str, width: int, color: str = INK, **wrap) -> None:
    """Write small lines of print over a picture."""
    ax.set_title(textwrap.fill(text, width, **wrap), fontsize=SMALL, loc="center", color=color)


def _middle_of(ax: Axes, x: float, y: float, word: str) -> None:
    style = {"ha": "center", "va": "center", "color": "white", "weight": "bold"}
    ax.text(x, y, word, fontsize=SMALL, **style)


def _things(scene: Photograph) -> str:
    return ", ".join(thing.category for thing in scene.instances)


def _name_rows(axes: np.ndarray, names: Sequence[str]) -> None:
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name, fontsize=7)


# --- training ---------------------------------------------------------------------------


def training(points: pd.DataFrame, chance: float) -> Figure:
    """Draw the training of a system's parts, one panel a part, its lines from zero.

    ``points`` has panel, line, unit (of what was seen), measure, items (seen) and value; a line
    without points is said not to be stored. ``chance`` is drawn where a ``SHARE`` is measured.
    Panels of one unit have one axis of it.
    """
    fig, axes = _panels(points["panel"].nunique(), columns=2, height=2.0)
    for ax, (title, lines) in zip(axes.flat, points.groupby("panel", sort=False), strict=False):
        _part(ax, title, lines, widest=points[points["unit"].isin(lines["unit"])]["items"].max())
        shares = lines["measure"].iloc[0] == SHARE and lines["items"].notna().any()
        if shares:
            ax.axhline(chance, color=palette("random"), linestyle=":", label="chance")
            ax.set_ylim(0, 1)
        if shares or lines["line"].any():
            ax.legend(loc="best")
    return fig


def systems_training(points: pd.DataFrame) -> Figure:
    """Draw the losses of several systems' trainings; ``points`` as for ``training``."""
    fig, axes = _panels(points["panel"].nunique(), columns=4, height=1.65)
    for ax, (title, lines) in zip(axes.flat, points.groupby("panel", sort=False), strict=False):
        _part(ax, title, lines, widest=lines["items"].max(), room=1.3, size=7)
    return fig


def _part(
    ax: Axes, title: str, lines: pd.DataFrame, widest: float, room: float = 1.15, size: float = 8
) -> None:
    """Draw the lines of a panel on axes from zero, ``room`` times as wide as what was seen."""
    ax.set_title(title, fontsize=size)
    ax.set_xlabel(lines["unit"].iloc[0], fontsize=size)
    ax.set_ylabel(lines["measure"].iloc[0], fontsize=size)
    drawn = lines.dropna()
    if drawn.empty:
        _not_stored(ax)
        return
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    colours, kinds = {}, set()
    for name, line in drawn.groupby("line", sort=False):
        first, _, kind = name.partition(", ")  # a line that goes on in another kind is dashed
        if first not in colours:
            colours[first] = palette(LINES[len(colours)])
        look = {"linestyle": "--" if kind else "-", "marker": "." if len(line) < FEW else ""}
        label = None if kind else name
        ax.plot(line["items"], line["value"], color=colours[first], label=label, **look)
        kinds |= {kind} - {""}
        _end(ax, *line[["items", "value"]].iloc[-1], colours[first], last=drawn["items"].max())
    for kind in sorted(kinds):
        ax.plot([], [], "--", color=INK, label=kind)
    ax.set_xlim(0, room * widest)
    ax.set_ylim(0, 1.05 * drawn["value"].max())


def _end(ax: Axes, seen: float, value: float, colour: str, last: float) -> None:
    """Write a line's last value behind its end, or below where others of its panel go on."""
    behind = {"xytext": (5, 0), "va": "center"}
    place = behind if seen == last else {"xytext": (0, -5), "va": "top", "ha": "center"}
    style = {"fontsize": 7, "color": colour, "textcoords": "offset points"}
    ax.annotate(f"{value:.2f}", (seen, value), **place, **style)


def _panels(
    count: int, columns: int, height: float, shared: bool = False
) -> tuple[Figure, np.ndarray]:
    """Make axes (rows, columns), each row ``height`` inches; those beyond ``count`` are hidden."""
    rows = -(-count // columns)
    size = (WIDTH["page"], height * rows)
    fig, axes = plt.subplots(
        rows, columns, figsize=size, sharex=shared, sharey=shared, squeeze=False
    )
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return fig, axes


def _not_stored(ax: Axes) -> None:
    where = {"ha": "center", "va": "center", "transform": ax.transAxes}
    ax.text(0.5, 0.5, "no curve stored", color=QUIET, **where)
    ax.set(xticks=[], yticks=[])


# --- layers -----------------------------------------------------------------------------


def layers(shares: pd.DataFrame, top: int = 20) -> Figure:
    """Draw the share of the ``top`` units in each layer, one panel a row of ``shares``.

    The index names the panels, the columns are layers, counted from 0. Rows of pictures have
    another colour than those of text.
    """
    fig, axes = _panels(len(shares), columns=4, height=1.55, shared=True)
    for ax, (name, share) in zip(axes.flat, shares.iterrows(), strict=False):
        colour = palette("multimodal" if "picture" in str(name) else "captions")
        ax.bar(share.index, share, 0.85, color=colour)
        ax.set(title=name, ylim=(0, 1), xticks=share.index)
    fig.supxlabel("layer", fontsize=8)
    fig.supylabel(f"share of the top {top} units", fontsize=8)
    return fig
