"""Judges of scores against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.court import judging
from mmn_utils.studies.court.scores import Score

EFFECT = Score(lambda *_: None, effect=True)


def drawn(seed: int, shape=(4, 60)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.normal(size=shape).astype(np.float32)
    return (0.5 * true + rng.normal(size=shape)).astype(np.float32), true


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("digits", [7, 0])
def test_rank_correlation_is_scipys_with_and_without_ties(seed, digits):
    predicted, true = (np.round(values.ravel(), digits) for values in drawn(seed))
    assert judging.spearman(predicted, true) == pytest.approx(spearmanr(predicted, true)[0])


def test_the_truth_itself_is_without_fault_and_its_negative_all_fault():
    _, true = drawn(0)
    found = judging.judged(true, true, EFFECT)
    assert found == pytest.approx(
        {"rank": 1, "top_20": 1, "top_100": 1, "signs": 0, "slope": 1}, abs=1e-6
    )
    turned = judging.judged(-2 * true, true, EFFECT)
    assert turned["rank"] == pytest.approx(-1)
    assert turned["top_20"] == 0
    assert turned["signs"] == 1
    assert turned["slope"] == pytest.approx(-0.5)


def test_order_without_size_has_a_wrong_slope_alone():
    _, true = drawn(1)
    found = judging.judged(4 * true, true, EFFECT)
    assert (found["rank"], found["top_100"], found["signs"]) == pytest.approx((1, 1, 0))
    assert found["slope"] == pytest.approx(0.25)


def test_recall_counts_what_both_have_first():
    true = np.array([5.0, 4, 3, 2, 1, 0])
    predicted = np.array([1.0, 0, 9, 8, 7, 6])
    assert judging.recall(predicted, true, 3) == pytest.approx(1 / 3)
    assert judging.recall(predicted, true, 5) == pytest.approx(4 / 5)
    assert np.isnan(judging.recall(predicted, true, 6))  # of all, all are found


@pytest.mark.parametrize("k", [0, 1, 2, 7, 50, 119, 120, 500])
@pytest.mark.parametrize("levels", [1, 2, 5, 10_000])
def test_the_first_are_those_of_a_stable_sort_ties_by_their_place(levels, k):
    rng = np.random.default_rng(levels)
    values = rng.integers(levels, size=120).astype(np.float32)
    for each in (values, np.where(rng.random(120) < 0.3, -np.inf, values), values.astype(int)):
        expected = sorted(range(120), key=lambda place: (-each[place], place))[:k]
        assert judging.first(each, k).tolist() == expected


def test_what_is_no_number_comes_last():
    values = np.array([np.nan, 1, np.nan, 3, 1], np.float32)
    for k, expected in {1: [3], 2: [3, 1], 3: [3, 1, 4], 4: [3, 1, 4, 0]}.items():
        assert judging.first(values, k).tolist() == expected


def test_signs_are_asked_of_those_that_cost_the_noun_alone():
    true = np.array([3.0, 2, 1, -1, -2])
    predicted = np.array([1.0, -1, 0, -5, -5])
    assert judging.sign_errors(predicted, true, 3) == pytest.approx(2 / 3)
    assert judging.sign_errors(predicted, true, 5) == pytest.approx(2 / 3)
    assert np.isnan(judging.sign_errors(predicted, -np.ones(5), 3))


def test_what_a_score_does_not_claim_it_is_not_asked_for():
    predicted, true = drawn(2)
    signed = judging.judged(predicted, true, Score(lambda *_: None))
    assert np.isnan(signed["slope"])
    assert signed["signs"] == signed["signs"]
    order = judging.judged(predicted, true, Score(lambda *_: None, signed=False))
    assert np.isnan(order["signs"])
    assert np.isnan(judging.judged(np.ones_like(true), true, EFFECT)["rank"])
    assert np.isnan(judging.judged(np.zeros_like(true), true, EFFECT)["slope"])


def test_units_without_a_truth_do_not_count():
    predicted, true = drawn(3)
    sampled = true.copy()
    sampled[:, 30:] = np.nan
    found = judging.judged(predicted, sampled, EFFECT)
    alone = judging.judged(predicted[:, :30], true[:, :30], EFFECT)
    assert found == pytest.approx(alone)
    changed = np.where(np.isnan(sampled), 99, predicted)
    assert judging.judged(changed, sampled, EFFECT) == pytest.approx(alone)
    ordered = judging.orders({("all", "x"): changed}, sampled, sampled, "all", 500)
    assert len(ordered["x"]) == len(ordered["exact"]) == 120
    assert all(neuron.unit < 30 for neuron in ordered["x"])


def test_orders_are_by_address_and_of_the_question_asked():
    losses = np.array([[0.1, 0.5], [0.4, 0.2]])
    fields = {("all", "x"): -losses, ("step", "x"): losses, ("all", "same"): np.ones((2, 2))}
    ordered = judging.orders(fields, losses, -losses, "all", 3)
    assert ordered["exact_logit"] == [Neuron(0, 1), Neuron(1, 0), Neuron(1, 1)]
    assert ordered["exact"] == ordered["x"]
    assert ordered["x"] == [Neuron(0, 0), Neuron(1, 1), Neuron(1, 0)]
    assert ordered["same"] == [Neuron(0, 0), Neuron(0, 1), Neuron(1, 0)]
    labels, sets = judging.curve_sets(ordered, [1, 3])
    assert labels[:2] == [("exact", 1), ("exact", 3)]
    assert sets[1] == tuple(ordered["exact"])
    for ks in ([], [0, 1], [4]):
        with pytest.raises(ValueError, match="1 to 3"):
            judging.curve_sets(ordered, ks)


def test_what_cannot_be_judged_is_refused():
    predicted, true = drawn(4)
    with pytest.raises(ValueError, match=r"\(4, 60\)"):
        judging.judged(predicted[:, :5], true, EFFECT)
    with pytest.raises(ValueError, match="no unit has a truth"):
        judging.judged(predicted, np.full_like(true, np.nan), EFFECT)
