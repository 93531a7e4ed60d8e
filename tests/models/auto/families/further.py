"""Families with discrete pictures, or vision towers of their own."""

from __future__ import annotations

from tests.models.auto.families.kin import (
    LLAVA_IMAGE,
    PINPOINTS,
    SIDE,
    llava,
    qwen,
)
from tests.models.auto.families.small import Family

CODES = 16  # of discrete pictures
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
VQ = {"vq_config.base_channels": 32, "vq_config.latent_channels": 32}
GEMMA_IDS = {
    "image_token_id": "<soft>",
    "boi_token_id": "<boi>",
    "eoi_token_id": "<eoi>",
    "audio_token_id": "<audio>",
    "boa_token_id": "<boa>",
    "eoa_token_id": "<eoa>",
    "eoa_token_index": "<eoa>",
}
GEMMA_NAMES = {
    "image_token": "<soft>",
    "boi_token": "<boi>",
    "eoi_token": "<eoi>",
    "audio_token": "<audio>",
    "boa_token": "<boa>",
    "eoa_token": "<eoa>",
}


FURTHER: dict[str, Family] = {
    # --- discrete pictures ---
    "chameleon": Family(
        config={
            "vocabulary_map": {"<image>": "<image>"}
            | {f"IMGIMG{chr(65 + i)}Z": f"IMGIMG{chr(65 + i)}Z" for i in range(10)},
            "vq_config.num_embeddings": 10,
            "vq_config.embed_dim": 8,
            "vq_config.resolution": 32,
            "vq_config.channel_multiplier": [1, 1, 1, 1],
            **VQ,
        },
        tokens=("<image>", *(f"IMGIMG{chr(65 + i)}Z" for i in range(10))),
        named={"boi_token": "<boi>", "eoi_token": "<eoi>", "sep_token": "<sep>"},
        image={"size": {"shortest_edge": 32}, "crop_size": SIDE},
        processor={"image_seq_length": 16},
        facts={"pixels": 32, "template": "<image>An image of"},
    ),
    "emu3": Family(
        config={
            "image_token_id": "<image>",
            "text_config.pad_token_id": 0,
            "vocabulary_map": {
                name: name
                for name in (
                    "<image>",
                    "<|extra_200|>",
                    *(f"<|visual token {i:06d}|>" for i in range(CODES)),
                )
            },
            "vq_config.codebook_size": CODES,
            "vq_config.channel_multiplier": [1, 1, 1, 1],
            "vq_config.attn_resolutions": [3],
            **VQ,
        },
        tokens=("<|extra_200|>", *(f"<|visual token {i:06d}|>" for i in range(CODES))),
        named={
            "image_token": "<image>",
            "boi_token": "<boi>",
            "eoi_token": "<eoi>",
            "image_wrapper_token": "<wrapper>",
            "eof_token": "<eof>",
        },
        image={
            "kind": "Emu3ImageProcessor",
            "min_pixels": 64 * 64,
            "max_pixels": 64 * 64,
            "spatial_factor": 8,
        },
        processor={},
        facts={"pixels": 64},
    ),
    # --- encoders with a decoder, vision towers of their own ---
    "florence2": Family(
        config={
            "vision_config.patch_size": [7, 3, 3, 3],
            "vision_config.embed_dim": [32] * 4,
            "vision_config.num_heads": [4] * 4,
            "vision_config.num_groups": [4] * 4,
            "vision_config.depths": [1] * 4,
        }
    ),
    "fast_vlm": llava(
        {
            "image_token_id": "<image>",
            "vision_config.architecture": "fastvit_t8",
            "vision_config.model_args": {
                "layers": [1, 1, 1, 1],
                "embed_dims": [16, 16, 16, 32],
                "inference_mode": True,
            },
            "vision_config.hidden_size": 64,
        },
        kind="LlavaProcessor",
        image={"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
        | {"kind": "CLIPImageProcessor"},
        processor={
            "patch_size": 32,
            "vision_feature_select_strategy": "full",
            "num_additional_image_tokens": 0,
        },
        facts={"pixels": 64},
        spread=0.4,
    ),
    "gemma3n": Family(
        config={
            **GEMMA_IDS,
            "text_config.activation_sparsity_pattern": [0.0, 0.0],
            "text_config.intermediate_size": 48,
            "text_config.num_kv_shared_layers": 0,
            "text_config.layer_types": ["full_attention"] * 2,
            "vision_config.architecture": "test_resnet",
            "vision_config.hidden_size": 96,
            "vision_soft_tokens_per_image": 1,
        },
        named=GEMMA_NAMES,
        image={"size": SIDE},
        processor={"image_seq_length": 1},
        picture="<soft>",
        facts={"pixels": 32},
    ),
    "gemma4_unified": Family(
        config={
            **GEMMA_IDS,
            "video_token_id": "<|video|>",
            "text_config.per_layer_config": {},
            "text_config.sliding_window": 16,
            "text_config.layer_types": ["sliding_attention", "full_attention"],
            "text_config.num_kv_shared_layers": 0,
            "vision_config.patch_size": 4,
            "vision_config.pooling_kernel_size": 2,
            "vision_config.mm_embed_dim": 32,
            "vision_config.mm_posemb_size": 64,
            "vision_config.output_proj_dims": 32,
        },
        tokens=("<|video|>",),
        named=GEMMA_NAMES,
        image={"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70},
        video={"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70},
        processor={},
        picture="<soft>",
        facts={"pixels": 64},
    ),
    "hunyuan_vl": Family(
        config={
            "image_token_id": "<img>",
            "im_start_id": "<boi>",
            "im_end_id": "<eoi>",
            "im_newline_id": "<newline>",
            "text_config.rope_parameters": {**ROPE, "mrope_section": [1, 1, 1, 1]},
            "text_config.head_dim": 8,
            "vision_config.patch_size": 4,
            "vision_config.max_image_size": 64,
        },
        tokens=("<newline>",),
        named={
            "image_token": "<img>",
            "image_start_token": "<boi>",
            "image_end_token": "<eoi>",
        },
        image={
            "patch_size": 4,
            "merge_size": 2,
            "temporal_patch_size": 1,
            "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64},
        },
        processor={},
        picture="<boi><img><eoi>",
        facts={"pixels": 32},
    ),
    "kimi_k25": Family(
        config={
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
            "text_config.first_k_dense_replace": 0,
            "text_config.num_key_value_heads": 4,
            "vision_config.patch_size": 4,
            "vision_config.pos_emb_height": 8,
            "vision_config.pos_emb_width": 8,
            "projection_hidden_size": 32,
        },
        tokens=("<|vision_start|>", "<|vision_end|>"),
        named={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        image={"patch_size": 4, "merge_size": 2},
        video={"patch_size": 4, "merge_size": 2},
        processor={},
        picture="<|vision_start|><|image_pad|><|vision_end|>",
        facts={"pixels": 32},
    ),
    "ernie4_5_vl_moe": qwen(
        {
            "image_start_token_id": "<|vision_start|>",
            "image_end_token_id": "<|vision_end|>",
            "video_start_token_id": "<|vision_start|>",
            "video_end_token_id": "<|vision_end|>",
            "text_config.moe_intermediate_size": [16, 16],
            "text_config.moe_num_experts": 4,
            "text_config.mlp_layer_types": ["sparse", "sparse"],
            "text_config.rope_parameters": {**ROPE, "mrope_section": [2, 1, 1]},
            "vision_config.temporal_merge_size": 2,
            "vision_config.rope_parameters": ROPE,
        },
        tokens=(),
        named={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "image_start_token": "<|vision_start|>",
            "image_end_token": "<|vision_end|>",
            "video_start_token": "<|video_start|>",
            "video_end_token": "<|video_end|>",
        },
    ),
    "granite4_vision": llava(
        {
            "image_token_index": "<image>",
            "image_grid_pinpoints": PINPOINTS,
            "vision_feature_select_strategy": "default",
            "downsample_rate": "1/2",
            "deepstack_layer_map": [[-1, 0]],
            "spatial_target_layers": [],
            "projector_dropout": 0.0,
            "vision_config.hidden_size": 64,
        },
        image={**LLAVA_IMAGE, "kind": "LlavaNextImageProcessor", "image_grid_pinpoints": PINPOINTS},
        processor={
            "patch_size": 8,
            "vision_feature_select_strategy": "default",
            "downsample_rate": "1/2",
            "num_additional_image_tokens": 1,
        },
        facts={"pixels": 32},
    ),
    "granite_docling": Family(
        config={
            "image_token_id": "<image>",
            "vision_config.scale_factor": 2,
            "vision_config.use_fine_route": False,
            "vision_config.deepstack_visual_indexes": [0],
        },
        tokens=("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"),
        image={"size": SIDE},
        processor={"image_seq_len": 4},
        facts={"pixels": 32},
    ),
    "deepseek_vl_hybrid": Family(
        config={
            "image_token_id": "<image_placeholder>",
            "high_res_vision_config.output_channels": 16,
            "high_res_vision_config.image_size": 64,
            "high_res_vision_config.patch_size": 4,
            "high_res_vision_config.window_size": 2,
            "high_res_vision_config.mlp_dim": 32,
            "high_res_vision_config.global_attn_indexes": [1],
        },
        named={"image_token": "<image_placeholder>"},
        image={"size": SIDE, "high_res_size": {"height": 64, "width": 64}},
        processor={"num_image_tokens": 16},
        picture="<image_placeholder>",
        facts={"pixels": 32},
    ),
}
