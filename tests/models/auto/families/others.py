"""Families that are like no other, and types that are refused."""

from __future__ import annotations

from tests.models.auto.families.kin import SIDE, gemma
from tests.models.auto.families.small import Family

OTHERS: dict[str, Family] = {
    "aria": Family(
        config={
            "image_token_index": "<image>",
            "projector_patch_to_query_dict": {49: 4},
            "text_config.moe_topk": 2,
            "vision_config.image_size": 490,
            "vision_config.patch_size": 70,
        },
        named={"image_token": "<image>"},
        processor={"size_conversion": {490: 4}},
        facts={"pixels": 490, "options": {"max_image_size": 490}},
    ),
    "llama4": Family(
        config={
            "image_token_index": "<|patch|>",
            "boi_token_index": "<|image_start|>",
            "eoi_token_index": "<|image_end|>",
            "text_config.interleave_moe_layer_step": 1,
            "text_config.num_experts_per_tok": 1,
            "text_config.intermediate_size_mlp": 48,
            "text_config.layer_types": ["full_attention"] * 2,
            "text_config.moe_layers": [0, 1],
            "text_config.no_rope_layers": [1, 1],
            "vision_config.vision_output_dim": 32,
            "vision_config.projector_input_dim": 32,
            "vision_config.projector_output_dim": 32,
            "vision_config.intermediate_size": 128,
            "vision_config.pixel_shuffle_ratio": 0.5,
        },
        tokens=(
            "<|image|>",
            "<|image_start|>",
            "<|image_end|>",
            "<|patch|>",
            "<|tile_x_separator|>",
            "<|tile_y_separator|>",
        ),
        image={"size": SIDE, "max_patches": 1},
        processor={"patch_size": 8},
        picture="<|image|>",
    ),
    "gemma3": gemma(),
    "janus": Family(
        config={
            "image_token_id": "<image_placeholder>",
            "vision_config.num_image_tokens": 16,
            "vision_config.projection_dim": 32,
            "vq_config.base_channels": 32,
            "vq_config.num_embeddings": 16,
            "vq_config.latent_channels": 32,
            "vq_config.image_token_embed_dim": 32,
            "vq_config.embed_dim": 8,
            "vq_config.channel_multiplier": [1, 1],
        },
        named={
            "image_token": "<image_placeholder>",
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
        },
        image={"size": SIDE},
        processor={"num_image_tokens": 16},
        picture="<image_placeholder>",
    ),
    "deepseek_vl": Family(
        config={"image_token_id": "<image_placeholder>"},
        named={"image_token": "<image_placeholder>"},
        image={"size": SIDE},
        processor={"num_image_tokens": 16},
        picture="<image_placeholder>",
    ),
    "lighton_ocr": Family(
        config={"image_token_id": "[IMG]", "vision_config.head_dim": 8, "spatial_merge_size": 2},
        named={
            "image_token": "[IMG]",
            "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
        },
        image={"size": {"longest_edge": 32}, "patch_size": {"height": 8, "width": 8}},
        processor={"patch_size": 8, "spatial_merge_size": 2},
        picture="[IMG]",
        facts={"pixels": 32},
    ),
    "instructblip": Family(
        config={"image_token_index": "<image>", "text_config.word_embed_proj_dim": 32},
        tokens=("<image>",),
        image={"size": SIDE},
        processor={"num_query_tokens": 4},
    ),
    "blip-2": Family(
        config={"image_token_index": "<image>", "text_config.word_embed_proj_dim": 32},
        tokens=("<image>",),
        image={"size": {"height": 32, "width": 32}},
        processor={"num_query_tokens": 4},
    ),
    "fuyu": Family(
        config={"patch_size": 8, "image_token_id": "|SPEAKER|"},
        tokens=("|SPEAKER|", "|NEWLINE|", "<s>", "<0x04>"),
        image={"size": {"height": 32, "width": 32}, "patch_size": {"height": 8, "width": 8}},
        processor={},
        underscore=True,
        facts={"pixels": 32, "options": {"return_legacy_image_output": False}},
    ),
    "mllama": Family(
        config={
            "image_token_index": "<|image|>",
            "text_config.cross_attention_layers": [1],
            "text_config.num_hidden_layers": 3,
            "vision_config.num_global_layers": 1,
            "vision_config.intermediate_layers_indices": [0],
            "vision_config.vision_output_dim": 64,
            "vision_config.max_num_tiles": 2,
            "vision_config.supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        tokens=("<|image|>", "<|python_tag|>"),
        image={"size": {"height": 32, "width": 32}, "max_image_tiles": 2},
        processor={},
        picture="<|image|>",
    ),
    "mistral3": Family(
        config={"image_token_index": "[IMG]", "vision_config.head_dim": 8, "spatial_merge_size": 2},
        tokens=("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        image={"size": {"longest_edge": 32}, "patch_size": {"height": 8, "width": 8}},
        processor={"patch_size": 8, "spatial_merge_size": 2},
        picture="[IMG]",
        facts={"pixels": 32},
    ),
    "shieldgemma2": gemma(kind="Gemma3Processor"),
    "diffusion_gemma": Family(config={"text_config.per_layer_config": {}}),
    "dots3_note": Family(
        config={"text_config.per_layer_config": {}, "text_config.num_key_value_heads": 4}
    ),
    "glm5_next": Family(config={"text_config.num_key_value_heads": 4}),
    "cohere_compass": Family(
        config={
            "text_config.layer_types": ["full_attention"] * 2,
            "text_config.rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        }
    ),
    "mistral_large4": Family(config={"text_config.kv_source_layers": [0, 1]}),
    "idefics": Family(
        config={
            "additional_vocab_size": 0,
            "vision_config.embed_dim": 32,
            "cross_layer_interval": 1,
        },
        tokens=("<image>", "<fake_token_around_image>", "<end_of_utterance>"),
        image={"image_size": 32},
        processor={"image_size": 32},
        picture="<image>",
        facts={"pixels": 32},
    ),
}
