"""A sample's intervals against the exhaustive truth: of a tiny system, and of made-up ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.neurons.truth import exact_losses
from mmn_utils.studies.court.sampling import count_of, recall, stratified, total
from tests.neurons.one_each import IMAGES, TARGETS
from tests.tiny import tiny_limber

DRAWS = 400


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """What is lost without each of 384 units: (layers, units)."""
    model = tiny_limber()
    with torch.no_grad():
        prompt = model.prompt(IMAGES[:1])
    return exact_losses(model, prompt, TARGETS[0]).logit.astype(float)


def noisy(truth: np.ndarray, noise: float) -> np.ndarray:
    """Make a score that follows the truth up to a factor; with infinite noise, not at all."""
    rng = np.random.default_rng(3)
    if np.isinf(noise):
        return rng.standard_normal(truth.shape)
    return truth * np.exp(noise * rng.standard_normal(truth.shape))


def coverage(truth: np.ndarray, scores: np.ndarray, estimate, exact, **options) -> float:
    """Return in which share of draws an estimate's interval holds the exact number."""
    rng, held = np.random.default_rng(7), 0
    for _ in range(DRAWS):
        sample = stratified(scores, rng, **options)
        values = np.where(sample.chosen, truth, np.nan)
        wanted = exact(sample)
        held += estimate(sample, values).covers(wanted) or bool(np.isnan(wanted))
    return held / DRAWS


@pytest.mark.parametrize("noise", [0.5, 2.0, np.inf])
def test_intervals_cover_what_all_units_of_a_system_say(truth, noise):
    options, scores = {"top": 30, "each": 32}, noisy(truth, noise)
    strong = float(np.quantile(truth, 0.95))
    rates = {
        "total": coverage(truth, scores, total, lambda _: truth.sum(), **options),
        "size": coverage(
            np.abs(truth), scores, total, lambda _: np.abs(truth).sum(), **options
        ),
        "count": coverage(
            truth, scores, lambda s, v: count_of(s, v, strong),
            lambda _: (truth >= strong).sum(), **options,
        ),
    }  # fmt: skip
    # where the score says nothing, a few large losses among many small ones are in every stratum
    nominal = 0.87 if np.isinf(noise) else 0.9
    assert all(rate >= nominal for rate in rates.values()), rates


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_intervals_of_recall_cover_it(truth, noise):
    strong = float(np.quantile(truth, 0.95))
    rate = coverage(
        truth, noisy(truth, noise), lambda s, v: recall(s, v, strong),
        lambda s: (truth[s.stratum == 0] >= strong).sum() / (truth >= strong).sum(),
        top=30, each=20,
    )  # fmt: skip
    assert rate >= 0.9


def test_estimates_are_right_on_average_and_narrower_than_a_guess(truth):
    scores, rng = noisy(truth, 1.0), np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        sample = stratified(scores, rng, top=30, each=20)
        found.append(total(sample, np.where(sample.chosen, np.abs(truth), np.nan)))
    values = np.array([one.value for one in found])
    exact = np.abs(truth).sum()
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(DRAWS)
    assert np.mean([one.high - one.low for one in found]) < exact


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 60), st.integers(1, 80), st.integers(8, 40), st.data())
def test_strata_hold_each_unit_once_and_all_measured_is_the_truth(layers, units, top, each, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scores, values = rng.standard_normal((2, layers, units))
    sample = stratified(scores, rng, top=top, each=each)
    sizes = np.bincount(sample.stratum.ravel())
    assert sizes.sum() == scores.size
    assert sizes[0] == min(top, scores.size)
    assert sample.chosen[sample.stratum == 0].all()
    for number, size in enumerate(sizes[1:], 1):
        inside = sample.stratum == number
        assert sample.chosen[inside].sum() == min(each, size)
        assert np.abs(scores)[inside].max() <= np.abs(scores)[sample.stratum == number - 1].min()
    assert sum(map(len, sample.units.values())) == sample.chosen.sum()
    whole = stratified(scores, rng, top=top, each=max(8, scores.size))
    found = total(whole, values)
    assert found.low == found.high == found.value == pytest.approx(values.sum())
    assert found.n == scores.size
    share = recall(whole, values, float(values.max()))
    best = whole.stratum.ravel()[values.argmax()] == 0
    assert share.value == share.low == share.high == float(best)


def test_bad_input_is_refused():
    rng, scores = np.random.default_rng(0), np.arange(60.0).reshape(2, 30)
    for options in ({"top": 0}, {"each": 7}, {"growth": 0.5}):
        with pytest.raises(ValueError, match="or more of each stratum"):
            stratified(scores, rng, **options)
    with pytest.raises(ValueError, match="a number for each unit"):
        stratified(np.full((2, 3), np.nan), rng)
    sample = stratified(scores, rng, top=10, each=8)
    with pytest.raises(ValueError, match="was not measured"):
        total(sample, np.full(scores.shape, np.nan))
    with pytest.raises(ValueError, match="for a sample of"):
        total(sample, scores[:1])
    with pytest.raises(ValueError, match="reaches 1000"):
        recall(sample, scores, 1000)
