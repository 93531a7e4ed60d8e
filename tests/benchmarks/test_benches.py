"""The benchmarks without a test of their own work, tried at tiny sizes: both ways agree."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch

from mmn_utils.miniature.vision.recipe import Recipe
from mmn_utils.models import products
from mmn_utils.neurons.ranking import RANKS
from tests.benchmarks import (
    bench_ablation,
    bench_attribution,
    bench_contribution,
    bench_edit_trials,
    bench_exact,
    bench_peers,
    bench_planning,
    bench_training,
)
from tests.benchmarks.timing import best_times, plainly

WHOSE = ("", bench_ablation.OURS)  # torch's own products, and ours
SHAPES = {"llava": {"layers": 2, "width": 32, "side": 4}, "miniature": {"layers": 2}}


@pytest.mark.parametrize("system", bench_ablation.SYSTEMS)
@pytest.mark.parametrize("score", bench_ablation.SCORES)
def test_a_sweep_says_what_plain_hooks_say(system, score):
    ways = bench_ablation.WAYS if system == "llava" else ["batch", "cache"]
    shape = SHAPES[system]
    rows, equal, ratios = bench_ablation.measure(system, score, tokens=3, ways=ways, **shape)
    assert equal == dict.fromkeys([way + whose for way in ways for whose in WHOSE], rows)
    assert rows > 8
    assert min(ratios.values()) > 0


def test_a_sweep_that_disagrees_is_not_timed(monkeypatch):
    monkeypatch.setattr(
        bench_ablation.PlainSweep, "without", lambda self, rows: contextlib.nullcontext()
    )
    with pytest.raises(AssertionError):
        bench_ablation.measure("llava", tokens=2, ways=["cache"], **SHAPES["llava"])


def test_contribution_is_timed_against_hooks():
    ratios = bench_contribution.against_hooks(repeats=1, layers=2)
    assert len(ratios) == 2
    assert min(ratios.values()) > 0


def test_attribution_is_timed_in_every_ranking():
    times = bench_attribution.measure(images=1, repeats=1, layers=2)
    others = {"captum", "captum by layer", "floor, torch's own products"}
    assert set(times) == {"floor", *RANKS} | others
    assert min(times.values()) > 0


@pytest.mark.parametrize("system", bench_peers.SYSTEMS)
def test_peers_that_are_here_say_what_attribution_says(system):
    ratios = bench_peers.measure(system, repeats=1, **SHAPES[system])
    assert {"plain hooks", "captum"} <= set(ratios)
    assert min(ratios.values()) > 0


def test_a_peer_that_disagrees_is_not_timed(monkeypatch):
    def wrong(asked):
        return lambda: asked.ours() * 1.01

    monkeypatch.setitem(bench_peers.PEERS, "captum", wrong)
    with pytest.raises(AssertionError, match="not close"):
        bench_peers.measure("miniature", repeats=1, layers=2)


def test_a_batch_in_parts_says_what_one_pass_says_in_less_memory():
    found = bench_attribution.in_parts(images=4, repeats=1, layers=2, rows=1)
    assert found["rows"] == 1
    assert found["time"] > 0
    assert found["memory"] < 0.4


def test_edits_of_rows_say_what_edits_of_weights_say():
    alike, made, times = bench_edit_trials.measure(photographs=12, tokens=6, repeats=1)
    assert alike == made > 0
    assert min(times.values()) > 0


def test_contribution_names_the_published_units(capsys):
    shape = (2, 16, 64, 60)
    weights = bench_contribution.Weights(*shape)
    assert bench_contribution.agree(weights, bench_contribution.prepare(weights)) > 0.95
    bench_contribution.measure("tiny", 1, shape)
    assert "without the preparation" in capsys.readouterr().out


@pytest.mark.skipif(not products.CAPABLE, reason="both ways are torch's here")
def test_a_plain_way_has_torchs_own_products(monkeypatch):
    seen, own = [], products._product
    monkeypatch.setattr(products, "_product", lambda *a: seen.append(1) or own(*a))
    rows, weight = torch.ones(64, 256), torch.ones(256, 256)
    way = plainly(lambda: products.linear(rows, weight))
    assert torch.equal(way(), products.linear(rows, weight))
    assert len(seen) == 1


def test_plans_are_timed_against_what_they_plan():
    ratios = bench_planning.measure("llama 5 layers, few key heads", ("caption",), repeats=1)
    assert ratios["caption"] > 0


def test_training_takes_each_pair_of_steps():
    recipe = Recipe()
    tiny = replace(recipe, config={**recipe.config, "depth": 1}, part=2)
    pairs = bench_training.pairs_of(tiny, layers=1, width=32)
    for steps in pairs.values():
        times = best_times(steps, 1)
        assert len(times) == 2
        assert min(times.values()) > 0


def test_the_truth_of_units_is_that_of_one_at_a_time():
    for positions in ("all", "step"):
        found = bench_exact.measure(positions, units=8, plain_units=2, repeats=1, layers=2)
        assert found.operations <= 1.3 * found.derived
        assert "x (apart" in str(found)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("positions", ["all", "step"])
def test_the_truth_of_pairs_is_that_of_one_at_a_time(positions, late):
    count, ratio = bench_exact.measure_pairs(positions, late, 5, 5, repeats=1, layers=3)
    assert count == 10
    assert ratio > 0
