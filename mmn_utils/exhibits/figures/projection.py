"""What the projection hands over: scores of soft prompts' words beside other texts.

Paper A, Figure 3, and the photograph of Table S.2.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mmn_utils.exhibits import plots

NAMES = {
    "random": "random vectors",
    "prompts": "image prompts",
    "captions": "generated captions",
    "coco": "reference nouns",
}
ANOTHER = "prompts of another picture"


def one_photograph(picture: Image.Image) -> Figure:
    """Show a photograph, small."""
    fig, _ = plots.image_grid([picture], columns=1, width=1.6)
    return fig


def distributions(means: pd.DataFrame, largest: pd.DataFrame) -> Figure:
    """Draw how CLIPScores are distributed over photographs, for several kinds of text.

    Cumulative: the share of photographs that score at most so much. A row for each photograph
    and a column for each kind that there is: on the left the ``means`` over its patches, on the
    right the ``largest``, of prompts and random vectors only. Kolmogorov and Smirnov's D between
    these two is drawn where it lies, the largest distance of their curves.
    """
    shape = {"width_ratios": [3, 2], "sharey": True}
    fig, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH["page"], 2.7), **shape)
    told = [kind for kind in NAMES if kind in means]
    for ax, wide, kinds in ((left, means, told), (right, largest, ["random", "prompts"])):
        for kind in kinds:
            ax.ecdf(wide[kind], color=plots.palette(kind), label=NAMES[kind])
        ax.ecdf(wide["shuffled"], color=plots.INK, lw=1, ls=":", label=ANOTHER)
        _gap(ax, wide["random"].to_numpy(), wide["prompts"].to_numpy())
        ax.set(xlabel="CLIPScore", ylim=(0, 1.02))
    left.set(title="mean over a picture's patches", ylabel="share of pictures at or below")
    right.set_title("best of a picture's patches")
    handles = left.get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": 5}
    fig.legend(*handles, **place, columnspacing=1.2, handlelength=1.4)
    return fig


def _gap(ax: Axes, first: np.ndarray, second: np.ndarray) -> None:
    """Mark the largest distance between two cumulative curves, and say how large it is."""
    places = np.sort(np.concatenate([first, second]))
    counts = [np.searchsorted(np.sort(some), places, "right") for some in (first, second)]
    one, other = (count / count[-1] for count in counts)
    widest = np.abs(one - other).argmax()
    x, (low, high) = places[widest], sorted((float(one[widest]), float(other[widest])))
    ax.plot([x, x], [low, high], color=plots.INK, lw=1, marker="_", markersize=5)
    said = {"va": "top", "xytext": (3, -2), "textcoords": "offset points", "fontsize": 7}
    ax.annotate(f"D = {high - low:.3f}", (x, low), **said)
