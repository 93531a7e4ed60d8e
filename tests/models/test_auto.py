"""Any model of transformers: found by walking its modules, equal to its own forward, or refused.

Tiny random models of the true classes behind the true processors. The reference is always
the model's own: its forward on ids and pixels, and its ``generate``.
"""

from __future__ import annotations

import copy
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    MixtralConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    Phi3Config,
    PreTrainedTokenizerFast,
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
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.smolvlm import processing_smolvlm

from mmn_utils.interventions.sweeps import sweep
from mmn_utils.models import auto, auto_inputs, auto_modules
from mmn_utils.models.auto import Unsupported, build_auto, find_architecture, load_auto
from mmn_utils.models.auto_inputs import AutoFacts, token_grid
from mmn_utils.models.base import Architecture, ImageTokens
from mmn_utils.models.capture import capture
from mmn_utils.models.doctor import CHECKS, doctor
from mmn_utils.models.hub import MissingParts
from mmn_utils.models.language_part import GivenPrompt
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from tests.tiny import END, PADDING, tiny_images, tiny_tokenizer

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.1,
}
TURNS = (  # a chat template in the manner of LLaVA's
    "{% for m in messages %}USER: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def tokenizer_with(*tokens: str, **named: str) -> PreTrainedTokenizerFast:
    """Copy the tiny tokenizer and add special tokens, some under names."""
    backend = copy.deepcopy(tiny_tokenizer().backend_tokenizer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        bos_token=END,
        pad_token=END,
        extra_special_tokens=named,
    )
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    return tokenizer


def lively(kind, config, seed: int = 0, spread: float = 0.1):
    """Build a model whose every parameter is random, so that a forgotten gain or bias shows.

    Seeded before it is built, as transformers draws weights there.
    """
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.3 if parameter.ndim == 1 else spread
            parameter.add_(size * torch.randn_like(parameter))
    return model.eval()


def text_size(tokenizer) -> dict:
    return {**TEXT, "vocab_size": len(tokenizer) + PADDING}


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
    "gemma3": partial(gemma3, fold_norms=True),
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


@cache
def system(family: str):
    """Build one system of a family, shared by the tests that leave it as it is."""
    model, processor, facts = FAMILIES[family]()
    return build_auto(family, model, processor, **facts)


@cache
def untouched(family: str):
    """Build the same model again, for references; no adapter ever has it."""
    return FAMILIES[family]()[0]


def gated(part: str, **changes) -> Architecture:
    """Name the modules of a decoder like LLaMA's that lies at ``part``."""
    names = {
        "layers": f"{part}.layers",
        "pre": "mlp.gate_proj",
        "act": "mlp.down_proj",
        "attention": "self_attn.o_proj",
        "norm": f"{part}.norm",
        "unembed": "lm_head",
        "gate": "mlp.act_fn",
    }
    return Architecture(**{**names, **changes})


INSIDE = dict.fromkeys(FAMILIES, "model.language_model")
INSIDE |= dict.fromkeys(("idefics3", "smolvlm"), "model.text_model")
TOKENS = {  # tokens before the picture, image tokens, grid
    "llava": (6, 16, (4, 4)),
    "onevision": (6, 36, None),  # the whole, one tile, and the ends of its rows
    "qwen2_vl": (7, 16, (4, 4)),
    "paligemma": (0, 16, (4, 4)),
    "idefics3": (8, 4, (2, 2)),
    "smolvlm": (8, 4, (2, 2)),
    "gemma3": (9, 4, (2, 2)),
}
every = pytest.mark.parametrize("family", list(FAMILIES))


# --- every family -----------------------------------------------------------------------


@every
def test_modules_are_found_where_they_are(family):
    assert find_architecture(untouched(family)) == gated(INSIDE[family])
    start, count, grid = TOKENS[family]
    assert system(family).image_tokens == ImageTokens(start, count, grid, 32)


@every
def test_the_doctor_passes(family):
    report = doctor(system(family), tiny_images(2))
    assert report["check"].tolist() == list(CHECKS)
    assert report["passed"].all(), report.to_string()
    assert not report["passed"].isna().any()


@every
@torch.no_grad()
def test_logits_are_those_of_the_own_forward_on_ids_and_pixels(family):
    """The reference never sees the adapter's embeddings, positions or token types."""
    whole, model, images = untouched(family), system(family), tiny_images(3)
    own = whole(**auto_modules.accepted(whole.forward, model.reader(images))).logits
    mine, _ = model.forward(model.prompt(images), last_only=False)
    torch.testing.assert_close(mine, own, atol=2e-5, rtol=1e-4)
    assert (own[0] - own[1]).abs().max() > 0.01  # the pictures matter


@every
@torch.no_grad()
def test_captions_are_those_of_the_own_generate(family):
    reference, model, images = untouched(family), system(family), tiny_images(2)
    inputs = auto_modules.accepted(reference.forward, model.reader(images))
    own = reference.generate(
        **inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    ids, prompt = own.sequences[:, -6:], model.prompt(images)
    forced = prompt.extend(model.embed(ids[:, :-1]))
    whole, _ = model.forward(forced, last_only=False)  # in one pass, no cache
    expected = torch.stack(own.logits, dim=1)
    torch.testing.assert_close(whole[:, -6:], expected, atol=2e-5, rtol=1e-4)
    _, past = model.forward(prompt, use_cache=True)
    for step in range(5):  # and token by token
        prompt = prompt.extend(model.embed(ids[:, step : step + 1]))
        logits, past = model.forward(prompt.tail(1), past=past, use_cache=True)
        torch.testing.assert_close(logits, expected[:, step + 1], atol=2e-5, rtol=1e-4)


@every
def test_a_picture_of_any_size_has_the_same_tokens(family):
    model = system(family)
    sizes = [(64, 16), (5, 90), (32, 32), (1, 1)]
    images = [tiny_images(1)[0].resize(size) for size in sizes]
    soft = model.soft_prompt(images)
    assert soft.shape == (4, model.image_tokens.count, 32)
    alone = torch.cat([model.soft_prompt([image]) for image in images])
    torch.testing.assert_close(soft, alone, atol=1e-5, rtol=1e-4)
    features = model.image_features(images)
    assert features.shape[0] == 4
    assert model.preprocess(images).dtype == torch.float32


@every
def test_the_prefix_is_what_follows_the_picture(family):
    model, images = system(family), tiny_images(1)
    prompt = model.prompt(images)
    assert prompt.given == prompt.embeds.shape[1] == model.language_model.given
    same = model.prompt(images, model.prefix)
    torch.testing.assert_close(same.embeds, prompt.embeds, atol=0, rtol=0)
    longer = model.prompt(images, model.prefix + " a horse")
    assert longer.embeds.shape[1] > prompt.embeds.shape[1]
    start, count = model.image_tokens.start, model.image_tokens.count
    torch.testing.assert_close(
        prompt.embeds[0, start : start + count], model.soft_prompt(images)[0], atol=0, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma3", "paligemma", "qwen2_vl"])
def test_sweeps_cut_and_repeat_the_cache(family):
    """Gemma 3 has a window of 8 tokens, and the cache is cut far behind it."""
    model, images = system(family), tiny_images(1)
    prompt = model.prompt(images)
    whole = generate(model, prompt, 4)[0]
    goal = Target("0", "noun", 5, whole.ids[:2])
    result = sweep(model, prompt, goal, [[], [Neuron(0, 3)]], max_new_tokens=4)
    assert result.unablated.ids == whole.ids
    forced = prompt.extend(model.embed(torch.tensor([list(whole.ids[:2])])))
    expected = model.forward(forced)[0][0, 5]
    assert result.logit[0] == pytest.approx(float(expected), abs=1e-4)
    assert result.logit[1] != result.logit[0]


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "gemma3", "paligemma", "qwen2_vl"])
def test_padding_in_front_of_a_caption_is_not_seen(family):
    """Behind a caption causality hides it; in front only the mask does."""
    model = wide_gemma3() if family == "gemma3" else system(family)
    prompt = model.prompt(tiny_images(2))
    ids, mask = torch.tensor([[5, 9], [7, 11]]), torch.tensor([[0, 1], [1, 1]])
    padded = prompt.extend(model.embed(ids), mask)
    alone = prompt.select([0]).extend(model.embed(ids[:1, 1:]))
    expected = model.forward(alone)[0]
    torch.testing.assert_close(model.forward(padded)[0][:1], expected, atol=2e-5, rtol=1e-4)
    _, past = model.forward(prompt, use_cache=True)
    cached, _ = model.forward(padded.tail(2), past=past, use_cache=True)
    torch.testing.assert_close(cached[:1], expected, atol=2e-5, rtol=1e-4)


def wide_gemma3():
    """Build a Gemma 3 whose window holds the prompt."""
    model, processor, facts = gemma3(window=128, fold_norms=True)
    return build_auto("gemma3", model, processor, **facts)


@torch.no_grad()
def test_padding_that_would_take_room_in_a_window_is_refused():
    """transformers counts padding as places of the window: its logits would be others."""
    model = system("gemma3")
    prompt, two = model.prompt(tiny_images(2)), torch.zeros(2, 2, 32)
    assert model.language_model.window == 8
    with pytest.raises(ValueError, match=r"window of 8 with padding; pad behind the end"):
        model.forward(prompt.extend(two, torch.tensor([[0, 1], [1, 1]])))
    _, past = model.forward(prompt, use_cache=True)
    gap = prompt.extend(two, torch.tensor([[0, 1], [1, 1]])).tail(2)
    with pytest.raises(ValueError, match="padding stands before real tokens"):
        model.forward(gap, past=past, use_cache=True)
    model.forward(prompt.extend(two, torch.tensor([[1, 0], [1, 1]])))  # behind the end: no harm
    assert system("llava").language_model.window is None
    assert system("onevision").language_model.window is None


# --- positions and who sees whom --------------------------------------------------------


@torch.no_grad()
def test_positions_are_those_of_multimodal_rope():
    model, images = system("qwen2_vl"), tiny_images(2)
    inputs = model.reader(images)
    own, shift = model.language_model.whole.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
    )
    prompt = model.prompt(images)
    mine = model.language_model._own_positions(prompt.positions)
    assert torch.equal(mine, own)
    assert shift.unique().tolist() == [4 - 16]  # 16 tokens move on by the grid's side
    longer = prompt.extend(torch.zeros(2, 3, 32), torch.tensor([[1, 1, 1], [0, 1, 1]]))
    later = model.language_model._own_positions(longer.positions)[0, :, -3:]
    last = int(own[0, 0, -1])
    assert later.tolist() == [[last + 1, last + 2, last + 3], [last, last + 1, last + 2]]


