"""What captions lose without their neurons: paper A, Figures 6 and S.3."""

from __future__ import annotations

from textwrap import shorten

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mmn_utils.exhibits import plots

COLOURS = {"top": "multimodal", "interpretable": "interpretable", "random": "random"}
DASHES = {"top": "-", "interpretable": "--", "random": "-"}  # the first two may coincide
NAMES = {
    "top": "top units",
    "interpretable": "interpretable top units",
    "random": "random units, same layers",
}
DITTO = "″"
LEGEND = f"with more and more units off\n({DITTO} as in the row above)"
LONGEST = 37  # characters of a caption in Figure 6


def noun_probability(
    curves: pd.DataFrame,
    of_units: int,
    picture: Image.Image,
    captions: pd.DataFrame,
    *,
    image: str,
    noun: str,
    prefix: str,
) -> Figure:
    """Draw Figure 6: the noun's probability as units go, and what is said of one picture.

    ``curves`` with condition, k, and mean, low, high ``relative``; ``of_units`` the system has.
    ``captions`` (k, top, random) of the picture, which is called ``image``, continue ``prefix``.
    """
    fig = plt.figure(figsize=(plots.WIDTH["page"], 3.0))
    left, right = fig.subfigures(1, 2, width_ratios=[1, 1.25])
    ax = left.subplots()
    _curves(ax, curves, of_units, " relative")
    ax.set(ylabel="probability of the noun, relative", ylim=(0, None))
    late = _falls_late(curves["mean relative"], curves["k"])
    ax.legend(loc="lower left", **({} if late else {"bbox_to_anchor": (0, 1)}))
    top, bottom = right.subplots(2, 1, height_ratios=[1.0, 1.7])
    plots.bare(top)
    inset = top.inset_axes([0, 0, 0.29, 1])
    inset.imshow(picture)
    plots.bare(inset)
    notes = f"picture {image}\nits noun: {noun}\n\nbelow: “{prefix} …”\n{LEGEND}"
    top.text(0.33, 0.95, notes, va="top", transform=top.transAxes, fontsize=7, parse_math=False)
    plots.text_table(bottom, _with_dittos(captions), widths=[0.5, 2.2, 2.2], fontsize=6)
    return fig


def caption_similarity(curves: pd.DataFrame, of_units: int, floor: float) -> Figure:
    """Draw Figure S.3: BERTScore with the original caption as units go.

    ``curves`` with condition, k, mean, low, high; ``floor`` is what captions of different
    photographs score.
    """
    fig, ax = plt.subplots(figsize=(4.4, 2.8))
    _curves(ax, curves, of_units)
    line = ax.axhline(floor, color=plots.INK, linewidth=0.8, linestyle=":")
    ax.set(ylabel="BERTScore with the original caption")
    if floor < curves["low"].min():  # below all else, and below the legend
        ax.text(0.5, floor, "captions of other pictures", va="bottom", fontsize=6.5)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 0.12))
    else:
        line.set_label("captions of other pictures")
        late = _falls_late(curves["mean"], curves["k"])
        ax.legend(loc="lower left", **({} if late else {"bbox_to_anchor": (0, 1), "ncols": 2}))
    return fig


def _falls_late(means: pd.Series, ks: pd.Series) -> bool:
    """Say whether every curve is above its lowest third in the first half of the numbers."""
    return bool(means[ks <= ks.median()].min() > means.max() / 3)


def _curves(ax: Axes, curves: pd.DataFrame, of_units: int, which: str = "") -> None:
    """Draw a line for each condition over the number of units, the whole system leftmost."""
    for condition, some in curves.groupby("condition", sort=False):
        x = some["k"].clip(lower=0.5)  # a logarithm has no place for zero
        y, low, high = (some[f"{name}{which}"] for name in ("mean", "low", "high"))
        style = {"linestyle": DASHES[condition]}
        plots.line_with_interval(ax, x, y, low, high, COLOURS[condition], NAMES[condition], **style)
    ks = sorted(curves["k"].unique().tolist())
    ax.set_xscale("log")
    ax.set_xticks([max(k, 0.5) for k in ks], ks)
    ax.minorticks_off()
    ax.set(xlabel=f"units ablated, of {of_units:,}")


def _with_dittos(captions: pd.DataFrame) -> pd.DataFrame:
    """Shorten captions to the columns of Figure 6, with dittos where one stays as it was."""
    columns = {"units": captions["k"].astype(str)}
    for name in ("top", "random"):
        same = captions[name] == captions[name].shift()
        short = captions[name].map(lambda text: shorten(text, LONGEST, placeholder=" …"))
        columns[name] = short.mask(same, DITTO)
    return pd.DataFrame(columns)
