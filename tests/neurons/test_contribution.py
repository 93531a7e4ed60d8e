"""Contribution scores against the whole product, the MLP's own output, and the logits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mmn_utils.neurons.activation import last_activation
from mmn_utils.neurons.contribution import contribution, contribution_layers_field, unembedding_rows
from mmn_utils.neurons.final_norm import frozen_norm
from mmn_utils.neurons.targets import Target, at_steps, objective
from tests.neurons.every_noun import FIRST, IMAGES, ROWS, SECOND, TARGETS, alone, check, last
from tests.tiny import tiny_limber
from tests.tiny_gated import TinyGated


def test_all_nouns_of_a_caption_come_from_one_pass(any_model):
    rows = []
    hook = any_model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    try:
        together = contribution(any_model, IMAGES, TARGETS, k=20)
    finally:
        hook.remove()
    assert rows == [ROWS]
    singles = pd.concat(
        contribution(any_model, [image], [target], k=20)
        for image, target in zip(IMAGES, TARGETS, strict=True)
    )
    keys = ["image", "target", "token", "layer", "unit"]
    joined = together.merge(singles, on=keys, suffixes=("", "_single"))
    assert len(joined) == len(together) == 20 * len(TARGETS)
    np.testing.assert_allclose(joined.score, joined.score_single, rtol=1e-3, atol=1e-5)


def check_products(model, mode: str, place: str) -> None:
    """Compare scores with columns of the product of all write vectors and all tokens."""
    table = contribution(model, IMAGES, TARGETS, k=15, activation=mode)
    weight, _ = model.unembedding
    for target in TARGETS:
        seen = last(model, target, place)
        products = {i: weight @ model.write_vectors(i).T for i in seen}  # (V, units), all of it
        check(table, target, {i: products[i][target.token] * a for i, a in seen.items()}, 15)


def test_scores_are_columns_of_the_whole_product(any_model):
    check_products(any_model, "gated", "activation")


def test_scores_of_the_gate_alone_are_columns_of_the_whole_product(gated):
    check_products(gated, "gate", "gate")


class Watcher(TorchDispatchMode):
    """Note which operators run and the size of the largest result."""

    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        parts = out if isinstance(out, (tuple, list)) else [out]
        sizes = [part.numel() for part in parts if isinstance(part, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        self.names.add(func.overloadpacket._qualified_op_name)
        return out


def test_the_product_with_the_vocabulary_is_never_formed_and_nothing_is_sorted(gated):
    with Watcher() as seen:
        contribution(gated, IMAGES, TARGETS, k=10, contribution_norm="final")
    assert 0 < seen.largest < gated.sizes.units * gated.sizes.vocabulary
    assert "aten::topk" in seen.names
    assert not {name for name in seen.names if "sort" in name}


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 2))
def test_shuffling_units_permutes_contributions(seed, layer):
    model, mixed = TinyGated(), TinyGated()
    mixed.projection, mixed.places = model.projection, model.places
    order = torch.randperm(model.sizes.units, generator=torch.Generator().manual_seed(seed))
    block = mixed.layer(layer).mlp
    with torch.no_grad():
        block.gate_proj.weight.copy_(block.gate_proj.weight[order].clone())
        block.up_proj.weight.copy_(block.up_proj.weight[order].clone())
        block.down_proj.weight.copy_(block.down_proj.weight[:, order].clone())
    before, after = (contribution_layers_field(m, IMAGES, TARGETS) for m in (model, mixed))
    torch.testing.assert_close(after[layer], before[layer][:, order], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def written(model, target: Target) -> torch.Tensor:
    """Add up what all MLPs write at the last token, but for their biases: (d)."""
    total, hooks = [], []
    for layer in range(model.sizes.layers):
        module = model.act_module(layer)
        bias = 0 if module.bias is None else module.bias
        hooks.append(
            module.register_forward_hook(lambda m, i, out, bias=bias: total.append(out - bias))
        )
    try:
        model.forward(alone(model, target))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(total)[0, -1]


def test_gated_contributions_add_up_to_what_the_mlps_write(any_model):
    field = contribution_layers_field(any_model, IMAGES, TARGETS)
    weight, _ = any_model.unembedding
    for row, target in enumerate(TARGETS):
        whole = weight[target.token] @ written(any_model, target)
        mine = sum(values[row].sum() for values in field.values())
        torch.testing.assert_close(mine, whole, atol=1e-4, rtol=1e-4)


def test_gate_contributions_do_not_add_up(gated):
    field = contribution_layers_field(gated, IMAGES, TARGETS, activation="gate")
    weight, _ = gated.unembedding
    for row, target in enumerate(TARGETS):
        whole = weight[target.token] @ written(gated, target)
        mine = sum(values[row].sum() for values in field.values())
        assert abs(mine - whole) > 0.1 * abs(whole)


def test_final_contributions_are_shares_of_the_logit(any_model):
    """What the MLPs write and all the rest, through the frozen norm, are the logit."""
    norm = frozen_norm(any_model, "final")
    rows = unembedding_rows(any_model, TARGETS, norm)
    field = contribution_layers_field(any_model, IMAGES, TARGETS, contribution_norm="final")
    residual = at_steps(any_model, IMAGES, TARGETS, lambda layer, activation: None)
    weight, bias = any_model.unembedding
    for row, target in enumerate(TARGETS):
        rest = residual[row] - written(any_model, target)
        logit = sum(values[row].sum() for values in field.values())
        logit = logit + rows[row] @ rest / norm.scale(residual)[row]
        logit = logit + weight[target.token] @ norm.shift
        logit = logit + (0 if bias is None else bias[target.token])
        with torch.no_grad():
            true = objective(any_model.forward(alone(any_model, target))[0], [target])[0]
        torch.testing.assert_close(logit, true, atol=2e-4, rtol=2e-4)


def test_final_scores_are_the_top_of_the_final_field(any_model):
    table = contribution(any_model, IMAGES, TARGETS, k=12, contribution_norm="final")
    field = contribution_layers_field(any_model, IMAGES, TARGETS, contribution_norm="final")
    for row, target in enumerate(TARGETS):
        check(table, target, {layer: values[row] for layer, values in field.items()}, 12)
    plain = contribution(any_model, IMAGES, TARGETS, k=12)
    assert not np.allclose(plain.score, table.score, rtol=0.1)


def test_a_prompt_padded_at_its_end_is_read_at_its_last_real_token(gated):
    with torch.no_grad():
        prompt = gated.prompt([FIRST])
        padded = prompt.extend(torch.randn(1, 3, gated.sizes.width), torch.zeros(1, 3))
    for target in (TARGETS[2], TARGETS[3]):  # without and with a caption before it
        pd.testing.assert_frame_equal(
            contribution(gated, padded, [target], k=9), contribution(gated, prompt, [target], k=9),
            atol=1e-4, rtol=1e-3,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"activation": "both"}, "'both'"),
        ({"contribution_norm": "rms"}, "'rms'"),
        ({"k": 0}, "k=0"),
    ],
)
def test_bad_switches_are_named(gated, bad, said):
    with pytest.raises(ValueError, match=said):
        contribution(gated, IMAGES, TARGETS, **bad)


def test_bad_input_is_named(gated):
    with pytest.raises(ValueError, match="no gate"):
        contribution(tiny_limber(), IMAGES, TARGETS, activation="gate")
    with pytest.raises(ValueError, match="'a' is two pictures"):
        contribution(gated, [FIRST, SECOND], [TARGETS[0], TARGETS[2]])
    with torch.no_grad():
        prompt = gated.prompt([FIRST, SECOND])
    with pytest.raises(ValueError, match="'a' is two pictures"):
        contribution(gated, prompt, [TARGETS[0], TARGETS[2]])
    with pytest.raises(ValueError, match="vocabulary"):
        contribution(gated, [FIRST], [Target("a", "x", gated.sizes.vocabulary, ())])
    with pytest.raises(ValueError, match="1 prompts for 7 targets"):
        contribution(gated, [FIRST], TARGETS)
    with pytest.raises(ValueError, match="no images"):
        last_activation(gated, [], [])


def test_hooks_leave_no_trace():
    model = TinyGated()
    contribution(model, IMAGES, TARGETS, k=3, contribution_norm="final")
    with pytest.raises(ZeroDivisionError):
        at_steps(model, IMAGES, TARGETS, lambda layer, activation: 1 / 0 if layer else None)
    for module in model.language_model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
