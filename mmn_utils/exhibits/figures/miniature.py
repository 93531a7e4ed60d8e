"""Figures of the miniature: its scenes, its training, its captions, and its layers."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence

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


# --- scenes -----------------------------------------------------------------------------


def scenes(shown: Sequence[Photograph], strange: Sequence[Photograph]) -> Figure:
    """Draw scenes with a caption over them, their masks, and as many others beneath.

    ValueError for a scene with more things than ``THINGS`` has colours.
    """
    fig, axes = plt.subplots(3, len(shown), figsize=(WIDTH["page"], 3.75), squeeze=False)
    for (top, middle, bottom), scene, other in zip(axes.T, shown, strange, strict=True):
        _picture(top, scene.open())
        _picture(middle, _tinted(scene))
        _picture(bottom, other.open())
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
    columns = len(scenes)
    size, heights = (WIDTH["page"], 3.6), [1, 1.15]
    fig, axes = plt.subplots(2, columns, figsize=size, squeeze=False, height_ratios=heights)
    names = list(said["system"].unique())
    for top, bottom, scene in zip(*axes, scenes, strict=True):
        _picture(top, scene.open())
        _over(top, _things(scene), 26)
        bottom.set_axis_off()
        rows = said[said["image"] == scene.id].set_index("system").loc[names]
        for place, (name, row) in enumerate(rows.iterrows()):
            y = 1 - place / max(4, len(names))
            colour = INK if row["right"] else palette("prompts")
            text = textwrap.fill(row["caption"] or "(nothing)", 27, max_lines=2)
            bottom.text(0, y, name, fontsize=SMALL, va="top", color=QUIET)
            bottom.text(0, y - 0.07, text, fontsize=SMALL, va="top", color=colour)
    return fig


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


def training(curves: Mapping[str, pd.DataFrame], chance: float) -> Figure:
    """Draw the training of a system's parts, one panel a curve, by its title.

    Each curve has two columns, which name the axes: how much was seen, and loss or accuracy;
    an empty one is said not to be stored. ``chance`` is drawn beside accuracies.
    """
    fig, axes = _panels(len(curves), columns=3, height=1.75)
    for ax, (title, curve) in zip(axes.flat, curves.items(), strict=False):
        seen, measure = curve.columns
        ax.set(title=title, xlabel=seen, ylabel=measure)
        if curve.empty:
            _not_stored(ax)
            continue
        _curve(ax, curve, room=1.18, aside=4)
        if measure == "loss":  # the first steps of a round would flatten all others
            ax.set_ylim(top=1.05 * curve[measure].quantile(0.98))
    _chance(axes, chance)
    return fig


def _chance(axes: np.ndarray, chance: float) -> None:
    """Draw chance where accuracy is measured, with a legend in the first of these panels."""
    measured = [ax for ax in axes.flat if ax.lines and ax.get_ylabel() == "accuracy"]
    for ax in measured:
        ax.axhline(chance, color=palette("random"), linestyle="--", label="chance")
    for ax in measured[:1]:
        ax.legend(loc="center right")


def systems_training(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the losses of several systems' trainings; ``curves`` as for ``training``."""
    fig, axes = _panels(len(curves), columns=4, height=1.6)
    for ax, (title, curve) in zip(axes.flat, curves.items(), strict=False):
        seen, measure = curve.columns
        ax.set_title(f"{title} (not stored)" if curve.empty else title, fontsize=7)
        ax.set(xlabel=seen, ylabel=measure if ax in axes[:, 0] else "")
        _curve(ax, curve, room=1.28, aside=3)
    return fig


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


def _curve(ax: Axes, curve: pd.DataFrame, room: float, aside: float) -> None:
    """Draw a curve and write its last value behind it, on ``room`` times its width."""
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    marker = "." if len(curve) < 3 else ""
    ax.plot(*curve.to_numpy(dtype=float).T, color=palette("multimodal"), marker=marker)
    for seen, value in curve.iloc[-1:].to_numpy(dtype=float):
        place = {"xytext": (aside, -2), "textcoords": "offset points"}
        ax.annotate(f"{value:.2f}", (seen, value), fontsize=7, **place)
        ax.set_xlim(0, room * seen)


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
