"""Layers that mix tokens by a recurrence or a convolution: caches cut, branched and padded."""

from __future__ import annotations

import copy

import pytest
import torch

from mmn_utils.models.past import StateLayer
from tests.models.auto.families.checks import sweep_cuts_the_cache
from tests.models.auto.families.table import system_of
from tests.tiny import tiny_images

mixed = pytest.mark.parametrize("name", ["qwen3_5", "lfm2_vl"])


@mixed
def test_each_layer_has_the_path_of_what_mixes_there(name):
    model = system_of(name)
    first, second = model.architecture.attention
    assert first.partition(".")[0] in ("linear_attn", "conv")
    assert second.partition(".")[0] == "self_attn"
    assert model.language_model.paths.mixing == (0,)
    assert model.attention_module(0) is model.layer(0).get_submodule(first)


@mixed
@torch.no_grad()
def test_sweeps_take_a_step_back(name):
    sweep_cuts_the_cache(system_of(name), 0)


@mixed
@torch.no_grad()
def test_a_branch_of_the_cache_goes_on_by_itself(name):
    model, images = system_of(name), tiny_images(2)
    prompt = model.prompt(images)
    logits, past = model.forward(prompt, use_cache=True)
    branch = copy.copy(past)
    branch.layers = [copy.copy(layer) for layer in past.layers]
    longer = prompt.extend(model.embed(logits.argmax(-1, keepdim=True)))
    expected = model.forward(longer)[0]
    for one in (branch, past):
        mine = model.forward(longer.tail(1), past=one, use_cache=True)[0]
        torch.testing.assert_close(mine, expected, atol=2e-5, rtol=1e-4)
    assert isinstance(past.layers[0], StateLayer)


@mixed
@torch.no_grad()
def test_padding_before_a_token_is_refused(name):
    model, images = system_of(name), tiny_images(2)
    prompt = model.prompt(images)
    more = model.embed(torch.tensor([[4, 5], [4, 5]]))
    mask = torch.tensor([[0, 1], [1, 1]])
    with pytest.raises(ValueError, match="lets layers without attention read padding"):
        model.forward(prompt.extend(more, mask))
