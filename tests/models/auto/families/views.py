"""Families with sound and films beside pictures, and with several views of a picture."""

from __future__ import annotations

from tests.models.auto.families.kin import (
    MROPE,
    QWEN,
    QWEN_IDS,
    QWEN_IMAGE,
    QWEN_VIDEO,
    SIDE,
    got,
    qwen,
)
from tests.models.auto.families.small import Family


def omni(kind: str, **config) -> Family:
    """Describe a thinker in the manner of Qwen2.5-Omni."""
    named = dict(zip(("vision_bos_token", "vision_eos_token", "image_token"), QWEN, strict=False))
    named |= {"video_token": "<|video_pad|>", "audio_token": "<|AUDIO|>"}
    named |= {"audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
    ids = {**QWEN_IDS, "image_token_index": "<|image_pad|>", "video_token_index": "<|video_pad|>"}
    ids |= {"audio_token_index": "<|AUDIO|>", "audio_token_id": "<|AUDIO|>"}
    sizes = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    return Family(
        config={
            **ids,
            **{f"vision_config.{name}": value for name, value in sizes.items()},
            "text_config.rope_parameters": MROPE,
            **config,
        },
        named=named,
        image={**QWEN_IMAGE, "kind": "Qwen2VLImageProcessor"},
        video={**QWEN_VIDEO, "kind": "Qwen2VLVideoProcessor"},
        sound="WhisperFeatureExtractor",
        kind=kind,
        processor={},
        picture="<|vision_start|><|image_pad|><|vision_end|>",
        facts={"pixels": 32},
    )


VIEWS: dict[str, Family] = {
    # --- sound and films beside pictures ---
    "qwen2_5_omni_thinker": omni(
        "Qwen2_5OmniProcessor",
        **{"vision_config.fullatt_block_indexes": [1], "vision_config.window_size": 16},
    ),
    "qwen3_omni_moe_thinker": omni(
        "Qwen3OmniMoeProcessor",
        **{
            "vision_config.deepstack_visual_indexes": [0],
            "vision_config.num_position_embeddings": 64,
        },
    ),
    "phi4_multimodal": Family(
        config={
            "vision_config.image_token_id": "<image>",
            "audio_config.audio_token_id": "<audio>",
            "audio_config.num_blocks": 1,
            "audio_config.ext_pw_out_channel": 32,
            "audio_config.depthwise_separable_out_channel": 32,
            "audio_config.nemo_conv_channels": 32,
            "vision_config.image_size": 64,
            "vision_config.crop_size": 64,
            "vision_config.patch_size": 2,
            "max_position_embeddings": 1024,
            "original_max_position_embeddings": 1024,
        },
        named={"image_token": "<image>", "audio_token": "<audio>"},
        image={"size": {"height": 64, "width": 64}, "patch_size": 2, "dynamic_hd": 1},
        processor={},
        facts={"pixels": 64, "template": "USER: <image>What is it? ASSISTANT: An image of"},
    ),
    "instructblipvideo": Family(
        config={"video_token_index": "<video>", "text_config.word_embed_proj_dim": 32},
        named={"video_token": "<video>"},
        video={"size": SIDE},
        processor={"num_query_tokens": 4},
        picture="<video>",
        facts={"pixels": 32},
    ),
    "pp_chart2table": got(
        picture="<img>" + "<imgpad>" * 16 + "</img>",
    ),
    "kosmos-2": Family(
        config={"text_config.embed_dim": 32, "latent_query_num": 4},
        image={"size": {"shortest_edge": 32}, "crop_size": SIDE},
        processor={"num_patch_index_tokens": 4},
        kind="Kosmos2Processor",
        facts={"pixels": 32, "template": "An image of", "options": {"num_image_tokens": 4}},
    ),
    "cosmos3_edge": qwen(
        {"text_config.rope_parameters": MROPE, "vision_config.temporal_patch_size": 1},
        image={**QWEN_IMAGE, "temporal_patch_size": 1},
        video={**QWEN_VIDEO, "temporal_patch_size": 1},
        facts={"pixels": 32, "options": {"return_mm_token_type_ids": True}},
    ),
    "cosmos3_omni": qwen(
        {
            "vision_config.num_position_embeddings": 64,
            "vision_config.deepstack_visual_indexes": [0],
        },
        kind="Qwen3VLProcessor",
        image={**QWEN_IMAGE, "kind": "Qwen2VLImageProcessor"},
    ),
    "muse_glimmer": Family(
        config={
            "image_token_id": "<|patch|>",
            "video_token_id": "<|video|>",
            "vision_config.patch_size": 4,
            "out_hidden_size": 128,
            "projector_hidden_size": 32,
        },
        tokens=(
            *("<|patch|>", "<|image_start|>", "<|image_end|>", "<|video|>"),
            *("<|vid_frame_separator|>", "<|vid_start|>", "<|vid_end|>"),
        ),
        image={"patch_size": 4},
        video={"patch_size": 4},
        processor={},
        picture="<|patch|>",
        facts={"pixels": 32},
    ),
    # --- several views ---
    "step3p7": Family(
        config={
            "image_token_id": "<im_patch>",
            "vision_config.image_size": 64,
            "text_config.sliding_window": 16,
        },
        tokens=(
            *("<im_patch>", "<patch_start>", "<patch_end>"),
            *("<patch_newline>", "<im_start>", "<im_end>"),
        ),
        image={
            "size": {"height": 64, "width": 64},
            "patch_size": 64,
            "vision_patch_size": 8,
            "downsampler_stride": 4,
        },
        processor={},
        picture="<im_patch>",
        facts={"pixels": 64},
    ),
    "molmo2": Family(
        config={
            "vision_config.image_size": [32, 32],
            "vision_config.num_position_embeddings": 16,
            "adapter_config.vision_feature_layer": [-1],
            "adapter_config.text_hidden_size": 32,
            "text_config.additional_vocab_size": 16,
            "image_patch_id": "<im_patch>",
            "image_start_token_id": "<im_start>",
            "image_end_token_id": "<im_end>",
            "low_res_image_start_token_id": "<low_res_im_start>",
        },
        tokens=(
            "<|image|>",
            "<|video|>",
            "<im_patch>",
            "<im_col>",
            "<im_start>",
            "<low_res_im_start>",
            "<frame_start>",
            "<im_end>",
            "<frame_end>",
            "<im_low>",
        ),
        image={"size": SIDE, "patch_size": 8, "max_crops": 1, "overlap_margins": [0, 0]},
        processor={},
        picture="<|image|>",
        facts={"pixels": 32},
    ),
}
