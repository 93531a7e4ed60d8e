"""Tiny random models of the true classes behind the true processors."""

from __future__ import annotations

from functools import cache

import pytest
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    GemmaConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.smolvlm import processing_smolvlm

from mmn_utils.models.auto.building import build_auto
from tests.models.auto.families.parts import TURNS, VISION, lively, text_size, tokenizer_with

# --- the families ----------------------------------------------------------------------


def llava(text=None, **facts):
    tokenizer = tokenizer_with("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=text or LlamaConfig(**text_size(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        image_seq_length=16,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TURNS.replace("IMAGE", "<image>\n"),
    )
    return lively(LlavaForConditionalGeneration, config), processor, facts


def onevision():
    tokenizer = tokenizer_with("<image>", "<video>")
    pinpoints = [[32, 32], [32, 64], [64, 32], [64, 64]]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**VISION),
        text_config=Qwen2Config(**text_size(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(
            size={"height": 32, "width": 32}, image_grid_pinpoints=pinpoints
        ),
        tokenizer,
        LlavaOnevisionVideoProcessor(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=TURNS.replace("IMAGE", "<image>\n"),
    )
    return lively(LlavaOnevisionForConditionalGeneration, config), processor, {}


def qwen2_vl():
    tokens = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = tokenizer_with(*tokens)
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(tokens))
    text = {**text_size(tokenizer), "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
    }}  # fmt: skip
    config = Qwen2VLConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "embed_dim": 24,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    limits = {"shortest_edge": 16, "longest_edge": 64 * 64}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(size=limits, **sizes),
        tokenizer,
        Qwen2VLVideoProcessor(**sizes),
        chat_template=TURNS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return lively(Qwen2VLForConditionalGeneration, config), processor, {"pixels": 32}


def paligemma(text=GemmaConfig, **facts):
    tokenizer = tokenizer_with("<image>")
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer)
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**VISION, projection_dim=32, vision_use_head=False),
        text_config=text(**text_size(tokenizer), head_dim=8),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    model = lively(PaliGemmaForConditionalGeneration, config)
    return model, processor, {"template": "<image>caption en", **facts}


def idefics3():
    tokenizer = tokenizer_with(
        "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"
    )
    processor = Idefics3Processor(
        Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        tokenizer,
        image_seq_len=4,
        chat_template=TURNS.replace("IMAGE", "<image>"),
    )
    config = Idefics3Config(
        vision_config=VISION,
        text_config=LlamaConfig(**text_size(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return lively(Idefics3ForConditionalGeneration, config), processor, {}


def smolvlm():
    tokenizer = tokenizer_with(
        "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<video>"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processing_smolvlm, "num2words", str)  # it spells numbers of frames
        processor = SmolVLMProcessor(
            SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
            tokenizer,
            SmolVLMVideoProcessor(),
            image_seq_len=4,
            chat_template=TURNS.replace("IMAGE", "<image>"),
        )
    config = SmolVLMConfig(
        vision_config=VISION,
        text_config=LlamaConfig(**text_size(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return lively(SmolVLMForConditionalGeneration, config), processor, {}


def gemma3(window: int = 8, **facts):
    tokenizer = tokenizer_with(boi_token="<boi>", eoi_token="<eoi>", image_token="<soft>")
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 32, "width": 32}),
        tokenizer,
        image_seq_length=4,
        chat_template=TURNS.replace("IMAGE", "<boi>"),
    )
    text = Gemma3TextConfig(
        **text_size(tokenizer),
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=window,
        layer_types=["sliding_attention", "full_attention"],
    )
    config = Gemma3Config(
        text_config=text,
        vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    return lively(Gemma3ForConditionalGeneration, config), processor, facts


FAMILIES = {
    "llava": llava,
    "onevision": onevision,
    "qwen2_vl": qwen2_vl,
    "paligemma": paligemma,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "gemma3": gemma3,
}


def qwen3_vl():
    """Qwen2-VL's successor, which also adds the picture inside its first layers."""
    model, processor, facts = qwen2_vl()
    text = {**text_size(processor.tokenizer), "head_dim": 8, "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
    }}  # fmt: skip
    config = Qwen3VLConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=model.config.image_token_id,
        video_token_id=model.config.video_token_id,
    )
    return lively(Qwen3VLForConditionalGeneration, config), processor, facts


# --- as systems ------------------------------------------------------------------------


@cache
def system(family: str):
    """Build one system of a family, shared by the tests that leave it as it is."""
    model, processor, facts = FAMILIES[family]()
    return build_auto(family, model, processor, **facts)


@cache
def untouched(family: str):
    """Build the same model again, for references; no adapter ever has it."""
    return FAMILIES[family]()[0]


def wide_gemma3():
    """Build a Gemma 3 whose window holds the prompt."""
    model, processor, facts = gemma3(window=128)
    return build_auto("gemma3", model, processor, **facts)
