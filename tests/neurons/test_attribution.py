"""Attribution against Captum, finite differences and the whole field."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import LayerGradientXActivation
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.neurons.activation import activation_baseline
from mmn_utils.neurons.attribution import (
    attribution,
    attribution_layers_field,
    attributions,
    backward,
)
from mmn_utils.neurons.targets import objective, teacher_forced
from tests.neurons.one_each import IMAGES, KINDS, TARGETS, alone, brute
from tests.tiny import tiny_limber


@contextmanager
def scaled(module, cell, factor: float):
    """Scale one entry of a module's output."""

    def hook(module, args, output):
        output = output.clone()
        output[cell] *= factor
        return output

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", range(len(TARGETS)))
def test_attribution_is_captums_layer_gradient_times_activation(model, prompt, row, kind):
    single = alone(model, prompt, row)

    def forward(embeds):
        out = model.language_model(
            inputs_embeds=embeds, attention_mask=single.mask, position_ids=single.positions
        )
        logits = out.logits[:, -1, : model.sizes.vocabulary]
        return logits.softmax(-1) if kind == "probability" else logits

    field = attribution_layers_field(model, prompt, TARGETS, target=kind)
    span = model.image_tokens
    for layer in range(model.sizes.layers):
        captum = LayerGradientXActivation(forward, model.pre_module(layer))
        expected = captum.attribute(single.embeds.clone(), target=TARGETS[row].token)
        expected = expected[0, span.start : span.start + span.count].detach()
        torch.testing.assert_close(field[layer][row], expected, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_attribution_is_the_slope_of_finite_differences(kind):
    model = tiny_limber()
    with torch.no_grad():
        prompt = model.prompt(IMAGES)
    model.language_model.double()
    prompt = type(prompt)(prompt.embeds.double(), prompt.mask, prompt.positions)
    field = attribution_layers_field(model, prompt, TARGETS, target=kind)
    forced = teacher_forced(model, prompt, [t.prefix for t in TARGETS])

    def y(layer, cell, factor):
        with torch.no_grad(), scaled(model.pre_module(layer), cell, factor):
            logits, _ = model.forward(forced)
        chosen = logits if kind == "logit" else logits.softmax(-1)
        return chosen[cell[0], TARGETS[cell[0]].token].item()

    step = 1e-3  # transformers computes GPT-J's attention weights in float32 whatever the model's
    for layer, row in [(0, 0), (0, 2), (1, 1), (1, 3)]:
        strongest = field[layer][row].abs().flatten().topk(4).indices.tolist()
        for place in [*strongest, 77]:
            patch, unit = divmod(place, model.sizes.units)
            cell = (row, model.image_tokens.start + patch, unit)
            slope = (y(layer, cell, 1 + step) - y(layer, cell, 1 - step)) / (2 * step)
            mine = field[layer][row, patch, unit].item()
            largest = field[layer][row].abs().max().item()
            assert mine == pytest.approx(slope, rel=2e-3, abs=1e-3 * largest)


def test_the_last_layer_does_nothing_at_image_patches(model, prompt):
    field = attribution_layers_field(model, prompt, TARGETS)
    assert not field[model.sizes.layers - 1].any()
    assert field[0].any()


def test_several_rankings_come_off_one_backward_pass(model):
    found = attributions(model, IMAGES, TARGETS, k=6, ranks=("max", "sum", "pair"))
    for rank, table in found.items():
        expected = attribution(model, IMAGES, TARGETS, k=6, rank_by=rank)
        pd.testing.assert_frame_equal(table, expected)


@pytest.mark.parametrize("rank_by", ["max", "sum", "pair"])
def test_a_batch_gives_what_single_images_give(model, rank_by):
    k = 30
    together = attribution(model, IMAGES, TARGETS, k=k, rank_by=rank_by)
    singles = pd.concat(
        attribution(model, [image], [target], k=k, rank_by=rank_by)
        for image, target in zip(IMAGES, TARGETS, strict=True)
    )
    keys = ["image", "layer", "unit", "patch"]
    joined = together.merge(singles, on=keys, suffixes=("", "_single"))
    assert len(joined) == len(together) == k * len(IMAGES)
    np.testing.assert_allclose(joined.score, joined.score_single, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("rank_by", ["max", "sum", "pair"])
def test_ranks_are_those_of_the_whole_field(model, prompt, rank_by):
    table = attribution(model, IMAGES, TARGETS, k=25, rank_by=rank_by)
    field = attribution_layers_field(model, prompt, TARGETS)
    for row, target in enumerate(TARGETS):
        mine = table[table.image == target.image]
        assert set(mine.target) == {target.noun}
        assert set(mine.token) == {target.token}
        expected = brute(field, row, rank_by)[:25]
        np.testing.assert_allclose(mine.score, [e[0] for e in expected], rtol=1e-5)
        assert list(zip(mine.layer, mine.unit, mine.patch, strict=True)) == [
            e[1:] for e in expected
        ]


def test_more_than_there_are_is_all_there_are(model):
    table = attribution(model, IMAGES[:1], TARGETS[:1], k=10_000)
    assert len(table) == model.sizes.layers * model.sizes.units
    assert not table.duplicated(["layer", "unit"]).any()


def test_what_is_spared_at_the_image_has_no_gradient(model, prompt):
    """All the image's positions, asked for by number, are computed in every layer."""
    numbered = list(range(model.image_tokens.count))
    spared = attribution_layers_field(model, prompt, TARGETS)
    whole = attribution_layers_field(model, prompt, TARGETS, positions=numbered)
    last = model.sizes.layers - 1
    assert not spared[last].any()
    for layer in spared:
        torch.testing.assert_close(spared[layer], whole[layer], atol=1e-7, rtol=1e-5)


def test_other_positions_can_be_asked(model, prompt):
    last = prompt.embeds.shape[1] - 1
    table = attribution(model, IMAGES, TARGETS, k=5, positions=[last, 0])
    assert set(table.patch) == {0, 1}
    field = attribution_layers_field(model, prompt, TARGETS, positions=[last])
    top = model.sizes.layers - 1  # there only the position that predicts the target counts
    assert field[top][0].any()
    assert not field[top][1].any()
    assert field[0][1].any()
    ends = attribution_layers_field(model, prompt, TARGETS, positions=slice(0, 1))
    whole = attribution_layers_field(model, prompt, TARGETS)
    torch.testing.assert_close(ends[0], whole[0][:, :1])
    with pytest.raises(ValueError, match=f"0 to {last}"):
        attribution(model, IMAGES, TARGETS, positions=[last + 1])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 2))
