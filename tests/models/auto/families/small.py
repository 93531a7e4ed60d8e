"""Any image-text-to-text class of transformers, small and random, behind its true processor.

A family is data (``Family``): what its tiny configuration, its processor and its tokenizer have
that the defaults below do not.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForMultimodalLM
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from tests.models.auto.families.parts import TURNS, lively, tokenizer_with
from tests.tiny import PADDING

SIZES = {  # of any configuration that has them
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "out_hidden_size"), 32),
    **dict.fromkeys(("projection_dim", "text_hidden_size", "vision_hidden_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "depth", "encoder_layers"), 2),
    **dict.fromkeys(("decoder_layers", "n_layer"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "attention_heads", "n_head"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("moe_num_experts", "num_query_tokens"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("head_dim", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "v_head_dim", "global_head_dim", "patch_size"), 8),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
    "qk_head_dim": 16,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "image_size": 32,
    "max_position_embeddings": 256,
    "hidden_size_per_layer_input": 8,
    "initializer_range": 0.1,
}
MOST = 50_000_000  # weights of what counts as small
LEFT_OUT = ("layer_types", "mlp_layer_types", "per_layer_config", "transformers_version", "dtype")


@dataclass(frozen=True)
class Family:
    """What one model type needs to be built small.

    ``config``: dotted names in the configuration, and their values; a value that is one of
    ``tokens`` stands for its id. ``tokens`` are special tokens, ``named`` those that the
    tokenizer knows by a name. ``image``, ``video`` and ``processor`` are arguments of the three
    classes; ``kind`` names the processor's class where it is not the mapping's, ``sound`` that
    of what hears. ``spread``: how far weights are from those that a class draws. ``picture`` is
    the chat template's placeholder, ``facts`` those of ``build_auto``. ``underscore``: the
    tokenizer puts a token before every text, even before a special token.
    """

    config: Mapping[str, object] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    image: Mapping[str, object] = field(default_factory=dict)
    video: Mapping[str, object] = field(default_factory=dict)
    processor: Mapping[str, object] | None = None
    kind: str | None = None
    sound: str | None = None
    spread: float = 0.1
    picture: str = "<image>"
    facts: Mapping[str, object] = field(default_factory=dict)
    underscore: bool = False


def build(name: str, family: Family):
    """Build model, processor (None where the family tells of none) and facts."""
    tokenizer = tokenizer_with(*family.tokens, underscore=family.underscore, **family.named)
    model = small_model(name, family, tokenizer)
    processor = None if family.processor is None else small_processor(name, family, tokenizer)
    return model, processor or tokenizer, dict(family.facts)


def small_config(name: str, family: Family, tokenizer):
    """Build the configuration: the defaults, made small, with the family's own values."""
    kind = CONFIG_MAPPING[name]
    values = _shrunk(kind().to_dict(), len(tokenizer) + PADDING)
    for path, value in family.config.items():
        *parts, last = path.split(".")
        inner = values
        for part in parts:
            inner[part] = {} if inner.get(part) is None else inner[part]
            inner = inner[part]
        inner[last] = _id(value, tokenizer)
    return kind(**values)


def small_model(name: str, family: Family, tokenizer):
    """Build the model with lively random weights."""
    config = small_config(name, family, tokenizer)
    with torch.device("meta"):
        hollow = AutoModelForMultimodalLM.from_config(config)
    weights = sum(parameter.numel() for parameter in hollow.parameters())
    if weights > MOST:
        raise ValueError(f"{weights:.1e} weights even at these sizes")
    return lively(AutoModelForMultimodalLM.from_config, config, spread=family.spread).float()


def small_processor(name: str, family: Family, tokenizer):
    """Build the true processor of a type from its parts."""
    parts = {
        "tokenizer": tokenizer,
        "qformer_tokenizer": tokenizer,
        "chat_template": TURNS.replace("IMAGE", family.picture),
    }
    sounds = family.sound or FEATURE_EXTRACTOR_MAPPING_NAMES.get(name)
    if sounds is not None:
        hears = getattr(transformers, sounds)()
        parts |= dict.fromkeys(("feature_extractor", "audio_processor"), hears)
    for part, names, options in (
        ("image_processor", IMAGE_PROCESSOR_MAPPING_NAMES, family.image),
        ("video_processor", VIDEO_PROCESSOR_MAPPING_NAMES, family.video),
    ):
        kinds = options.get("kind") or names.get(name)
        if kinds is not None:
            found = kinds if isinstance(kinds, str) else kinds.get("torchvision", kinds.get("pil"))
            rest = {k: v for k, v in options.items() if k != "kind"}
            parts[part] = getattr(transformers, found)(**rest)
    kind = getattr(transformers, family.kind or PROCESSOR_MAPPING_NAMES[name])
    code = kind.__init__.__code__
    wanted = code.co_varnames
    parts = {part: value for part, value in parts.items() if part in wanted}
    if "chat_template" in wanted or code.co_flags & inspect.CO_VARKEYWORDS:
        parts["chat_template"] = TURNS.replace("IMAGE", family.picture)
    return kind(**{**parts, **family.processor})


def _shrunk(values: dict, vocabulary: int) -> dict:
    small = {}
    for key, value in values.items():
        if isinstance(value, dict) and ("model_type" in value or key.endswith("config")):
            small[key] = _shrunk(value, vocabulary)
        elif key in ("vocab_size", "vocab_size_per_layer_input"):
            small[key] = vocabulary
        elif key not in LEFT_OUT:
            small[key] = _as(value, SIZES[key]) if key in SIZES and value is not None else value
    return small


def _as(value, size: int):
    """Repeat a size where the configuration has one for each stage."""
    return [size] * len(value) if isinstance(value, (list, tuple)) else size


def _id(value, tokenizer):
    if isinstance(value, list):
        return [_id(one, tokenizer) for one in value]
    if isinstance(value, dict):
        return {key: _id(one, tokenizer) for key, one in value.items()}
    return tokenizer.get_vocab().get(value, value) if isinstance(value, str) else value
