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
    "coco": "human nouns",
}
ANOTHER = "prompts of another picture"
BINS = 45


def one_photograph(picture: Image.Image) -> Figure:
    """Show a photograph, small."""
    fig, _ = plots.image_grid([picture], columns=1, width=1.6)
    return fig


def distributions(means: pd.DataFrame, largest: pd.DataFrame) -> Figure:
    """Draw how CLIPScores are distributed over photographs, for several kinds of text.

    A row for each photograph and a column for each kind: on the left the ``means`` over its
    patches, on the right the ``largest``, of prompts and random vectors only.
    """
    shape = {"width_ratios": [3, 2], "sharey": True}
    fig, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH["page"], 2.5), **shape)
    all_scores = np.concatenate([means[list(NAMES)].to_numpy().ravel(), largest["prompts"]])
    bins = np.linspace(all_scores.min() - 1, all_scores.max() + 1, BINS)
    for ax, wide, kinds in ((left, means, NAMES), (right, largest, ["random", "prompts"])):
        for kind in kinds:
            colour = plots.palette(kind)
            share = np.histogram(wide[kind], bins)[0] / len(wide)
            ax.stairs(share, bins, fill=True, color=colour, alpha=0.3)
            _outline(ax, wide[kind], bins, color=colour, label=NAMES[kind], lw=1.1)
        _outline(ax, wide["shuffled"], bins, color=plots.INK, lw=0.9, ls=":", label=ANOTHER)
        ax.set(xlabel="CLIPScore", ylabel="share of pictures")
    left.set_title("mean over a picture's patches")
    right.set_title("best of a picture's patches")
    handles = left.get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": 5}
    fig.legend(*handles, **place, columnspacing=1.2, handlelength=1.4)
    return fig


def _outline(ax: Axes, values: pd.Series, bins: np.ndarray, **look) -> None:
    """Draw the outline of a histogram, interrupted where a bin is empty."""
    share = np.histogram(values, bins)[0] / len(values)
    ax.stairs(np.where(share > 0, share, np.nan), bins, **look)
