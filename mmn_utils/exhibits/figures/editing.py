"""Figures of edits: ways of editing beside each other, and a sweep over size and strength."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmn_utils.exhibits.plots import COLOURS, INK, WIDTH

WAYS = [COLOURS[name] for name in ("multimodal", "coco", "captions", "interpretable")]
SHADES = ["#9DC6E0", "#4E9BC8", "#0072B2", "#003F63"]
PRINTED, RING = (5, 1.0), "as the paper prints"  # neurons and strength
QUESTIONS = {
    "efficacy": "efficacy\nword swapped where\nthe edit was found",
    "generality": "generality\nword swapped on\nother images with it",
    "locality": "locality\ncaption unchanged\nwithout the word",
    "fluency": "fluency\nother words\nthat stayed",
}


def evaluation(summary: pd.DataFrame, ways: Sequence[str]) -> Figure:
    """Draw each measure of ``outcomes.summarise`` for each way of editing, with its interval.

    ``summary`` has the columns method, measure, mean, low, high, n; ``ValueError`` for more
    ways than colours.
    """
    if len(ways) > len(WAYS):
        raise ValueError(f"{len(ways)} ways of editing; there are colours for {len(WAYS)}")
    measures = [name for name in QUESTIONS if (summary["measure"] == name).any()]
    fig, ax = plt.subplots(figsize=(WIDTH["page"], 2.9))
    places, width = np.arange(len(measures)), 0.8 / len(ways)
    for i, way in enumerate(ways):
        rows = summary[summary["method"] == way].set_index("measure").reindex(measures)
        x = places + (i - (len(ways) - 1) / 2) * width
        ax.bar(x, rows["mean"], width * 0.9, color=WAYS[i], label=way)
        gap = np.clip([rows["mean"] - rows["low"], rows["high"] - rows["mean"]], 0, None)
        ax.errorbar(x, rows["mean"], gap, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
    ax.set_xticks(places, [f"{QUESTIONS[name]}\n{_counts(summary, name)}" for name in measures])
    ax.tick_params(axis="x", length=0)
    ax.set(ylim=(0, 1.04), ylabel="mean over images")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(ways), borderaxespad=0.2)
    return fig


def _counts(summary: pd.DataFrame, measure: str) -> str:
    """Say over how many images a measure is the mean: from the fewest to the most."""
    counts = summary.loc[summary["measure"] == measure, "n"]
    most, fewest = (0, 0) if counts.empty else (counts.max(), counts.min())
    return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"


def sweep(summary: pd.DataFrame) -> Figure:
    """Draw generality and locality over the number of neurons, a line for each strength.

    ``summary`` has the columns neurons, strength, measure, mean, low, high, n; ``ValueError``
    for more strengths than shades. The setting that the paper prints has a ring.
    """
    strengths = sorted(summary["strength"].unique())
    if len(strengths) > len(SHADES):
        raise ValueError(f"{len(strengths)} strengths; there are shades for {len(SHADES)}")
    fig, axes = plt.subplots(1, 2, figsize=(WIDTH["page"], 2.7), sharey=True)
    counts = sorted(summary["neurons"].unique())
    for ax, measure in zip(axes, ("generality", "locality"), strict=True):
        for i, strength in enumerate(strengths):
            rows = summary[(summary["measure"] == measure) & (summary["strength"] == strength)]
            rows = rows.set_index("neurons").reindex(counts)
            x = np.arange(len(counts)) + 0.07 * (i - (len(strengths) - 1) / 2)
            gap = np.clip([rows["mean"] - rows["low"], rows["high"] - rows["mean"]], 0, None)
            shade = SHADES[len(SHADES) - len(strengths) + i]
            bars = {"elinewidth": 0.8, "capsize": 2, "marker": "o"}
            ax.errorbar(x, rows["mean"], gap, color=shade, label=f"{strength:g} × dw", **bars)
            if strength == PRINTED[1] and PRINTED[0] in counts:
                at = counts.index(PRINTED[0])
                ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "color": INK}
                ax.plot(x[at], rows["mean"].iloc[at], linestyle="none", label=RING, **ring)
        ax.set_xticks(np.arange(len(counts)), counts)
        ax.set(xlabel="neurons edited", ylim=(-0.03, 1.04))
        name, question = QUESTIONS[measure].split("\n", 1)
        question = question.replace("\n", " ")
        ax.set_title(f"{name}, {_counts(summary, measure)}:\n{question}")
    axes[0].set_ylabel("mean over images")
    handles, labels = axes[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] == RING)  # the ring comes last
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    fig.legend(handles, labels, loc="outside right center")
    return fig
