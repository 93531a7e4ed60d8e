"""What the contract cannot hold is refused by name."""

from __future__ import annotations

import copy
from functools import partial

import pytest
from torch import nn
from transformers import (
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    Phi3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from mmn_utils.models.auto.building import _compare, build_auto
from mmn_utils.models.auto.modules import Unsupported
from tests.models.auto.families import (
    TEXT,
    idefics3,
    llava,
    paligemma,
    qwen3_vl,
    system,
    text_size,
    tokenizer_with,
)
from tests.tiny import tiny_images, tiny_tokenizer


def text_of(kind, **facts):
    return kind(**text_size(tokenizer_with("<image>")), **facts)


UNKNOWN = {
    "experts": (
        partial(text_of, MixtralConfig, num_local_experts=2),
        r"model.language_model.layers.0.* is a Mixtral\w+ \(.*MLP of no known shape",
    ),
    "fused gate": (
        partial(text_of, Phi3Config),
        r"model.language_model.layers.0.mlp is a Phi3MLP \(gate_up_proj.*no known shape",
    ),
    "scaled residual": (
        partial(text_of, GraniteConfig, residual_multiplier=0.5),
        r"layers.0 of Llava.*adds more, or other.*residual_multiplier = 0.5",
    ),
    "scaled embeddings": (
        partial(text_of, GraniteConfig, embedding_multiplier=3.0),
        r"changes its embeddings before .*layers.0.*embedding_multiplier = 3.0",
    ),
}


@pytest.mark.parametrize("name", list(UNKNOWN))
def test_an_unknown_part_is_named_with_class_and_module(name):
    text, message = UNKNOWN[name]
    model, processor, _ = llava(text())
    with pytest.raises(Unsupported, match=message):
        build_auto("unknown", model, processor)


def test_capped_logits_are_named_once_the_norms_are_folded():
    model, processor, facts = paligemma(partial(Gemma2Config, final_logit_softcapping=2.0))
    with pytest.raises(Unsupported, match="post_feedforward_layernorm of PaliGemma"):
        build_auto("paligemma2", model, processor, **facts)
    with pytest.raises(Unsupported, match=r"logits after lm_head .final_logit_softcapping = 2.0"):
        build_auto("paligemma2", model, processor, **facts, fold_norms=True)


def test_pictures_that_also_enter_later_layers_are_refused():
    model, processor, facts = qwen3_vl()
    with pytest.raises(Unsupported, match=r"not those of .*Qwen3VL.*own generate"):
        build_auto("qwen3_vl", model, processor, **facts)


def test_layers_that_differ_are_refused():
    model, processor, _ = llava()
    mlp = model.model.language_model.layers[1].mlp
    del mlp.up_proj, mlp.gate_proj
    mlp.up_proj = nn.Linear(32, 48)
    with pytest.raises(Unsupported, match=r"layers.1.mlp is shaped unlike"):
        build_auto("llava", model, processor)


def test_models_without_image_tokens_are_refused():
    text = LlamaForCausalLM(LlamaConfig(**{**TEXT, "vocab_size": 40}))
    with pytest.raises(Unsupported, match="LlamaForCausalLM has no get_image_features"):
        build_auto("text", text, tiny_tokenizer())
    small = T5Config(vocab_size=40, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    with pytest.raises(Unsupported, match=r"T5.* is an encoder with a decoder"):
        build_auto("t5", T5ForConditionalGeneration(small), tiny_tokenizer())


def test_several_views_are_not_contiguous():
    model, processor, _ = idefics3()
    with pytest.raises(Unsupported, match=r"not contiguous \(runs of 4, 4, 4, 4, 4\)"):
        build_auto("idefics3", model, processor, options={"do_image_splitting": True})


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
