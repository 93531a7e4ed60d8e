"""Systems of the true classes with random weights, small: to try everything before real ones.

``trial`` is a BEiT, a projection and a GPT-J as LiMBeR's, on 224 pixels with 196 patches;
``trial/llava`` a CLIP, a projector and a LLaMA as LLaVA's. Everything runs on them as on the
published checkpoints, in minutes on a CPU, and what comes out means nothing: ``caveat`` says
so wherever their numbers are shown. Words are those of the miniature's tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import (
    BeitConfig,
    BeitModel,
    CLIPVisionConfig,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from mmn_utils.models.base import VisionLanguageModel
from mmn_utils.models.encoders import HubBeit
from mmn_utils.models.hub import cast, load_tokenizer, require_files
from mmn_utils.models.limber import LimberFacts, build_limber
from mmn_utils.models.llava.system import LlavaFacts
from mmn_utils.models.llava.whole import build_llava
from mmn_utils.presets import data_path

CAVEAT = "Random weights: no number, caption, picture or verdict here means anything."
WIDTH, LAYERS, HEADS = 64, 4, 4
POSITIONS = 512
# Said more often than chance has it, so that captions name things that some pictures show.
THINGS = ("airplane", "bed", "bicycle", "bird", "boat", "book", "bus", "cake", "car", "cat",
          "chair", "clock", "cow", "cup", "dog", "elephant", "horse", "oven", "pizza", "sheep",
          "train", "truck", "umbrella")  # fmt: skip
OFTEN = 2.0  # times the length of another word's row of the unembedding
# Larger than transformers' own: captions then differ between pictures.
LIVELY = {"initializer_range": 0.2}


def load_trial(
    name: str = "trial", *, device: str = "cpu", dtype: torch.dtype | None = None
) -> VisionLanguageModel:
    """Build a system of ``TRIALS``, the same with each call; float32 unless ``dtype`` differs.

    Raises ``ValueError`` for another name.
    """
    if name not in TRIALS:
        raise ValueError(f"model = {name!r}: the trials are {', '.join(TRIALS)}")
    with _seeded():
        model = TRIALS[name](name, device, dtype or torch.float32)
    model.caveat = CAVEAT
    return model


def _limber(name: str, device: str, dtype: torch.dtype) -> VisionLanguageModel:
    """Build LiMBeR's classes at a small width."""
    tokenizer = _tokenizer("language_model")
    beit = BeitConfig(
        **_sizes(), use_shared_relative_position_bias=True, use_mask_token=True, **LIVELY
    )
    gptj = GPTJConfig(
        vocab_size=len(tokenizer), n_positions=POSITIONS, n_embd=WIDTH, n_layer=LAYERS,
        n_head=HEADS, rotary_dim=WIDTH // HEADS // 2, **LIVELY,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    language_model = GPTJForCausalLM(gptj)
    _prefer_things(language_model.lm_head, tokenizer)
    return build_limber(
        LimberFacts(name=name),
        HubBeit(BeitModel(beit, add_pooling_layer=False)),
        nn.Linear(WIDTH, WIDTH),
        cast(language_model, device, dtype),
        tokenizer,
    )


def _llava(name: str, device: str, dtype: torch.dtype) -> VisionLanguageModel:
    """Build LLaVA's classes at a small width."""
    tokenizer = _tokenizer("llava")
    llama = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=POSITIONS,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, **LIVELY,
    )  # fmt: skip
    clip = CLIPVisionConfig(**_sizes(), image_size=224, patch_size=16)
    whole = LlavaForConditionalGeneration(LlavaConfig(vision_config=clip, text_config=llama))
    _prefer_things(whole.lm_head, tokenizer)
    cast(whole.model.language_model, device, dtype)
    cast(whole.lm_head, device, dtype)
    return build_llava(LlavaFacts(name=name), whole, tokenizer)


TRIALS = {"trial": _limber, "trial/llava": _llava}


def _sizes() -> dict[str, int]:
    """Return what both encoders call by the same names."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
    }


@torch.no_grad()
def _prefer_things(head: nn.Linear, tokenizer) -> None:
    """Lengthen the rows of the words for things, in place."""
    words = [tokenizer.encode(f" {thing}", add_special_tokens=False) for thing in THINGS]
    head.weight[[ids[0] for ids in words if len(ids) == 1]] *= OFTEN


def _tokenizer(part: str):
    folder: Path = data_path("miniature", part)
    require_files("trial", [folder / "tokenizer.json"])
    return load_tokenizer(folder)


@contextmanager
def _seeded() -> Iterator[None]:
    """Draw the same weights with each call, and leave torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
