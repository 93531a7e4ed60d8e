"""The method court in pictures: what each score's first units take, its cost, and interactions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from mmn_utils.exhibits import plots
from mmn_utils.neurons.together import QUESTIONS
from mmn_utils.studies.court.scores import EXACT, EXACT_LOGIT, PATH
from mmn_utils.studies.court.summary import family

ASKED = {"all": "at all positions", "image": "at the image patches", "step": "at the step alone"}
NAMES = {
    "attribution_max": "gradient × Z, maximum over patches (paper A)",
    "attribution_sum": "gradient × Z, summed over patches",
    "gradient": "gradient × activation",
    "patching_mean": "attribution patching, mean picture",
    "patching_other": "attribution patching, another picture",
    "contribution_gated_none": "contribution (paper B)",
    "contribution_gated_final": "contribution, final norm",
    "contribution_gate_none": "contribution, gate alone",
    "contribution_gate_final": "contribution, gate alone, final norm",
    "activation_patches": "activation, maximum over patches",
    "activation_step": "activation at the step",
    "random": "random order",
    EXACT: "exact order",
    EXACT_LOGIT: "exact order, by the logit",
}
COSTS = {"passes": "operations, forward passes", "time": "processor time, forward passes"}
COLOURS = {  # of each kind of score
    "attribution": "multimodal",
    "gradient": "coco",
    "integrated": "interpretable",
    "patching": "captions",
    "contribution": "prompts",
    "activation": "random",
    "random": "random",
}
DASHES = ("-", "--", "-.", ":")
MARKS = ("o", "s", "^", "D")
TRUTH = (plots.INK, "-", "*")


def names_of(scores: Iterable[str]) -> dict[str, str]:
    """Name scores for a reader, integrated gradients by their steps."""
    return {score: NAMES.get(score) or _path_name(score) for score in scores}


def _path_name(score: str) -> str:
    kind, _, steps = score.rpartition("_")
    if kind != PATH or not steps.isdigit():
        raise ValueError(f"{score!r} is no score that has a name; give it one in figures/court.py")
    return f"integrated gradients, {steps} step{'' if steps == '1' else 's'}"


def _styles(scores: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Give each score a colour by its kind, a dash and a mark by its place within."""
    found, seen = {}, {}
    for score in scores:
        if score == EXACT:
            found[score] = TRUTH
            continue
        if score == EXACT_LOGIT:
            found[score] = plots.INK, ":", "*"
            continue
        kind = family(score)
        place = seen[COLOURS[kind]] = seen.get(COLOURS[kind], -1) + 1
        colour = plots.palette(COLOURS[kind])
        found[score] = colour, DASHES[place % len(DASHES)], MARKS[place % len(MARKS)]
    return found


def curves(means: pd.DataFrame) -> Figure:
    """Draw what is left of the noun's probability as each score's first units go.

    ``means`` has question, score, k, mean, low, high; a panel a question.
    """
    fig = Figure(figsize=(plots.WIDTH["page"], 3.7))
    styles = _styles(list(dict.fromkeys(means["score"])))
    axes = fig.subplots(1, len(QUESTIONS), sharey=True)
    for ax, question in zip(axes, QUESTIONS, strict=True):
        for score, part in means[means["question"] == question].groupby("score", sort=False):
            colour, dash, _ = styles[score]
            width = 2.0 if score == EXACT else 1.0
            ax.plot(part["k"], part["mean"], color=colour, linestyle=dash, linewidth=width)
            if score == EXACT:
                ax.fill_between(
                    part["k"], part["low"], part["high"], color=colour, alpha=0.15, linewidth=0
                )
        _logarithmic(ax, "units off")
        ax.set(title=ASKED[question])
    axes[0].set(ylabel="probability left, of the whole model's", ylim=(0, None))
    handles = [
        Line2D([], [], color=colour, linestyle=dash, linewidth=2.0 if score == EXACT else 1.0)
        for score, (colour, dash, _) in styles.items()
    ]
    _legend(fig, handles, list(styles))
    return fig


def cost(means: pd.DataFrame, costs: pd.DataFrame, at_step: float) -> Figure:
    """Draw how well each score orders units against what it costs, a panel a question.

    ``means`` as of ``summary.means``; ``costs`` has score and passes, of the exact order too, and
    time, where it was measured, which has a row of panels of its own; with units off at the step
    alone the exact order takes ``at_step`` passes, and was not timed. A score that costs nothing
    is a line.
    """
    by = costs.set_index("score")
    kinds = [name for name in COSTS if name in by and by[name].notna().any()]
    fig = Figure(figsize=(plots.WIDTH["page"], 1.3 + 2.2 * len(kinds)))
    rank = means[means["measure"] == "rank"]
    styles = _styles([*dict.fromkeys(rank["score"]), EXACT])
    free = set(by.index[by["passes"] <= 0])
    rows = fig.subplots(len(kinds), len(QUESTIONS), sharey=True, squeeze=False)
    for axes, kind in zip(rows, kinds, strict=True):
        for ax, question in zip(axes, QUESTIONS, strict=True):
            prices = dict(by[kind])
            if question == "step":
                prices[EXACT] = at_step if kind == "passes" else np.nan
            _costs(ax, rank[rank["question"] == question], prices, styles, free)
            _logarithmic(ax, COSTS[kind])
            ax.set(title=ASKED[question] if kind == kinds[0] else "")
        axes[0].set(ylabel="rank correlation")
    handles = [
        Line2D([], [], color=colour, linestyle=":", linewidth=0.8)
        if score in free
        else Line2D([], [], color=colour, marker=mark, linestyle="", markersize=4.5)
        for score, (colour, _, mark) in styles.items()
    ]
    _legend(fig, handles, list(styles))
    return fig


