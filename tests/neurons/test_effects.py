"""What is lost without neurons, against a pass for each of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.models.capture import replace
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.effects import exact_ablation, integrated_gradients, path_field
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import objective, teacher_forced
from tests.neurons.one_each import IMAGES, KINDS, TARGETS, alone, brute
from tests.tiny import tiny_limber


@pytest.mark.parametrize("positions", ["all", "image"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_exact_ablation_is_one_forward_pass_for_each_neuron(model, prompt, positions, batch_size):
    neurons = [Neuron(0, 5), Neuron(2, 99), Neuron(1, 0), Neuron(0, 6), Neuron(1, 127)]
    table = exact_ablation(
        model, prompt.select([1]), TARGETS[1], neurons, positions=positions, batch_size=batch_size
    )
    forced = alone(model, prompt, 1)
    whole = objective(model.forward(forced)[0], TARGETS[1:2])
    count = forced.embeds.shape[1] if positions == "all" else model.image_tokens.count
    for neuron in neurons:

        def zero(activation, unit=neuron.unit):
            activation = activation.clone()
            activation[:, :count, unit] = 0
            return activation

        with replace(model, {neuron.layer: zero}):
            without = objective(model.forward(forced)[0], TARGETS[1:2])
        mine = table[(table.layer == neuron.layer) & (table.unit == neuron.unit)].score.item()
        assert mine == pytest.approx((whole - without).item(), abs=1e-4)
    assert set(table.patch) == {-1}
    assert set(table.image) == {"b"}


def test_attribution_approximates_exact_ablation_of_weak_neurons():
    model = tiny_limber()
    with torch.no_grad():
        for layer in range(model.sizes.layers):
            model.pre_module(layer).weight.mul_(0.02)  # gelu is nearly straight around zero
            model.pre_module(layer).bias.mul_(0.02)
        prompt = model.prompt(IMAGES[:1])
    neurons = [Neuron(layer, unit) for layer in (0, 1) for unit in range(40)]
    truth = exact_ablation(model, prompt, TARGETS[0], neurons, positions="image")
    first = attribution(model, IMAGES[:1], TARGETS[:1], k=1000, rank_by="sum")
    both = truth.merge(first, on=["layer", "unit"])
    assert np.corrcoef(both.score_x, both.score_y)[0, 1] > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_sum_to_what_zeroing_costs(model, prompt, kind):
    field = path_field(model, prompt, TARGETS, steps=24, target=kind)
    total = sum(values.sum((1, 2)) for values in field.values())
    forced = teacher_forced(model, prompt, [t.prefix for t in TARGETS])
    whole = objective(model.forward(forced)[0], TARGETS, kind)
    count = model.image_tokens.count

    def zero(activation):
        return torch.cat([torch.zeros_like(activation[:, :count]), activation[:, count:]], dim=1)

    with replace(model, dict.fromkeys(range(model.sizes.layers), zero)):
        without = objective(model.forward(forced)[0], TARGETS, kind)
    torch.testing.assert_close(total, (whole - without).detach(), atol=2e-4, rtol=1e-2)


def test_integrated_gradients_rank_as_their_field_does(model, prompt):
    table = integrated_gradients(model, IMAGES, TARGETS, k=8, steps=4)
    field = path_field(model, prompt, TARGETS, steps=4)
    for row, target in enumerate(TARGETS):
        mine, expected = table[table.image == target.image], brute(field, row, "max")[:8]
        np.testing.assert_allclose(mine.score, [e[0] for e in expected], rtol=1e-5)
        assert list(zip(mine.layer, mine.unit, mine.patch, strict=True)) == [
            e[1:] for e in expected
        ]


def test_neurons_of_another_model_are_refused(model, prompt):
    with pytest.raises(ValueError, match=r"L9\.u0"):
        exact_ablation(model, prompt.select([0]), TARGETS[0], [Neuron(9, 0)])
    with pytest.raises(ValueError, match="'generated'"):
        exact_ablation(model, prompt.select([0]), TARGETS[0], [Neuron(0, 0)], positions="generated")
