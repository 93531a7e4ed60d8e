"""Scaling and its receipts, against write vectors that were made longer."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.interventions.receipts import NothingTouched, weights_hash
from mmn_utils.interventions.scaling import LEAST, MOST, Scaling, scale
from mmn_utils.models.capture import capture
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import teacher_forced
from tests.interventions.rows import IMAGES, NEURONS
from tests.tiny_gated import TinyGated

FACTORS = st.floats(LEAST, MOST, width=32).filter(lambda factor: factor != 1)


@contextmanager
def longer(model, neurons, factor):
    """Multiply write vectors, which at the same activation write as much more."""
    kept = {n: model.write_vectors(n.layer)[n.unit].clone() for n in neurons}
    try:
        with torch.no_grad():
            for n in neurons:
                model.write_vectors(n.layer)[n.unit] *= factor
        yield
    finally:
        with torch.no_grad():
            for n, vector in kept.items():
                model.write_vectors(n.layer)[n.unit] = vector


@given(FACTORS)
@settings(max_examples=20)
def test_a_scaled_neuron_is_one_with_a_scaled_write_vector(model, prompt, factor):
    with scale(model, Scaling(NEURONS, factor), hash_weights=False):
        scaled, _ = model.forward(prompt)
    with longer(model, NEURONS, factor):
        expected, _ = model.forward(prompt)
    torch.testing.assert_close(scaled, expected, atol=1e-5, rtol=1e-5)


@given(FACTORS, FACTORS)
@settings(max_examples=10)
def test_contexts_multiply(model, prompt, first, second):
    one = [NEURONS[0]]
    with capture(model) as plain:
        model.forward(prompt)
    outer, inner = (scale(model, Scaling(one, f), hash_weights=False) for f in (first, second))
    with outer, inner, capture(model) as seen:
        model.forward(prompt)
    layer, unit = one[0].layer, one[0].unit
    expected = plain.values[layer][..., unit] * first * second
    torch.testing.assert_close(seen.values[layer][..., unit], expected)


def test_zero_is_ablation(model, prompt):
    with scale(model, Scaling(NEURONS, 0)):
        scaled, _ = model.forward(prompt)
    with ablate(model, Ablation(NEURONS)):
        ablated, _ = model.forward(prompt)
    assert torch.equal(scaled, ablated)


def test_gated_activations_are_scaled_too():
    model = TinyGated()
    neurons = [Neuron(0, 3), Neuron(2, 40)]
    prompt = model.prompt(IMAGES[:1])
    with scale(model, Scaling(neurons, -1.5)):
        scaled, _ = model.forward(prompt)
    with longer(model, neurons, -1.5):
        expected, _ = model.forward(prompt)
    torch.testing.assert_close(scaled, expected, atol=1e-5, rtol=1e-5)


def test_the_receipt_tells_what_happened(model, prompt):
    with capture(model, "activation") as seen:
        logits, _ = model.forward(prompt)
    before, whole = generate(model, prompt, 4), weights_hash(model)
    with scale(model, Scaling(NEURONS[:1], 3), prompt=prompt, max_new_tokens=4) as full:
        scaled, _ = model.forward(prompt)
        after = generate(model, prompt, 4)
    assert (full.neurons, full.positions, full.factor) == (NEURONS[:1], "all", 3)
    assert full.logit_change == pytest.approx((scaled - logits).abs().max().item(), rel=1e-5)
    assert full.caption_before == (before[0].text,)
    assert full.caption_after == (after[0].text,)
    assert full.weights_before == full.weights_after == weights_hash(model, [0])
    with scale(model, Scaling(NEURONS[:1], 3)) as single:
        model.forward(prompt)
    assert single.touched == prompt.embeds.shape[1]
    change = 2 * seen.values[0][..., NEURONS[0].unit].abs().mean().item()
    assert single.activation_change == pytest.approx(change, rel=1e-5)
    assert weights_hash(model) == whole


@pytest.mark.parametrize("positions", ["image", "generated"])
def test_only_the_positions_asked_are_scaled(model, prompt, positions):
    length, span, n = prompt.embeds.shape[1], model.image_tokens.count, NEURONS[0]
    forced = teacher_forced(model, prompt, [(5, 9, 11)])
    touched = list(range(span) if positions == "image" else range(length, length + 3))
    scaling = Scaling([n], 2, positions)
    with scale(model, scaling, prompt_length=length), capture(model, layers=[n.layer]) as seen:
        model.forward(forced)
    with capture(model, layers=[n.layer]) as whole:
        model.forward(forced)
    ratio = seen.values[n.layer][0, :, n.unit] / whole.values[n.layer][0, :, n.unit]
    expected = torch.ones(length + 3)
    expected[touched] = 2
    torch.testing.assert_close(ratio, expected)


@pytest.mark.parametrize("factor", [1, 1.0, -2.01, 3.5, float("nan"), float("inf")])
def test_factors_that_are_none_are_named(factor):
    with pytest.raises(ValueError, match=f"factor={factor}"):
        Scaling(NEURONS, factor)


def test_what_cannot_be_scaled_is_named(model, prompt):
    with pytest.raises(ValueError, match="at least one"), scale(model, Scaling((), 2)):
        pass
    with pytest.raises(ValueError, match=r"L0\.u128"), scale(model, Scaling([Neuron(0, 128)], 2)):
        pass
    with pytest.raises(ValueError, match="'caption'"):
        Scaling(NEURONS, 2, "caption")
    with pytest.raises(NothingTouched, match="6 neurons"), scale(model, Scaling(NEURONS, 2)):
        pass
