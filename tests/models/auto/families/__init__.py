"""Tiny random models of the true classes behind the true processors."""

from tests.models.auto.families.builders import (
    FAMILIES,
    gemma3,
    idefics3,
    llava,
    onevision,
    paligemma,
    qwen2_vl,
    qwen3_vl,
    smolvlm,
    system,
    untouched,
    wide_gemma3,
)
from tests.models.auto.families.parts import TEXT, TURNS, VISION, lively, text_size, tokenizer_with

__all__ = [
    "FAMILIES",
    "TEXT",
    "TURNS",
    "VISION",
    "gemma3",
    "idefics3",
    "lively",
    "llava",
    "onevision",
    "paligemma",
    "qwen2_vl",
    "qwen3_vl",
    "smolvlm",
    "system",
    "text_size",
    "tokenizer_with",
    "untouched",
    "wide_gemma3",
]
