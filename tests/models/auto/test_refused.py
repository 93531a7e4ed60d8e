"""What the contract cannot hold is refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from mmn_utils.models.auto.building import _compare, build_auto
from mmn_utils.models.auto.modules import Unsupported, find_architecture
from tests.models.auto.families import TEXT, llava, system
from tests.models.auto.families.table import made
from tests.tiny import tiny_images, tiny_tokenizer


class Odd(nn.Module):
    """An MLP of an unknown build: what it writes is multiplied by what another map gives."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(32, 48), nn.Linear(48, 32), nn.Linear(32, 32)

    def forward(self, x):
        return self.two(self.one(x).relu()) * self.three(x)


class OddExperts(nn.Module):
    """Experts whose parameters have the usual names and whose gate is another function."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(2, 96, 32))
        self.down_proj = nn.Parameter(torch.randn(2, 32, 48))
        self.act_fn = nn.SiLU()

    def forward(self, tokens, index, weights):
        gate, up = (tokens @ self.gate_up_proj[0].T).chunk(2, dim=-1)
        return (gate.tanh() * up) @ self.down_proj[0].T


class OddBlock(nn.Module):
    """A router before them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.router = OddExperts(), nn.Linear(32, 2)

    def forward(self, x):
        weights, index = self.router(x.flatten(0, 1)).topk(1)
        return self.experts(x.flatten(0, 1), index, weights).view(x.shape)


UNKNOWN = {
    "build": (Odd, r"layers.0.mlp is a Odd \(one: Linear, two: Linear, three.*no known shape"),
    "experts": (OddBlock, r"layers.0.mlp is a OddBlock \(experts: OddExperts.*no known shape"),
}


@pytest.mark.parametrize("name", list(UNKNOWN))
def test_an_unknown_part_is_named_with_class_and_module(name):
    kind, message = UNKNOWN[name]
    model, processor, _ = llava()
    for layer in model.model.language_model.layers:
        layer.mlp = kind()
    with pytest.raises(Unsupported, match=message):
        build_auto("unknown", model, processor)


def test_layers_that_mix_tokens_in_an_unknown_way_are_named():
    model, processor, _ = llava()
    layer = model.model.language_model.layers[1]
    layer.sorcery = layer._modules.pop("self_attn")
    with pytest.raises(Unsupported, match=r"lists there: .*\(mlp, .*sorcery\)"):
        build_auto("llava", model, processor)


def test_layers_that_normalise_their_stream_are_named():
    """BLIP's decoder is BERT's."""
    with pytest.raises(Unsupported, match=r"BlipTextLayer: it normalises its stream after each"):
        find_architecture(made("blip")[0])


def test_what_writes_before_the_layers_is_named():
    """IDEFICS reads the picture in blocks between its layers, with MLPs of their own."""
    with pytest.raises(Unsupported, match=r"gated_cross_attn_layers.0, a IdeficsGatedCross"):
        build_auto("idefics", *made("idefics")[:2], pixels=32)


def test_a_picture_that_reaches_no_decoder_is_refused():
    model, processor, _ = llava()
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.zero_()
    with pytest.raises(Unsupported, match=r"nothing that the decoder .* depends on the picture"):
        build_auto("llava", model, processor)


def test_what_ends_inside_the_models_own_code_is_said():
    model, processor, _ = llava()
    model.model.vision_tower = None
    with pytest.raises(Unsupported, match="LlavaForConditionalGeneration"):
        build_auto("llava", model, processor)


def test_layers_that_differ_are_refused():
    model, processor, _ = llava()
    mlp = model.model.language_model.layers[1].mlp
    del mlp.up_proj, mlp.gate_proj
    mlp.up_proj = nn.Linear(32, 48)
    with pytest.raises(Unsupported, match=r"layers.1.mlp, a LlamaMLP, is shaped unlike"):
        build_auto("llava", model, processor)


def test_models_without_image_tokens_are_refused():
    text = LlamaForCausalLM(LlamaConfig(**{**TEXT, "vocab_size": 40}))
    with pytest.raises(
        Unsupported, match="LlamaForCausalLM nor its processor names an image token"
    ):
        build_auto("text", text, tiny_tokenizer())
    small = T5Config(vocab_size=40, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    with pytest.raises(Unsupported, match=r"T5.* is an encoder with a decoder"):
        build_auto("t5", T5ForConditionalGeneration(small), tiny_tokenizer())


def test_wrong_positions_are_noticed():
    model = system("qwen2_vl")
    broken = copy.copy(model)
    broken.language_model = copy.copy(model.language_model)
    broken.language_model.ahead = model.language_model.ahead + 3
    with pytest.raises(Unsupported, match="after the picture are not those"):
        _compare(broken, tiny_images(1))


def test_wrong_token_types_are_noticed():
    model = system("paligemma")
    broken = copy.copy(model)
    broken.language_model = copy.copy(model.language_model)
    broken.language_model.types = {
        name: (row, text, text) for name, (row, text, _) in model.language_model.types.items()
    }
    with pytest.raises(Unsupported, match="one token later are not those"):
        _compare(broken, tiny_images(1))
