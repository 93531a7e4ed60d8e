"""Figures of notebook 09: legible, and of the numbers that they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mmn_utils.exhibits import plots
from mmn_utils.exhibits.figures import court as figures
from mmn_utils.neurons.together import QUESTIONS
from mmn_utils.studies.court import scores
from tests.exhibits.legible import assert_legible
from tests.tiny_gated import TinyGated

KS = [1, 10, 100]


@pytest.fixture(autouse=True)
def style():
    plots.use_style()
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def names() -> list[str]:
    return list(scores.scores(TinyGated()))


def curves(names: list[str]) -> pd.DataFrame:
    rows = [
        (question, name, k, 1 / (place + 1) / (i + 1))
        for question in QUESTIONS
        for place, name in enumerate([scores.EXACT, scores.EXACT_LOGIT, *names])
        for i, k in enumerate(KS)
    ]
    table = pd.DataFrame(rows, columns=["question", "score", "k", "mean"])
    return table.assign(low=table["mean"] * 0.9, high=table["mean"] * 1.1)


def test_every_score_has_a_name_and_a_look_of_its_own(names):
    paths = {name for name in names if name.startswith(f"{scores.PATH}_")}
    assert {*names, scores.EXACT, scores.EXACT_LOGIT} - paths == set(figures.NAMES)
    named = figures.names_of([*names, "integrated_1"])
    assert len(set(named.values())) == len(names) + 1
    assert named["integrated_20"] == "integrated gradients, 20 steps"
    assert named["integrated_1"] == "integrated gradients, 1 step"
    for unknown in ("guess", "integrated_most"):
        with pytest.raises(ValueError, match=f"'{unknown}' is no score that has a name"):
            figures.names_of([unknown])
    looks = figures._styles([*names, scores.EXACT, scores.EXACT_LOGIT])
    assert len(set(looks.values())) == len(looks)


def test_a_curve_for_each_score_and_question(names):
    means = curves(names)
    fig = figures.curves(means)
    assert_legible(fig)
    for ax, question in zip(fig.axes, QUESTIONS, strict=True):
        own = means[means["question"] == question]
        drawn = {tuple(np.round(line.get_ydata(), 9)) for line in ax.lines}
        expected = {tuple(np.round(part["mean"].to_numpy(), 9)) for _, part in own.groupby("score")}
        assert drawn == expected
        assert ax.get_title("left") == figures.ASKED[question]
    assert len(fig.legends[0].get_texts()) == len(names) + 2


def test_quality_stands_over_cost_and_what_is_free_is_a_line(names):
    rows = [(q, name, "rank", 0.1 * i, 0.1 * i - 0.05, 0.1 * i + 0.05, 9)
            for q in QUESTIONS for i, name in enumerate(names)]  # fmt: skip
    means = pd.DataFrame(rows, columns=["question", "score", "measure", "mean", "low", "high", "n"])
    passes = {name: float(i + 1) for i, name in enumerate(names)} | {scores.EXACT: 900.0}
    passes[scores.RANDOM] = 0.0
    costs = pd.DataFrame({"score": passes.keys(), "passes": passes.values()})
    fig = figures.cost(means, costs, at_step=90.0)
    assert_legible(fig)
    assert len(fig.axes) == len(QUESTIONS)
    for ax, question in zip(fig.axes, QUESTIONS, strict=True):
        points = {(line.get_xdata()[0], round(line.get_ydata()[0], 9)) for line in ax.lines
                  if line.get_marker() in figures.MARKS}  # fmt: skip
        assert points == {
            (passes[name], round(0.1 * i, 9))
            for i, name in enumerate(names)
            if name != scores.RANDOM
        }
        stars = {tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() == "*"}
        assert stars == {(90.0 if question == "step" else 900.0, 1.0)}


def test_measured_times_have_panels_of_their_own(names):
    rows = [(q, name, "rank", 0.1, 0.1, 0.1, 9) for q in QUESTIONS for name in names]
    means = pd.DataFrame(rows, columns=["question", "score", "measure", "mean", "low", "high", "n"])
    costs = pd.DataFrame({"score": [*names, scores.EXACT], "passes": 2.0, "time": 3.0})
    fig = figures.cost(means, costs, at_step=1.0)
    assert_legible(fig)
    labels = [ax.get_xlabel() for ax in fig.axes]
    assert labels == [label for label in figures.COSTS.values() for _ in QUESTIONS]
    stars = [[line.get_xdata()[0] for line in ax.lines if line.get_marker() == "*"][-1]
             for ax in fig.axes]  # fmt: skip
    np.testing.assert_array_equal(stars, [2.0, 2.0, 1.0, 3.0, 3.0, np.nan])
    untimed = figures.cost(means, costs.assign(time=float("nan")), at_step=1.0)
    assert len(untimed.axes) == len(QUESTIONS)


def test_pairs_lists_and_layers_are_drawn_as_they_are():
    pairs = pd.DataFrame({"sum": [1.0, 1, 1, -1], "interaction": [0.01, -0.2, 3, 9]})
    adding = pd.concat([pd.DataFrame({"question": q, "k": KS, "mean": [1, 0.9, 0.8]})
                        for q in QUESTIONS])  # fmt: skip
    adding = adding.assign(low=adding["mean"] - 0.1, high=adding["mean"] + 0.1)
    repair = pd.DataFrame({"layer": range(3), "mean": [0.2, -0.1, 0]})
    repair = repair.assign(low=repair["mean"] - 0.1, high=repair["mean"] + 0.1)
    fig = figures.interactions(pairs, adding, repair)
    assert_legible(fig)
    left, middle, right = fig.axes
    bars = {round(bar.get_height(), 6) for bar in left.patches}
    assert bars == {0, round(1 / 3, 6)}  # the last pair loses nothing and is left out
    assert sum(bar.get_height() for bar in left.patches) == pytest.approx(1)
    labels = middle.get_legend_handles_labels()[1]
    assert labels == [figures.ASKED[question] for question in QUESTIONS]
    assert [bar.get_height() for bar in right.patches] == pytest.approx([0.2, -0.1, 0])


def test_layers_that_have_nothing_to_give_back_are_left_out_and_endless_intervals_cut():
    pairs = pd.DataFrame({"sum": [1.0], "interaction": [0.0]})
    adding = pd.DataFrame({"question": "all", "k": KS, "mean": 1.0, "low": 0.9, "high": 1.1})
    repair = pd.DataFrame({"layer": range(3), "mean": [0.5, 7.0, 0.1]})
    repair = repair.assign(low=[-30.0, np.nan, 0.0], high=[40.0, np.nan, 0.2])
    right = figures.interactions(pairs, adding, repair).axes[2]
    assert [bar.get_height() for bar in right.patches] == pytest.approx([0.5, 0.1])
    assert right.get_ylim() == (-1, 1)
