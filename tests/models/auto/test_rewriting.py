"""MLPs written another way compute what they did, and their neurons are those of the plain form."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, Phi3Config

from mmn_utils.models.auto.building import build_auto
from mmn_utils.models.auto.experts import spread_experts
from mmn_utils.models.auto.rewriting import InRows, SplitMLP, split_fused
from mmn_utils.models.capture import capture
from mmn_utils.models.doctor import doctor
from tests.models.auto.families import llava, text_size, tokenizer_with
from tests.models.auto.families.checks import CHECKS
from tests.models.auto.families.table import system_of
from tests.tiny import tiny_images


class Fused(nn.Module):
    """A gated MLP whose gate and up are one linear map."""

    def __init__(self, gate_first: bool, bias: bool) -> None:
        super().__init__()
        self.wi, self.wo = nn.Linear(8, 20, bias=bias), nn.Linear(10, 8)
        self.act, self.drop, self.gate_first = nn.GELU(), nn.Dropout(0.5), gate_first

    def forward(self, x):
        gate, up = self.wi(x).chunk(2, dim=-1)
        gate, up = (gate, up) if self.gate_first else (up, gate)
        return self.drop(self.wo(self.act(gate) * up))


@torch.no_grad()
@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_numbers_say_which_half_is_the_gate(gate_first, bias):
    torch.manual_seed(0)
    mlp, x = Fused(gate_first, bias).eval(), torch.randn(2, 3, 8)
    split = split_fused(mlp)
    torch.testing.assert_close(split(x), mlp(x))
    half = slice(0, 10) if gate_first else slice(10, 20)
    torch.testing.assert_close(split.gate_proj(x), mlp.wi(x)[..., half])
    assert split.gate_proj.weight.data_ptr() == mlp.wi.weight[half].data_ptr()  # no copy
    assert split.down_proj is mlp.wo


def test_what_is_no_fused_gate_is_left():
    assert split_fused(nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 8))) is None
    assert split_fused(nn.Sequential(nn.Linear(8, 20), nn.GLU(), nn.Linear(10, 8))) is None
    assert spread_experts(Fused(True, False)) is None


def text_of(kind, **facts):
    return partial(kind, **{**text_size(tokenizer_with("<image>")), **facts})


TEXTS = {
    "fused gate": text_of(Phi3Config),
    "experts": text_of(MixtralConfig, num_local_experts=3),
}


@pytest.mark.parametrize("name", list(TEXTS))
def test_a_model_around_it_is_sound(name):
    model, processor, facts = llava(TEXTS[name]())
    whole = copy.deepcopy(model)
    system = build_auto(name, model, processor, **facts)
    for one in CHECKS[:3]:
        one(system, whole)
    report = doctor(system, tiny_images(2), ["completeness", "ablate nothing"])
    assert report["passed"].all(), report.to_string()


@torch.no_grad()
def test_gate_and_activation_are_those_of_the_halves():
    model, processor, _ = llava(TEXTS["fused gate"]())
    fused = copy.deepcopy(model.model.language_model.layers[1].mlp)
    system = build_auto("phi3", model, processor)
    mlp = system.layer(1).mlp
    assert isinstance(mlp, SplitMLP)
    read = []
    hook = mlp.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    with capture(system, "pre") as z, capture(system, "gate") as gates, capture(system) as acts:
        system.forward(system.prompt(tiny_images(1)))
    hook.remove()
    gate, up = fused.gate_up_proj(read[0]).chunk(2, dim=-1)
    silu = torch.nn.functional.silu(gate)
    for mine, own in ((z, gate), (gates, silu), (acts, silu * up)):
        torch.testing.assert_close(mine.values[1], own, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_flattened_tokens_are_seen_in_rows():
    system = system_of("blip-2")
    assert isinstance(system.layer(0).fc1, InRows)
    prompt = system.prompt(tiny_images(2))
    with capture(system) as seen:
        system.forward(prompt)
    assert seen.values[0].shape == (*prompt.embeds.shape[:2], 48)