def test_shuffling_units_permutes_scores(seed, layer):
    model, shuffled = tiny_limber(), tiny_limber()
    order = torch.randperm(model.sizes.units, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        before, after = shuffled.pre_module(layer), shuffled.act_module(layer)
        before.weight.copy_(before.weight[order].clone())
        before.bias.copy_(before.bias[order].clone())
        after.weight.copy_(after.weight[:, order].clone())
        prompt = model.prompt(IMAGES[:2])
    plain, mixed = (attribution_layers_field(m, prompt, TARGETS[:2]) for m in (model, shuffled))
    torch.testing.assert_close(mixed[layer], plain[layer][..., order], atol=1e-5, rtol=1e-4)


def test_gradients_reach_activations_only_and_hooks_leave_no_trace():
    model = tiny_limber()
    model.language_model.requires_grad_(True)  # as a model someone else has prepared
    with torch.no_grad():
        prompt = model.prompt(IMAGES)
        before, _ = model.forward(prompt)
    attribution(model, IMAGES, TARGETS, k=3)
    assert all(p.grad is None for p in model.language_model.parameters())
    for module in model.language_model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    with torch.no_grad():
        assert torch.equal(before, model.forward(prompt)[0])


def test_attribution_works_where_gradients_are_switched_off(model):
    with torch.no_grad():
        quiet = attribution(model, IMAGES, TARGETS, k=3)
    pd.testing.assert_frame_equal(quiet, attribution(model, IMAGES, TARGETS, k=3))


def test_fields_are_handed_over_once_per_layer_and_y_comes_back(model, prompt):
    seen = []

    def consume(layer, field, activation):
        assert (activation is None) == (layer == model.sizes.layers - 1)  # spared at the image
        assert activation is None or activation.shape == field.shape
        seen.append((layer, field.shape))

    y = backward(model, prompt, TARGETS, consume)
    shape = (4, model.image_tokens.count, model.sizes.units)
    assert sorted(seen) == [(layer, shape) for layer in range(model.sizes.layers)]
    logits, _ = model.forward(teacher_forced(model, prompt, [t.prefix for t in TARGETS]))
    torch.testing.assert_close(y, objective(logits, TARGETS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("bad", "said"), [({"k": 0}, "k=0"), ({"rank_by": "mean"}, "'mean'"), ({"target": "p"}, "'p'")]
)
def test_bad_arguments_are_named(model, bad, said):
    with pytest.raises(ValueError, match=said):
        attribution(model, IMAGES, TARGETS, **bad)


def test_images_and_targets_must_match(model):
    with pytest.raises(ValueError, match="4 prompts for 1 targets"):
        attribution(model, IMAGES, TARGETS[:1])
    with pytest.raises(ValueError, match="no images"):
        attribution(model, [], [])
    with pytest.raises(ValueError, match="4 prompts for 1 targets"):
        activation_baseline(model, IMAGES, TARGETS[:1])