def _costs(ax: Axes, rank: pd.DataFrame, price: Mapping[str, float], styles, free) -> None:
    """Draw one panel: rank correlations over prices, the exact order's, and free scores' lines."""
    for row in rank.itertuples():
        colour, _, mark = styles[row.score]
        if row.score in free:
            ax.axhline(row.mean, color=colour, linewidth=0.8, linestyle=":")
            continue
        bars = np.clip([[row.mean - row.low], [row.high - row.mean]], 0, None)
        options = {"ecolor": colour, "elinewidth": 0.7, "markersize": 4.5}
        ax.errorbar([price[row.score]], [row.mean], bars, fmt=mark, color=colour, **options)
    colour, _, mark = TRUTH
    ax.plot([price[EXACT]], [1.0], color=colour, marker=mark, markersize=7)


def _logarithmic(ax: Axes, label: str) -> None:
    """Scale the lower axis by powers of ten, written as numbers."""
    ax.set(xscale="log", xlabel=label)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    ax.xaxis.set_minor_locator(NullLocator())


def _legend(fig: Figure, handles: Sequence[Line2D], scores: Sequence[str]) -> None:
    """Put all scores' names below the panels."""
    fig.legend(
        handles,
        list(names_of(scores).values()),
        loc="outside lower center",
        ncols=3,
        fontsize=6.2,
        handlelength=2.4,
        columnspacing=1.2,
    )


def interactions(pairs: pd.DataFrame, adding: pd.DataFrame, repair: pd.DataFrame) -> Figure:
    """Draw how pairs interact, how lists add up, and what the layers above give back.

    ``pairs`` has sum and interaction; ``adding`` question, k, mean, low, high; ``repair``
    layer, mean, low, high.
    """
    fig = Figure(figsize=(plots.WIDTH["page"], 2.5))
    left, middle, right = fig.subplots(1, 3)
    _histogram(left, pairs)
    colours = dict(zip(QUESTIONS, ("multimodal", "prompts", "interpretable"), strict=True))
    for question, part in adding.groupby("question", sort=False):
        columns = (part[name] for name in ("k", "mean", "low", "high"))
        plots.line_with_interval(middle, *columns, colours[question], ASKED[question])
    middle.axhline(1, color=plots.INK, linewidth=0.6)
    _logarithmic(middle, "truly first units off")
    middle.set(ylabel="joint loss / sum of losses")
    middle.set_ylim(bottom=0)
    middle.legend(fontsize=6.2, loc="lower left")
    repair = repair[repair["low"].notna()]  # elsewhere the share is one of nothing
    error = np.clip([repair["mean"] - repair["low"], repair["high"] - repair["mean"]], 0, None)
    bar = plots.palette("multimodal")
    right.bar(repair["layer"], repair["mean"], color=bar)
    options = {"ecolor": plots.INK, "elinewidth": 0.8, "capsize": 1.5}
    right.errorbar(repair["layer"], repair["mean"], error, fmt="none", **options)
    right.axhline(0, color=plots.INK, linewidth=0.6)
    reach = max(1.0, 1.2 * float(repair["mean"].abs().max()))
    low, high = right.get_ylim()
    right.set_ylim(max(low, -reach), min(high, reach))  # of few pictures an interval may be endless
    right.set(xlabel="layer of the unit", ylabel="given back, of the direct loss")
    return fig


def _histogram(ax: Axes, pairs: pd.DataFrame, reach: float = 0.5, bins: int = 41) -> None:
    """Draw the shares of pairs by their interaction over the sum of both losses."""
    some = pairs[pairs["sum"] > 0]
    away = np.clip(some["interaction"] / some["sum"], -reach, reach)
    edges = np.linspace(-reach, reach, bins + 1)
    shares = np.histogram(away, edges)[0] / max(len(away), 1)
    middles = (edges[1:] + edges[:-1]) / 2
    ax.bar(middles, shares, np.diff(edges), color=plots.palette("multimodal"))
    ax.axvline(0, color=plots.INK, linewidth=0.6)
    ax.set(xlabel="interaction / sum of two losses", ylabel="share of pairs")
