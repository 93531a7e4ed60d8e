"""transformers' format: LLaVA as one model, taken apart, saved and loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from mmn_utils.models.folders import Layout
from mmn_utils.models.hub import load_tokenizer, load_whole, own_vocabulary
from mmn_utils.models.llava.system import Llava, LlavaFacts

CHECKPOINT = "llava-hf/llava-1.5-7b-hf"


def build_llava(facts: LlavaFacts, model: LlavaForConditionalGeneration, tokenizer) -> Llava:
    """Take transformers' model apart into a system; it is frozen in place.

    ``vision_layer`` is the model's own. ``ValueError`` for a language model other than
    LLaMA, an encoder other than CLIP, several layers' features, and features with CLS.
    """
    config = model.config
    kinds = (config.vision_config.model_type, config.text_config.model_type)
    if kinds != ("clip_vision_model", "llama"):
        raise ValueError(f"a LLaVA of {' and '.join(kinds)}; here it is CLIP and LLaMA")
    layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
    if not isinstance(layer, int) or strategy != "default":
        raise ValueError(
            f"vision_feature_layer = {layer}, vision_feature_select_strategy = {strategy!r}: here "
            "the features are one layer's, without CLS ('default')"
        )
    return Llava(
        replace(facts, vision_layer=layer),
        model.model.vision_tower,
        model.model.multi_modal_projector,
        _decoder(model),
        tokenizer,
        config,
    )


def _decoder(model: LlavaForConditionalGeneration) -> LlamaForCausalLM:
    """Put the model's decoder and head into a LLaMA of its own; the weights are shared."""
    with torch.device("meta"):
        decoder = LlamaForCausalLM(model.config.text_config)
    decoder.model, decoder.lm_head = model.model.language_model, model.lm_head
    decoder.generation_config = model.generation_config  # it says where a turn ends
    return decoder


# --- folders ----------------------------------------------------------------------------

LAYOUT = Layout(
    "llava",
    LlavaFacts,
    LlavaForConditionalGeneration,
    language={"model.language_model": "model", "lm_head": "lm_head"},
)


def save_llava(
    model: Llava,
    folder: str | Path,
    *,
    language_model: str | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Save a system as a folder for ``load_llava``; ``language_model`` as in ``Layout``.

    ``ValueError`` for a system in the authors' format.
    """
    if model.config is None:
        raise ValueError(f"{model.name} is in the authors' format; copy its files instead")
    whole = LAYOUT.hollow(model.config)
    whole.model.vision_tower, whole.model.multi_modal_projector = model.vision, model.projector
    whole.generation_config.eos_token_id = model.language_model.generation_config.eos_token_id
    LAYOUT.put(whole, model.language_model)
    LAYOUT.save(whole, model.facts, model.tokenizer, folder, language_model, dtype)


def load_saved(folder: Path, texts: dict, device: str, dtype: torch.dtype | None) -> Llava:
    """Load what ``save_llava`` saved; float32 unless ``dtype`` says otherwise."""
    facts, whole = LAYOUT.load(folder)
    LAYOUT.cast(whole, device, dtype or torch.float32)
    return build_llava(replace(facts, **texts), whole, load_tokenizer(folder))


def load_published(
    facts: LlavaFacts, texts: dict, found: dict[str, Path], device: str, dtype: torch.dtype
) -> Llava:
    """Load a checkpoint of the hub in transformers' format."""
    whole = load_whole(LAYOUT.whole, found["checkpoint"], beside=())
    LAYOUT.cast(whole, device, dtype)
    tokenizer = load_tokenizer(found.get("tokenizer", found["checkpoint"]))
    vocabulary = own_vocabulary(tokenizer, whole.lm_head)
    return build_llava(replace(facts, vocabulary=vocabulary, **texts), whole, tokenizer)