@torch.no_grad()
def test_positions_that_count_from_one_are_kept():
    model = system("paligemma")
    places = model.language_model._own_positions(torch.arange(30)[None])
    assert places.tolist() == [list(range(1, 31))]
    assert system("llava").language_model.table is None or torch.equal(
        system("llava").language_model._own_positions(torch.arange(30)[None])[0], torch.arange(30)
    )


def seen_by_first(model, change: int, caption: int = 0) -> float:
    """Measure how far a change of one token moves the logits at the first image token."""
    prompt = model.prompt(tiny_images(1))
    if caption:
        prompt = prompt.extend(torch.zeros(1, caption, 32))
    moved = prompt.embeds.clone()
    moved[0, change] += 1.0
    other = GivenPrompt(moved, prompt.mask, prompt.positions, prompt.given)
    first = model.image_tokens.start
    one, two = (model.forward(p, last_only=False)[0][0, first] for p in (prompt, other))
    return float((one - two).abs().max())


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "picture", "prompt"),
    [("llava", False, False), ("gemma3", True, False), ("paligemma", True, True)],
)
def test_who_sees_whom(family, picture, prompt):
    """LLaVA sees backwards only, Gemma 3 within the picture, PaliGemma within the prompt."""
    model = system(family)
    last_image = model.image_tokens.start + model.image_tokens.count - 1
    assert (seen_by_first(model, last_image) > 1e-4) == picture
    assert (seen_by_first(model, -1) > 1e-4) == prompt
    assert seen_by_first(model, -1, caption=2) == 0  # never into the caption


