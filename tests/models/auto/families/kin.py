"""Families in the manner of LLaVA, of Qwen2-VL, of GLM-4V and of InternVL."""

from __future__ import annotations

from tests.models.auto.families.small import Family

QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
QWEN_IMAGE = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 16, "longest_edge": 64 * 64},
}
QWEN_VIDEO = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
QWEN_VISION = {
    "vision_config.patch_size": 4,
    "vision_config.spatial_merge_size": 2,
    "vision_config.temporal_patch_size": 2,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


SIDE = {"height": 32, "width": 32}
TILES = {"size": SIDE, "crop_to_patches": False}
GLM = (
    "<|image|>",
    "<|video|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
GLM_IDS = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}
LLAVA = {
    "patch_size": 8,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
LLAVA_IMAGE = {"size": {"shortest_edge": 32}, "crop_size": SIDE}
PINPOINTS = [[32, 32], [32, 64], [64, 32], [64, 64]]
VIDEO = {"video_token_id": "<video>"}


def glm(config=None, **changes) -> Family:
    """Describe a family in the manner of GLM-4V."""
    rope = {**MROPE, "partial_rotary_factor": 1.0}
    facts = {
        "config": {**GLM_IDS, **QWEN_VISION, "text_config.rope_parameters": rope, **(config or {})}
    }
    facts |= {"tokens": GLM, "image": QWEN_IMAGE, "video": QWEN_VIDEO, "processor": {}}
    facts |= {"picture": "<|begin_of_image|><|image|><|end_of_image|>", "facts": {"pixels": 32}}
    return Family(**{**facts, **changes})


def llava(config=None, **changes) -> Family:
    """Describe a family in the manner of LLaVA."""
    facts = {
        "config": {"image_token_id": "<image>", **(config or {})},
        "tokens": ("<image>", "<video>"),
    }
    facts |= {"image": LLAVA_IMAGE, "processor": LLAVA, "picture": "<image>\n"}
    return Family(**{**facts, **changes})


def internvl(config=None, **changes) -> Family:
    """Describe a family in the manner of InternVL."""
    vision = {"vision_config.image_size": [32, 32], "vision_config.patch_size": [8, 8]}
    facts = {
        "config": {
            "image_token_id": "<IMG_CONTEXT>",
            "image_seq_length": 4,
            **vision,
            **(config or {}),
        }
    }
    named = {"start_image_token": "<img>", "end_image_token": "</img>"}
    named |= {"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    facts |= {"named": named, "image": TILES, "processor": {"image_seq_length": 4}}
    return Family(**{**facts, "picture": "<IMG_CONTEXT>", **changes})


def qwen(config=None, **changes) -> Family:
    """Describe a family in the manner of Qwen2-VL."""
    facts = {
        "config": {
            **QWEN_IDS,
            **QWEN_VISION,
            "text_config.rope_parameters": MROPE,
            **(config or {}),
        },
        "tokens": QWEN,
        "image": QWEN_IMAGE,
        "video": QWEN_VIDEO,
        "processor": {},
        "picture": QWEN_PICTURE,
        "facts": {"pixels": 32},
    }
    return Family(**{**facts, **changes})


def gemma(**changes) -> Family:
    """Describe a family in the manner of Gemma 3."""
    facts = {
        "config": {
            "image_token_index": "<soft>",
            "boi_token_index": "<boi>",
            "eoi_token_index": "<eoi>",
            "mm_tokens_per_image": 4,
            "text_config.query_pre_attn_scalar": 8,
            "text_config.sliding_window": 8,
            "vision_config.vision_use_head": False,
            "text_config.layer_types": ["sliding_attention", "full_attention"],
        },
        "named": {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<soft>"},
        "image": {"size": SIDE},
        "processor": {"image_seq_length": 4},
        "picture": "<boi>",
    }
    return Family(**{**facts, **changes})


def got(**changes) -> Family:
    """Describe a family in the manner of GOT-OCR 2."""
    facts = {
        "config": {
            "image_token_index": "<imgpad>",
            "vision_config.window_size": 2,
            "vision_config.mlp_dim": 32,
            "vision_config.image_size": 64,
            "vision_config.patch_size": 4,
            "vision_config.output_channels": 16,
        },
        "tokens": ("<imgpad>", "<img>", "</img>"),
        "image": {"size": {"height": 64, "width": 64}},
        "processor": {},
    }
    return Family(**{**facts, **changes})
