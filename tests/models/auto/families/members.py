"""The families as data: what each type needs beside the sizes of ``small``."""

from __future__ import annotations

from tests.models.auto.families import builders
from tests.models.auto.families.further import FURTHER
from tests.models.auto.families.kin import (
    LLAVA_IMAGE,
    PINPOINTS,
    QWEN_IMAGE,
    QWEN_VIDEO,
    SIDE,
    TILES,
    VIDEO,
    glm,
    got,
    internvl,
    llava,
    qwen,
)
from tests.models.auto.families.mixers import MIXERS
from tests.models.auto.families.others import OTHERS
from tests.models.auto.families.small import Family
from tests.models.auto.families.views import VIEWS

MEMBERS: dict[str, Family] = {
    **OTHERS,
    **FURTHER,
    **VIEWS,
    **MIXERS,
    # --- LLaVA and its kin ---
    "llava": llava(),
    "vipllava": llava({"vision_feature_layers": [-2, -1]}),
    "llava_next": llava(
        {"image_grid_pinpoints": PINPOINTS},
        image={**LLAVA_IMAGE, "image_grid_pinpoints": PINPOINTS},
    ),
    "llava_next_video": llava(
        {"image_grid_pinpoints": PINPOINTS, **VIDEO},
        image={**LLAVA_IMAGE, "image_grid_pinpoints": PINPOINTS},
    ),
    "llava_onevision": llava(
        {"image_grid_pinpoints": PINPOINTS, "vision_feature_layer": -1, **VIDEO},
        image={"size": SIDE, "image_grid_pinpoints": PINPOINTS},
        processor={"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    "video_llava": llava({"image_token_index": "<image>", "video_token_index": "<video>"}),
    # --- Qwen and its kin ---
    "qwen2_vl": qwen({"vision_config.mlp_ratio": 2}),
    "qwen2_5_vl": qwen(
        {"vision_config.fullatt_block_indexes": [1], "vision_config.window_size": 16}
    ),
    "qwen3_vl": qwen(
        {
            "vision_config.deepstack_visual_indexes": [0],
            "vision_config.num_position_embeddings": 64,
        }
    ),
    "qwen3_vl_moe": qwen(
        {
            "vision_config.deepstack_visual_indexes": [0],
            "vision_config.num_position_embeddings": 64,
        },
        image={**QWEN_IMAGE, "kind": "Qwen2VLImageProcessor"},
    ),
    "exaone4_5": qwen(
        {
            "vision_config.fullatt_block_indexes": [1],
            "vision_config.window_size": 16,
            "vision_config.num_key_value_heads": 4,
        }
    ),
    "hyperclovax_vision_v2": qwen(
        {"vision_config.fullatt_block_indexes": [1], "vision_config.window_size": 16}
    ),
    "video_llama_3": qwen({}, image={"patch_size": 4, "merge_size": 2, "size": QWEN_IMAGE["size"]}),
    "paddleocr_vl": qwen(
        {},
        named={"image_token": "<|image_pad|>"},
        tokens=("<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
        image={"patch_size": 4, "merge_size": 2, "size": QWEN_IMAGE["size"]},
    ),
    # --- GLM ---
    "glm4v": glm(),
    "glm46v": glm(),
    "glm_ocr": glm(
        kind="Glm46VProcessor",
        image={**QWEN_IMAGE, "kind": "Glm46VImageProcessor"},
        video={**QWEN_VIDEO, "kind": "Glm46VVideoProcessor"},
    ),
    "glmga": glm(kind="Glm46VProcessor"),
    "glm4v_moe": glm(
        {"text_config.first_k_dense_replace": 0},
        image={**QWEN_IMAGE, "kind": "Glm4vImageProcessor"},
        video={**QWEN_VIDEO, "kind": "Glm4vVideoProcessor"},
    ),
    # --- tiles ---
    "internvl": internvl(),
    "qianfan_ocr": internvl(
        {"vision_config.drop_path_rate": 0.0}, picture="<image>", tokens=("<image>",)
    ),
    "got_ocr2": got(
        picture="<imgpad>",
        facts={"options": {"num_image_tokens": 16}},
    ),
    "aya_vision": Family(
        config={"image_token_index": "<|IMG_PATCH|>"},
        tokens=(
            "<image>",
            "<|IMG_PATCH|>",
            "<|START_OF_IMG|>",
            "<|END_OF_IMG|>",
            "<|IMG_LINE_BREAK|>",
            "TILE_GLOBAL",
        ),
        image=TILES,
        processor={"patch_size": 8, "img_size": 32, "downsample_factor": 2},
    ),
    "cohere2_vision": Family(
        config={"image_token_id": "<image>", "alignment_intermediate_size": 48},
        named={
            "image_token": "<image>",
            "boi_token": "<boi>",
            "eoi_token": "<eoi>",
            "img_line_break_token": "<br>",
        },
        image={**TILES, "patch_size": 2},
        processor={},
    ),
    "ovis2": Family(
        config={
            "image_token_id": "<IMG_ATOM>",
            "hidden_size": 32,
            "vision_config.hidden_stride": 1,
            "visual_indicator_token_ids": [
                "<IMG_START>",
                "<IMG_GRID>",
                "<IMG_COL>",
                "<IMG_ROW>",
                "<IMG_END>",
            ],
        },
        tokens=(
            "<image>",
            "<IMG_ATOM>",
            "<IMG_START>",
            "<IMG_GRID>",
            "<IMG_COL>",
            "<IMG_ROW>",
            "<IMG_END>",
        ),
        image=TILES,
        processor={"image_seq_length": 16},
    ),
    "idefics2": Family(
        config={"image_token_id": "<image>"},
        tokens=("<image>", "<fake_token_around_image>", "<end_of_utterance>"),
        image={"size": {"shortest_edge": 32, "longest_edge": 32}, "do_image_splitting": False},
        processor={"image_seq_len": 64},
    ),
    "perception_lm": Family(
        config={
            "image_token_id": "<|image|>",
            "video_token_id": "<|video|>",
            "projector_pooling_ratio": 2,
            "vision_use_cls_token": True,
            "vision_config.model_args": {
                "embed_dim": 32,
                "img_size": [32, 32],
                "patch_size": 8,
                "depth": 2,
                "num_heads": 4,
                "global_pool": "",
                "use_post_transformer_norm": False,
                "init_values": 0.1,
                "ref_feat_shape": [4, 4],
            },
            "vision_config.architecture": "vit_pe_core_base_patch16_224",
        },
        named={"image_token": "<|image|>", "video_token": "<|video|>"},
        image={"size": SIDE, "tile_size": 32, "max_num_tiles": 1, "vision_input_type": "vanilla"},
        processor={"patch_size": 8, "pooling_ratio": 2},
        picture="<|image|>",
        facts={"pixels": 32},
    ),
}

BUILDERS = {  # by hand
    "paligemma": builders.paligemma,
    "idefics3": builders.idefics3,
    "smolvlm": builders.smolvlm,
}
