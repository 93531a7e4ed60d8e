"""Ablation and its receipts."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from mmn_utils.interventions import activations
from mmn_utils.interventions.ablation import Ablation, ablate, unit_means
from mmn_utils.interventions.receipts import NothingTouched, weights_hash
from mmn_utils.models.capture import capture
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import teacher_forced
from tests.interventions.rows import IMAGES, NEURONS
from tests.tiny import tiny_limber


@contextmanager
def no_hooks(*_, **__):
    """Stand in for ``replace`` and do nothing: what a broken hook would be."""
    yield


def hooks(model) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.language_model.modules()
    )


def test_ablated_neurons_write_nothing(model, prompt):
    with ablate(model, Ablation(NEURONS)) as receipt, capture(model, "activation") as seen:
        without, _ = model.forward(prompt)
    gptj = model.language_model
    kept = [gptj.transformer.h[n.layer].mlp.fc_out.weight[:, n.unit].clone() for n in NEURONS]
    try:
        with torch.no_grad():
            for n in NEURONS:
                gptj.transformer.h[n.layer].mlp.fc_out.weight[:, n.unit] = 0
        expected, _ = model.forward(prompt)
    finally:
        with torch.no_grad():
            for n, column in zip(NEURONS, kept, strict=True):
                gptj.transformer.h[n.layer].mlp.fc_out.weight[:, n.unit] = column
    torch.testing.assert_close(without, expected, atol=1e-5, rtol=1e-5)
    assert receipt.touched == len(NEURONS) * prompt.embeds.shape[1]
    assert all(not seen.values[n.layer][..., n.unit].any() for n in NEURONS)


def test_the_receipt_tells_what_happened(model, prompt):
    with capture(model, "activation") as seen:
        logits, _ = model.forward(prompt)
    before = generate(model, prompt, 4)
    with ablate(model, Ablation(NEURONS), prompt=prompt, max_new_tokens=4) as receipt:
        without, _ = model.forward(prompt)
        after = generate(model, prompt, 4)
    assert receipt.neurons == NEURONS
    assert receipt.positions == "all"
    assert receipt.value == 0
    assert receipt.logit_change == pytest.approx((without - logits).abs().max().item(), rel=1e-5)
    assert receipt.caption_before == (before[0].text,)
    assert receipt.caption_after == (after[0].text,)
    assert receipt.caption_changed == (before != after)
    assert receipt.weights_before == receipt.weights_after == weights_hash(model, [0, 2])
    with ablate(model, Ablation(NEURONS[:1])) as single:
        model.forward(prompt)
    assert single.activation_change == pytest.approx(seen.values[0][..., 3].abs().mean().item())
    assert single.logit_change is None
    assert single.caption_changed is None


@pytest.mark.parametrize("positions", ["image", "generated"])
def test_only_the_positions_asked_are_touched(model, prompt, positions):
    length, span = prompt.embeds.shape[1], model.image_tokens.count
    forced = teacher_forced(model, prompt, [(5, 9, 11)])
    touched = range(span) if positions == "image" else range(length, length + 3)
    ablation = Ablation(NEURONS, positions)
    with ablate(model, ablation, prompt_length=length) as receipt, capture(model) as seen:
        model.forward(forced)
    with capture(model) as whole:
        model.forward(forced)
    for neuron in NEURONS:
        values = seen.values[neuron.layer][0, :, neuron.unit]
        assert not values[list(touched)].any()
        assert values[[p for p in range(length + 3) if p not in touched]].all()
    first = NEURONS[0]
    others = [u for u in range(128) if u not in (3, 77, 120)]
    assert torch.equal(
        seen.values[first.layer][..., others], whole.values[first.layer][..., others]
    )
    assert receipt.touched == len(NEURONS) * len(touched)


@pytest.mark.parametrize("positions", ["all", "image", "generated"])
def test_positions_are_kept_in_step_with_the_cache(model, prompt, positions):
    ids = [5, 9, 11]
    length = prompt.embeds.shape[1]
    with ablate(model, Ablation(NEURONS, positions)) as receipt:  # learns the prompt's length
        logits, past = model.forward(prompt, use_cache=True)
        longer = prompt
        for token in ids:
            longer = longer.extend(model.embed(torch.tensor([[token]])))
            logits, past = model.forward(longer.tail(1), past=past, use_cache=True)
    with ablate(model, Ablation(NEURONS, positions), prompt_length=length) as whole:
        expected, _ = model.forward(teacher_forced(model, prompt, [ids]))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert receipt.touched == whole.touched


def test_the_mean_stands_in_for_the_activation(model, prompt, means):
    with capture(model, "activation") as seen:
        model.forward(model.prompt(IMAGES))
    span = model.image_tokens.count
    for layer in range(model.sizes.layers):
        torch.testing.assert_close(
            means[layer], seen.values[layer][:, :span].mean((0, 1)), atol=1e-6, rtol=1e-5
        )
    ablation = Ablation(NEURONS, "image", "mean", means)
    with ablate(model, ablation), capture(model) as seen:
        model.forward(prompt)
    for n in NEURONS:
        expected = means[n.layer][n.unit].expand(span)
        torch.testing.assert_close(seen.values[n.layer][0, :span, n.unit], expected)


def test_ablating_twice_is_ablating_once(model, prompt):
    with ablate(model, Ablation(NEURONS)):
        once, _ = model.forward(prompt)
        with ablate(model, Ablation(NEURONS)) as receipt:
            twice, _ = model.forward(prompt)
    assert torch.equal(once, twice)
    assert receipt.activation_change == 0
    assert receipt.touched > 0


def test_what_was_ablated_comes_back_bit_for_bit(model, prompt):
    hash_before, hooks_before = weights_hash(model), hooks(model)
    before, _ = model.forward(prompt)
    with ablate(model, Ablation(NEURONS)):
        assert not torch.equal(model.forward(prompt)[0], before)
    assert torch.equal(model.forward(prompt)[0], before)
    assert weights_hash(model) == hash_before
    assert hooks(model) == hooks_before


def test_an_error_inside_passes_through_and_leaves_no_hooks(model, prompt):
    before, _ = model.forward(prompt)
    with pytest.raises(KeyError, match="mine"), ablate(model, Ablation(NEURONS)):
        raise KeyError("mine")
    assert hooks(model) == 0
    assert torch.equal(model.forward(prompt)[0], before)


def test_an_ablation_that_touches_nothing_raises(model, prompt, monkeypatch):
    with pytest.raises(NothingTouched, match="6 neurons"), ablate(model, Ablation(NEURONS)):
        pass
    generated = Ablation(NEURONS, "generated")
    with pytest.raises(NothingTouched, match="generated"), ablate(model, generated):
        model.forward(prompt)
    monkeypatch.setattr(activations, "replace", no_hooks)
    with pytest.raises(NothingTouched), ablate(model, Ablation(NEURONS)):
        model.forward(prompt)
    assert hooks(model) == 0


def test_weights_that_changed_meanwhile_are_noticed():
    model = tiny_limber()
    with torch.no_grad():
        prompt = model.prompt(IMAGES[:1])
    weight = model.act_module(0).weight.detach()
    with pytest.raises(RuntimeError, match="weights changed"), ablate(model, Ablation(NEURONS)):
        weight[0, 0] += float(model.forward(prompt)[0].abs().max())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"positions": "caption"}, "'caption'"),
        ({"value": "median"}, "'median'"),
        ({"value": "mean"}, "unit_means"),
    ],
)
def test_bad_ablations_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        Ablation(NEURONS, **arguments)


def test_neurons_that_are_not_there_are_named(model, prompt):
    with pytest.raises(ValueError, match=r"L0\.u128"), ablate(model, Ablation((Neuron(0, 128),))):
        pass
    with pytest.raises(ValueError, match="at least one"), ablate(model, Ablation(())):
        pass
    with pytest.raises(ValueError, match="0 images"):
        unit_means(model, [])
