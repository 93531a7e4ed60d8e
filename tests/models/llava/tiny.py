"""A tiny LLaVA, as transformers has it and as a system."""

from __future__ import annotations

import torch
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from mmn_utils.models.llava.system import LlavaFacts
from mmn_utils.models.llava.whole import build_llava
from tests.models.words import words
from tests.tiny_gated import tiny_llama

SIDE, PATCH, WIDTH, COUNT = 32, 8, 24, 16
ROWS = 400
BEFORE, PREFIX = "A man rides", " A picture of"


def clip_config():
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=0.2,
    )


def tiny_whole(seed=0, **facts):
    """A random LlavaForConditionalGeneration whose LLaMA is ``tiny_llama``."""
    torch.manual_seed(seed)
    llama = tiny_llama(seed, vocabulary=ROWS)
    config = LlavaConfig(
        vision_config=clip_config(),
        text_config=llama.config,
        image_token_index=words().convert_tokens_to_ids("<image>"),
        **facts,
    )
    whole = LlavaForConditionalGeneration(config)
    whole.model.language_model, whole.lm_head = llama.model, llama.lm_head
    with torch.no_grad():
        for name, parameter in whole.model.named_parameters():
            if not name.startswith("language_model"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return whole.eval()


def tiny_llava(seed=0, tokenizer=None, **facts):
    facts = LlavaFacts(**{"name": "tiny", "before": BEFORE, "prefix": PREFIX, **facts})
    return build_llava(facts, tiny_whole(seed), tokenizer or words())
