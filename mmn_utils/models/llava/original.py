"""The authors' format: LLaMA's weights with one linear projector, and CLIP from its own place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from mmn_utils.models.hub import (
    cast,
    load_tokenizer,
    load_whole,
    own_vocabulary,
    read_config,
    read_ends,
)
from mmn_utils.models.llava.system import Llava, LlavaFacts, texts_of
from mmn_utils.models.llava.whole import CHECKPOINT
from mmn_utils.models.weights import read_tensors, weight_files

PAPER_CHECKPOINT = "liuhaotian/llava-llama-2-13b-chat-lightning-preview"
VISION_TOWER = "openai/clip-vit-large-patch14"  # of the paper's checkpoint


def load_original(
    facts: LlavaFacts, texts: dict, found: dict[str, Path], device: str, dtype: torch.dtype
) -> Llava:
    """Load the authors' format and the CLIP that belongs to it."""
    folder = found["checkpoint"]
    config = read_config(folder)
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        state |= read_tensors(file)
    try:
        language_model, projector = read_original(config, state)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    language_model.generation_config = read_ends(folder)
    tokenizer = load_tokenizer(found.get("tokenizer", folder))
    facts = replace(
        facts,
        vision_layer=config.get("mm_vision_select_layer", LlavaFacts.vision_layer),
        vocabulary=own_vocabulary(tokenizer, language_model.lm_head),
        **{**texts_of("llama_2"), **_fit(config), **texts},
    )
    vision = load_whole(CLIPVisionModel, found["vision tower"], beside=_REST_OF_CLIP)
    return Llava(facts, vision, projector, cast(language_model, device, dtype), tokenizer)


def _fit(config: Mapping[str, Any]) -> dict[str, str]:
    """Read how pictures become squares: padded in LLaVA-1.5, else the processor's own way."""
    return {"fit": "pad"} if config.get("image_aspect_ratio") == "pad" else {}


_REST_OF_CLIP = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
_LLAMA_FACTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "bos_token_id",
    "eos_token_id",
)
_PROJECTOR = "model.mm_projector."
_LEFT_OUT = ("model.vision_tower.",)  # CLIP was not trained and comes from its own place
_COMPUTED = ".rotary_emb.inv_freq"


def read_original(
    config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[LlamaForCausalLM, nn.Linear]:
    """Build LLaMA and the projector from the authors' configuration and state dict.

    LLaMA's keys are transformers' own; the projector is ``model.mm_projector`` with
    ``weight`` (d, CLIP's width) and ``bias`` (d). The tensors are taken over, not copied.
    ``ValueError`` for what the format allows but paper B's checkpoint does not have:
    marks around the picture, a projector of several layers, CLS among the features.
    """
    _check_original(config)
    left = {
        key: value
        for key, value in state.items()
        if not key.startswith(_LEFT_OUT) and not key.endswith(_COMPUTED)
    }
    ends = {key: left.pop(key) for key in list(left) if key.startswith(_PROJECTOR)}
    ends = {key.removeprefix(_PROJECTOR): value for key, value in ends.items()}
    if sorted(ends) != ["bias", "weight"]:
        raise ValueError(
            f"the checkpoint's projector holds {sorted(ends)}, not one linear map's 'weight' and "
            f"'bias'; take a checkpoint in transformers' format, such as {CHECKPOINT}"
        )
    llama = LlamaConfig(**{key: config[key] for key in _LLAMA_FACTS if key in config})
    with torch.device("meta"):
        language_model = LlamaForCausalLM(llama)
        projector = nn.Linear(*reversed(ends["weight"].shape))
    try:
        language_model.load_state_dict(left, assign=True)
        projector.load_state_dict(ends, assign=True)
    except RuntimeError as error:
        raise ValueError(
            "the weights do not fit config.json; give those that belong together. "
            f"{' '.join(str(error).split())}"
        ) from error
    language_model.model.rotary_emb = LlamaRotaryEmbedding(llama)  # computed, not in the file
    return language_model, projector


def _check_original(config: Mapping[str, Any]) -> None:
    wanted = {
        "mm_use_im_start_end": False,
        "mm_projector_type": "linear",
        "mm_vision_select_feature": "patch",
    }
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise ValueError(
                f"{key} = {config[key]!r}: of the authors' format only {value!r} is read; take a "
                f"checkpoint in transformers' format, such as {CHECKPOINT}"
            )