@torch.no_grad()
def test_a_caption_is_causal_behind_a_prompt_that_is_not():
    """PaliGemma's own forward, told by token types where the caption begins."""
    model, images = system("paligemma"), tiny_images(1)
    inputs, more = model.reader(images), torch.tensor([[7, 9, 11]])
    own = untouched("paligemma")(
        input_ids=torch.cat([inputs["input_ids"], more], dim=1),
        pixel_values=inputs["pixel_values"],
        token_type_ids=torch.cat([inputs["token_type_ids"], torch.ones_like(more)], dim=1),
    ).logits
    mine, _ = model.forward(model.prompt(images).extend(model.embed(more)), last_only=False)
    torch.testing.assert_close(mine, own, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_text_of_another_length_is_a_prompt_too():
    whole, model, images = untouched("paligemma"), system("paligemma"), tiny_images(1)
    text = "A picture of two horses near a red barn and a dog and a cat on the grass."
    inputs = model.reader.processor(
        text=[f"<image>{text}"], images=auto_inputs._squares(images, 32), return_tensors="pt"
    )
    own = whole(**auto_modules.accepted(whole.forward, inputs)).logits
    prompt = model.prompt(images, f"{END}{text}\n")  # as PaliGemma's processor writes it
    assert prompt.given == own.shape[1]
    assert prompt.given != model.language_model.given
    torch.testing.assert_close(model.forward(prompt, last_only=False)[0], own, atol=2e-5, rtol=1e-4)


def test_prompts_remember_what_was_given():
    prompt = system("paligemma").prompt(tiny_images(2))
    longer = prompt.extend(torch.zeros(2, 2, 32))
    for part in (longer, longer.tail(1), longer.repeat(3), longer.select([1])):
        assert part.given == prompt.given
    assert longer.embeds.shape[1] == prompt.given + 2


# --- norms behind the MLP ---------------------------------------------------------------


def test_a_norm_behind_the_mlp_is_named():
    model, processor, _ = gemma3()
    with pytest.raises(Unsupported, match="post_feedforward_layernorm of Gemma3ForConditional"):
        build_auto("gemma3", model, processor)


@torch.no_grad()
def test_folded_write_vectors_are_what_units_add_to_the_stream():
    model = system("gemma3")
    assert model.architecture.attention == "post_attention_layernorm"
    whole, added, hooks = untouched("gemma3"), {}, []
    for index, layer in enumerate(whole.model.language_model.layers):
        hook = partial(lambda index, _m, _in, out: added.update({index: out}), index)
        hooks.append(layer.post_feedforward_layernorm.register_forward_hook(hook))
    whole(**auto_modules.accepted(whole.forward, model.reader(tiny_images(1))))
    for hook in hooks:
        hook.remove()
    with capture(model) as seen:
        model.forward(model.prompt(tiny_images(1)))
    for index, out in added.items():
        mine = seen.values[index] @ model.write_vectors(index)
        torch.testing.assert_close(mine, out, atol=1e-5, rtol=1e-4)


class Norm(nn.Module):
    """An RMS norm with a gain, as Gemma and LLaMA have it."""

    def __init__(self, gain, eps):
        super().__init__()
        self.gain, self.eps = gain, eps

    def forward(self, x):
        return self.gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


@given(st.integers(0, 10_000), st.sampled_from([1e-6, 1e-5, 1e-2]), st.floats(1e-3, 100))
@settings(max_examples=25)
@torch.no_grad()
def test_folding_is_the_norm_of_the_matrix(seed, eps, size):
    torch.manual_seed(seed)
    matrix, norm = nn.Linear(12, 8, bias=False), Norm(torch.randn(8), eps)
    activation = size * torch.randn(2, 3, 12)
    gain, found = auto_modules._rms(norm, matrix, "here")
    assert found == eps
    folded = auto_modules.FoldedNorm(matrix, gain, found)
    torch.testing.assert_close(folded(activation), norm(matrix(activation)), atol=1e-5, rtol=1e-4)


def test_what_cannot_be_folded_is_said():
    with pytest.raises(Unsupported, match="here is a LayerNorm, no RMS norm"):
        auto_modules._rms(nn.LayerNorm(8), nn.Linear(12, 8, bias=False), "here")
    model, processor, _ = gemma3()
    mlp = model.model.language_model.layers[1].mlp
    mlp.down_proj = nn.Linear(48, 32, bias=True)
    with pytest.raises(Unsupported, match=r"layers.1.mlp.down_proj has a bias"):
        build_auto("gemma3", model, processor, fold_norms=True)


# --- what does not fit ------------------------------------------------------------------


def text_of(kind, **facts):
    return kind(**text_size(tokenizer_with("<image>")), **facts)


UNKNOWN = {
    "experts": (
        partial(text_of, MixtralConfig, num_local_experts=2),
        r"model.language_model.layers.0.* is a Mixtral\w+ \(.*MLP of no known shape",
    ),
    "fused gate": (
        partial(text_of, Phi3Config),
        r"model.language_model.layers.0.mlp is a Phi3MLP \(gate_up_proj.*no known shape",
    ),
    "scaled residual": (
        partial(text_of, GraniteConfig, residual_multiplier=0.5),
        r"layers.0 of Llava.*adds more, or other.*residual_multiplier = 0.5",
    ),
    "scaled embeddings": (
        partial(text_of, GraniteConfig, embedding_multiplier=3.0),
        r"changes its embeddings before .*layers.0.*embedding_multiplier = 3.0",
    ),
}


@pytest.mark.parametrize("name", list(UNKNOWN))
def test_an_unknown_part_is_named_with_class_and_module(name):
    text, message = UNKNOWN[name]
    model, processor, _ = llava(text())
    with pytest.raises(Unsupported, match=message):
        build_auto("unknown", model, processor)


def test_capped_logits_are_named_once_the_norms_are_folded():
    model, processor, facts = paligemma(partial(Gemma2Config, final_logit_softcapping=2.0))
    with pytest.raises(Unsupported, match="post_feedforward_layernorm of PaliGemma"):
        build_auto("paligemma2", model, processor, **facts)
    with pytest.raises(Unsupported, match=r"logits after lm_head .final_logit_softcapping = 2.0"):
        build_auto("paligemma2", model, processor, **facts, fold_norms=True)


def test_pictures_that_also_enter_later_layers_are_refused():
    model, processor, facts = qwen3_vl()
    with pytest.raises(Unsupported, match=r"not those of .*Qwen3VL.*own generate"):
        build_auto("qwen3_vl", model, processor, **facts)


def test_layers_that_differ_are_refused():
    model, processor, _ = llava()
    mlp = model.model.language_model.layers[1].mlp
    del mlp.up_proj, mlp.gate_proj
    mlp.up_proj = nn.Linear(32, 48)
    with pytest.raises(Unsupported, match=r"layers.1.mlp is shaped unlike"):
        build_auto("llava", model, processor)


def test_models_without_image_tokens_are_refused():
    text = LlamaForCausalLM(LlamaConfig(**{**TEXT, "vocab_size": 40}))
    with pytest.raises(Unsupported, match="LlamaForCausalLM has no get_image_features"):
        build_auto("text", text, tiny_tokenizer())
    small = T5Config(vocab_size=40, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    with pytest.raises(Unsupported, match=r"T5.* is an encoder with a decoder"):
        build_auto("t5", T5ForConditionalGeneration(small), tiny_tokenizer())


def test_several_views_are_not_contiguous():
    model, processor, _ = idefics3()
    with pytest.raises(Unsupported, match=r"not contiguous \(runs of 4, 4, 4, 4, 4\)"):
        build_auto("idefics3", model, processor, options={"do_image_splitting": True})


def test_wrong_positions_are_noticed():
    model = system("qwen2_vl")
    broken = copy.copy(model)
    broken.language_model = copy.copy(model.language_model)
    broken.language_model.ahead = model.language_model.ahead + 3
    with pytest.raises(Unsupported, match="after the picture are not those"):
        auto._compare(broken, tiny_images(1))


def test_wrong_token_types_are_noticed():
    model = system("paligemma")
    broken = copy.copy(model)
    broken.language_model = copy.copy(model.language_model)
    broken.language_model.types = {
        name: (row, text, text) for name, (row, text, _) in model.language_model.types.items()
    }
    with pytest.raises(Unsupported, match="one token later are not those"):
        auto._compare(broken, tiny_images(1))


# --- facts ------------------------------------------------------------------------------


def test_a_grid_is_only_where_there_is_one():
    with pytest.raises(ValueError, match="36 image tokens of onevision are no single grid"):
        system("onevision").require_grid()
    model, processor, _ = llava()
    with pytest.raises(ValueError, match=r"grid = \(3, 3\) does not hold 16"):
        build_auto("llava", model, processor, grid=(3, 3), check=False)
    given = build_auto("llava", model, processor, grid=(2, 8), check=False)
    assert given.require_grid() == (2, 8)
    none = build_auto("llava", model, processor, grid=None, check=False)
    assert none.image_tokens.grid is None


def test_queries_have_no_grid():
    model, _, _ = llava()
    facts = AutoFacts()
    assert token_grid(model, facts, {}, tower=17, count=16) == (4, 4)  # with a class token
    assert token_grid(model, facts, {}, tower=256, count=16) == (4, 4)  # merged 4 x 4
    assert token_grid(model, facts, {}, tower=100, count=16) is None
    assert token_grid(model, facts, {}, tower=17, count=17) is None
    model.resampler = type("TinyPerceiver", (nn.Module,), {})()
    assert token_grid(model, facts, {}, tower=16, count=16) is None


def test_pixels_set_the_grid_where_the_tower_takes_any_size():
    model, processor, _ = qwen2_vl()
    model = build_auto("qwen2_vl", model, processor, pixels=48)
    assert model.image_tokens == ImageTokens(7, 36, (6, 6), 48)
    assert auto_inputs._side(model.language_model.whole) == 16 * 4 * 2


def test_the_opening_and_the_template():
    model, processor, _ = llava()
    build = partial(build_auto, "llava", model, processor, check=False)
    assert build(opening="").prefix.endswith("ASSISTANT:")
    assert build(question="").prefix == "\n ASSISTANT: An image of"
    plain = build(template="A <image> of")
    assert plain.prefix == " of"
    assert plain.image_tokens.start == len(processor.tokenizer.encode("A "))
    with pytest.raises(
        ValueError, match="template = 'no picture': give a text with <image> in it once"
    ):
        build(template="no picture")


def test_facts_that_change_the_prompt_change_the_revision():
    model, processor, _ = llava()
    build = partial(build_auto, "llava", model, processor, check=False, revision="abc")
    first, other = build(), build(template="The <image> An image of")
    assert first.revision.startswith("abc-")
    assert first.revision == build().revision
    assert first.revision != other.revision
    assert first.revision != build(question="A horse?").revision


def test_a_caption_may_end_with_another_token():
    model, processor, _ = llava()
    built = build_auto("llava", model, processor, end="<image>", check=False)
    assert built.tokenizer.eos_token == "<image>"
    assert processor.tokenizer.eos_token == END  # the processor's own is left alone
    with pytest.raises(ValueError, match="end = '<stop>' is no token"):
        build_auto("llava", model, processor, end="<stop>", check=False)


def test_a_tokenizer_alone_needs_a_template():
    model, processor, _ = llava()
    tokenizer = processor.tokenizer
    with pytest.raises(ValueError, match="give template="):
        build_auto("llava", model, tokenizer)
    built = build_auto("llava", model, tokenizer, template="A picture <image> of")
    before = len(tokenizer.encode("A picture "))
    assert built.image_tokens == ImageTokens(before, 16, (4, 4), 32)
    mine, _ = built.forward(built.prompt(tiny_images(2)), last_only=False)
    torch.testing.assert_close(mine, built.own_logits(tiny_images(2)), atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="in it once"):
        build_auto("llava", model, tokenizer, template="<image> <image>")


def test_pictures_come_in_a_list():
    model = system("llava")
    with pytest.raises(ValueError, match="list of pictures"):
        model.prompt(tiny_images(1)[0])
    with pytest.raises(ValueError, match="no pictures"):
        model.prompt([])


# --- loading ----------------------------------------------------------------------------


@torch.no_grad()
def test_a_saved_model_loads_as_it_was(tmp_path):
    model, processor, _ = llava()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, built = load_auto(tmp_path), build_auto("llava", model, processor)
    images = tiny_images(2)
    expected = built.forward(built.prompt(images))[0]
    assert torch.equal(loaded.forward(loaded.prompt(images))[0], expected)
    assert loaded.image_tokens == built.image_tokens
    half = load_auto(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    waves = [b for n, b in half.language_model.named_buffers() if n.endswith("inv_freq")]
    assert waves
    assert all(wave.dtype == torch.float32 for wave in waves)  # positions stay exact


def test_missing_parts_come_with_the_command_that_gets_them(tmp_path):
    with pytest.raises(MissingParts, match="hf download someone/some-vlm --include"):
        load_auto("someone/some-vlm")
    with pytest.raises(MissingParts, match="--revision v2"):
        load_auto("someone/some-vlm", revision="v2")
    with pytest.raises(MissingParts, match="not complete"):
        load_auto(tmp_path)


def test_a_folder_that_is_no_such_model_is_said(tmp_path):
    LlamaForCausalLM(LlamaConfig(**{**TEXT, "vocab_size": 40})).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match="holds a 'llama', which is no image-text-to-text"):
        load_auto(tmp_path)


def test_a_processor_that_does_not_load_is_said(tmp_path):
    model, _, _ = llava()
    model.save_pretrained(tmp_path)
    with pytest.raises(MissingParts, match="has no processor that loads"):
        load_auto(tmp_path)


def test_weights_that_are_absent_are_not_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    model, processor, _ = llava()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    gone = next(name for name in state if name.endswith("down_proj.weight"))
    save_file({k: v for k, v in state.items() if k != gone}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, among them .*down_proj"):
        load_auto(tmp_path)
