"""Scores are timed only where they agree with plain hooks, and what is kept is kept by system."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch

from mmn_utils.studies.concepts.cost import counted
from mmn_utils.studies.court import times
from mmn_utils.studies.court.scores import EXACT, cases, scores
from tests.benchmarks import bench_scores
from tests.benchmarks.timing import random_system, random_targets

FEW = ["gradient", "contribution_gated_none", "random"]


@pytest.fixture(scope="module")
def tried():
    """A random system of two layers and its first picture's case."""
    model, prompts = random_system(2, 2)
    return model, cases(model, prompts, random_targets(model, 2))[0]


def test_scores_say_what_plain_hooks_say(tried):
    assert 0 < bench_scores.agree(*tried) <= bench_scores.CLOSE


@pytest.mark.parametrize("name", ["gradient", "patching_other", "activation_step"])
def test_a_score_that_says_otherwise_is_not_timed(tried, monkeypatch, name):
    usual = scores(tried[0])
    wrong = replace(usual[name], compute=lambda *given: 1.01 * usual[name].compute(*given))
    changed = {**usual, name: wrong}
    monkeypatch.setattr(bench_scores, "scores", lambda _model, **_: changed)
    with pytest.raises(AssertionError, match=f"{name} differs from plain hooks"):
        bench_scores.measure(*tried, repeats=1)


def test_costs_are_in_forward_passes(tried, monkeypatch):
    monkeypatch.setattr(bench_scores, "agree", lambda *_: None)  # of which there is a test above
    found = bench_scores.measure(*tried, repeats=1, units=8, names=FEW).set_index("score")
    assert set(found.index) == {*FEW, EXACT}
    assert found.loc["random", "time"] < 0.5 < found.loc["gradient", "time"]
    assert found.loc[EXACT, "time"] > 20


def test_the_allocator_held_what_is_counted(tried):
    model, case = tried
    for name in FEW[:2]:
        way = partial(scores(model)[name].compute, model, case, "all")
        way()
        assert bench_scores.peak(way) == pytest.approx(counted(way)["bytes"], rel=0.02)


def test_rows_of_other_systems_stay(tmp_path):
    path = tmp_path / "times.csv"
    first = pd.DataFrame({"score": ["gradient"], "time": [3.0], "memory": [4.0]})
    bench_scores.kept({"one": first, "two": first}, path)
    bench_scores.kept({"one": first.assign(time=2.0)}, path)
    found = times.read(path).set_index("model")
    assert found["time"].to_dict() == {"two": 3.0, "one": 2.0}
    assert set(found["threads"]) == {1}
    assert f"torch {torch.__version__.partition('+')[0]}" in times.where("one", path)
