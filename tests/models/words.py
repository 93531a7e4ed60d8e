"""A tokenizer like those of the published chat systems."""

from __future__ import annotations

import copy

from tokenizers.processors import TemplateProcessing

from tests.tiny import tiny_tokenizer


def words(placeholder=True):
    """The tiny tokenizer, which here puts the beginning of text in front by itself."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    start = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start[0]} $A", special_tokens=[start]
    )
    if placeholder:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer
