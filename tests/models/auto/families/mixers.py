"""Families some of whose layers mix tokens by a recurrence or a convolution."""

from __future__ import annotations

from tests.models.auto.families.kin import MROPE, QWEN_IMAGE, qwen
from tests.models.auto.families.small import Family

LINEAR = {  # sizes of Qwen's linear attention, in the first layer
    "text_config.layer_types": ["linear_attention", "full_attention"],
    "text_config.linear_num_value_heads": 4,
    "text_config.linear_num_key_heads": 2,
    "text_config.linear_key_head_dim": 8,
    "text_config.linear_value_head_dim": 8,
    "text_config.rope_parameters": {**MROPE, "partial_rotary_factor": 1.0},
}
LFM_TOKENS = ("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>")


def minicpm(**changes) -> Family:
    """Describe a family in the manner of MiniCPM-V 4.6."""
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    named |= {"image_start_token": "<image>", "image_end_token": "</image>"}
    named |= {"slice_start_token": "<slice>", "slice_end_token": "</slice>"}
    named |= {"image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"}
    facts = {
        "config": {
            **LINEAR,
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "insert_layer_id": 0,
            "vision_config.insert_layer_id": 0,
        },
        "named": named,
        "image": {"max_slice_nums": 1, "scale_resolution": 64, "patch_size": 8},
        "processor": {},
        "picture": "<|image_pad|>",
        "facts": {"pixels": 64},
    }
    return Family(**{**facts, **changes})


MIXERS: dict[str, Family] = {
    "qwen3_5": qwen({"vision_config.num_position_embeddings": 64, **LINEAR}),
    "qwen3_5_moe": qwen({"vision_config.num_position_embeddings": 64, **LINEAR}),
    "qwen4_exp": qwen(
        {
            "vision_config.num_position_embeddings": 64,
            **LINEAR,
            "text_config.hc_lowrank": 8,
            "text_config.ngram_vocab_size_base": 64,
            "text_config.indexer_n_heads": 2,
            "text_config.indexer_kv_heads": 1,
            "text_config.indexer_head_dim": 8,
            "text_config.indexer_budget": 16,
            "text_config.indexer_compress_ratio": 4,
        },
        kind="Qwen3VLProcessor",
        image={**QWEN_IMAGE, "kind": "Qwen2VLImageProcessor"},
    ),
    "lfm2_vl": Family(
        config={
            "image_token_id": "<image>",
            "text_config.layer_types": ["conv", "full_attention"],
            "text_config.block_auto_adjust_ff_dim": False,
            "vision_config.num_patches": 16,
            "projector_hidden_size": 32,
        },
        tokens=LFM_TOKENS,
        image={
            "tile_size": 32,
            "encoder_patch_size": 8,
            "do_image_splitting": False,
            "min_image_tokens": 4,
            "max_image_tokens": 16,
            "max_num_patches": 64,
        },
        processor={},
        facts={"pixels": 32},
    ),
    "lfm3_vl": qwen(
        {
            "text_config.layer_types": ["conv", "full_attention"],
            "text_config.rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 10000.0}
            },
            "vision_config.layer_types": ["conv", "full_attention"],
            "projector_hidden_size": 32,
        },
        image={**QWEN_IMAGE, "kind": "Qwen2VLImageProcessor"},
    ),
    "minicpmv4_6": minicpm(),
    "minicpmv4_7": minicpm(),
    "minicpm_ocr": minicpm(),
}
