"""Tiny models of the true classes with norms behind the MLP, factors, or capped logits."""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import nn
from transformers import (
    BitNetConfig,
    Gemma2Config,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4TextConfig,
    Gemma4VideoProcessor,
    Gemma4VisionConfig,
    GraniteConfig,
    LlamaConfig,
    Olmo2Config,
    PhiConfig,
)
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor

from mmn_utils.models.auto.building import build_auto
from tests.models.auto.families import gemma3, lively, llava, paligemma, text_size, tokenizer_with
from tests.models.auto.families.kin import MROPE, qwen
from tests.models.auto.families.parts import TURNS
from tests.models.auto.families.small import build


def of_llava(kind, **facts):
    """Build a LLaVA around another language model."""
    return llava(kind(**text_size(tokenizer_with("<image>")), **facts))


def gemma4(**text):
    """Build a Gemma 4 whose layers scale their outputs, and cap its logits at 3."""
    tokenizer = tokenizer_with(
        "<|video|>", boi_token="<boi>", eoi_token="<eoi>", image_token="<soft>",
        boa_token="<boa>", eoa_token="<eoa>", audio_token="<audio>",
    )  # fmt: skip
    sizes = {"patch_size": 4, "pooling_kernel_size": 2}
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(max_soft_tokens=70, **sizes),
        tokenizer,
        Gemma4VideoProcessor(max_soft_tokens=70, **sizes),
        chat_template=TURNS.replace("IMAGE", "<soft>"),
    )
    size = text_size(tokenizer)
    options = {
        "head_dim": 8,
        "global_head_dim": 8,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": size["vocab_size"],
        "final_logit_softcapping": 3.0,
        "use_bidirectional_attention": "vision",
    }
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "position_embedding_size": 64,
        **sizes,
    }
    config = Gemma4Config(
        text_config=Gemma4TextConfig(**{**size, **options, **text}),
        vision_config=Gemma4VisionConfig(**vision),
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        boa_token_id=tokenizer.convert_tokens_to_ids("<boa>"),
        eoa_token_index=tokenizer.convert_tokens_to_ids("<eoa>"),
        audio_token_id=tokenizer.convert_tokens_to_ids("<audio>"),
    )
    model = lively(Gemma4ForConditionalGeneration, config)
    for index, layer in enumerate(model.model.language_model.layers):
        layer.layer_scalar.fill_(0.7 - 0.25 * index)
    return model, processor, {"pixels": 64}


def shifting():
    """Build an OLMo 2 whose norms behind biased MLPs take the mean away and add a shift."""
    model, processor, facts = of_llava(Olmo2Config)
    torch.manual_seed(1)
    for layer in model.model.language_model.layers:
        layer.mlp.down_proj = nn.Linear(48, 32, bias=True)
        norm = nn.LayerNorm(32)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        layer.post_feedforward_layernorm = norm
    return model.eval(), processor, facts


def cohere_compass():
    """Build a Cohere Compass, which scales its logits and adds the picture behind a layer too."""
    tokens = ("<|VISION_START|>", "<|VISION_END|>", "<|IMAGE_PAD|>", "<|VIDEO_PAD|>")
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    config = dict(zip(names, tokens, strict=True)) | {
        "vision_config.num_position_embeddings": 64,
        "vision_config.deepstack_visual_indexes": [0],
        "text_config.logit_scale": 0.25,
        "text_config.layer_types": ["full_attention"] * 2,
        "text_config.rope_parameters": {"full_attention": MROPE},
    }
    return build(
        "cohere_compass", qwen(config, tokens=tokens, picture="".join(tokens[i] for i in (0, 2, 1)))
    )


SCALED = {
    "gemma3": gemma3,
    "paligemma2": partial(paligemma, partial(Gemma2Config, final_logit_softcapping=2.0)),
    "granite": partial(of_llava, GraniteConfig, residual_multiplier=0.22, embedding_multiplier=3.0),
    "olmo2": partial(of_llava, Olmo2Config),
    "gemma4": gemma4,
    "gemma4_per_layer": partial(gemma4, hidden_size_per_layer_input=6),
    "cohere_compass": cohere_compass,
    "shifting": shifting,
    "phi": partial(of_llava, PhiConfig),  # with a dropout behind attention and MLP
    "bitnet": partial(of_llava, BitNetConfig),
    "relu": partial(of_llava, LlamaConfig, hidden_act="relu"),
}


@cache
def unscaled(family: str):
    """Build the same model again, for references; no adapter ever has it."""
    return SCALED[family]()[0]


@cache
def scaled(family: str, dtype: torch.dtype = torch.float32):
    """Build one system of a family, shared by the tests that leave it as it is."""
    model, processor, facts = SCALED[family]()
    return build_auto(family, model.to(dtype), processor, **facts)
