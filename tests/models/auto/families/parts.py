"""What tiny families share: sizes, a chat template, tokenizers, lively weights."""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedTokenizerFast

from tests.tiny import END, PADDING, tiny_tokenizer

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.1,
}
TURNS = (  # a chat template in the manner of LLaVA's
    "{% for m in messages %}USER: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


class Underscored(PreTrainedTokenizerFast):
    """Puts a token before every text, even before a special token, as sentencepiece does."""

    def __call__(self, text, **options):
        return super().__call__(f"_{text}", **options)


def tokenizer_with(*tokens: str, underscore: bool = False, **named: str) -> PreTrainedTokenizerFast:
    """Copy the tiny tokenizer and add special tokens, some under names."""
    backend = copy.deepcopy(tiny_tokenizer().backend_tokenizer)
    tokenizer = (Underscored if underscore else PreTrainedTokenizerFast)(
        tokenizer_object=backend,
        eos_token=END,
        bos_token=END,
        pad_token=END,
        extra_special_tokens=named,
    )
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    return tokenizer


def lively(kind, config, seed: int = 0, spread: float = 0.1):
    """Build a model whose every parameter is random, so that a forgotten gain or bias shows.

    Seeded before it is built, as transformers draws weights there.
    """
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.3 if parameter.ndim == 1 else spread
            parameter.add_(size * torch.randn_like(parameter))
    return model.eval()


def text_size(tokenizer) -> dict:
    return {**TEXT, "vocab_size": len(tokenizer) + PADDING}
