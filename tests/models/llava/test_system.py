"""LLaVA against transformers' own answers, its prompt, its pixels, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmn_utils.models.base import ImageTokens, Sizes
from mmn_utils.models.doctor import doctor
from mmn_utils.models.llava.system import Llava, LlavaFacts, wording
from mmn_utils.models.llava.whole import build_llava
from mmn_utils.models.pixels import to_pixels, to_square
from mmn_utils.neurons.captions import generate
from tests.models.llava.tiny import (
    BEFORE,
    COUNT,
    PATCH,
    PREFIX,
    ROWS,
    SIDE,
    WIDTH,
    tiny_llava,
    tiny_whole,
)
from tests.models.words import words
from tests.tiny import tiny_images


def processor():
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return LlavaProcessor(pictures, words(), PATCH, "default", num_additional_image_tokens=1)


def test_sizes_and_image_tokens(tiny):
    before = tiny.tokenizer.encode(BEFORE, add_special_tokens=False)
    assert tiny.image_tokens == ImageTokens(1 + len(before), COUNT, (4, 4), SIDE)
    assert tiny.sizes == Sizes(layers=3, units=48, width=32, vocabulary=ROWS)
    assert tiny.image_features(tiny_images(2)).shape == (2, COUNT, WIDTH)


def test_the_doctor_passes(tiny):
    report = doctor(tiny, tiny_images(3))
    assert report["passed"].all(), report.to_string()
    assert not report["passed"].isna().any()


@torch.no_grad()
def test_logits_are_those_of_transformers_from_picture_and_text():
    images = tiny_images(2)
    inputs = processor()(images=images, text=[f"{BEFORE}<image>{PREFIX}"] * 2, return_tensors="pt")
    reference = tiny_whole()
    expected = reference(**inputs).logits
    model = tiny_llava()
    logits, _ = model.forward(model.prompt(images), last_only=False)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    place = inputs["input_ids"][0].eq(reference.config.image_token_index).nonzero().flatten()
    tokens = model.image_tokens
    assert place.tolist() == list(range(tokens.start, tokens.start + tokens.count))


@torch.no_grad()
def test_greedy_captions_are_those_of_transformers():
    images = tiny_images(2)
    inputs = processor()(images=images, text=[f"{BEFORE}<image>{PREFIX}"] * 2, return_tensors="pt")
    ids = tiny_whole().generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = ids[:, inputs["input_ids"].shape[1] :].tolist()
    model = tiny_llava()
    captions = generate(model, model.prompt(images), 8)
    end = model.tokenizer.eos_token_id
    cut = [tuple(row[: row.index(end)] if end in row else row) for row in expected]
    assert [caption.ids for caption in captions] == cut


@torch.no_grad()
def test_features_are_an_earlier_layers_without_cls(tiny):
    images = tiny_images(2)
    states = tiny.vision(tiny.preprocess(images), output_hidden_states=True).hidden_states
    features = tiny.image_features(images)
    torch.testing.assert_close(features, states[2][:, 1:])  # of 0 (embeddings) to 3
    assert not torch.allclose(features, states[3][:, 1:])
    later = build_llava(LlavaFacts(), tiny_whole(vision_feature_layer=-1), words())
    assert later.facts.vision_layer == -1


def test_the_prompt_is_text_picture_text(tiny):
    images = tiny_images(2)
    prompt, tokens = tiny.prompt(images), tiny.image_tokens
    start = [tiny.tokenizer.bos_token_id, *tiny.tokenizer.encode(BEFORE, add_special_tokens=False)]
    behind = tiny.tokenizer.encode(PREFIX, add_special_tokens=False)
    assert prompt.embeds.shape == (2, len(start) + COUNT + len(behind), 32)
    table = tiny.language_model.model.embed_tokens.weight
    assert torch.equal(prompt.embeds[1, : tokens.start], table[start])
    end = tokens.start + tokens.count
    assert torch.equal(prompt.embeds[1, tokens.start : end], tiny.soft_prompt(images)[1])
    assert torch.equal(prompt.embeds[0, end:], table[behind])
    assert tiny.prompt(images, "").embeds.shape[1] == end
    assert tiny.prompt(images, " a horse").embeds.shape[1] == end + 2


def test_both_ways_to_encode_agree_where_no_blank_is_added():
    apart, whole = tiny_llava(tokenizer=words(placeholder=False)), tiny_llava()
    images = tiny_images(1)
    assert torch.equal(apart.prompt(images).embeds, whole.prompt(images).embeds)
    assert tiny_llava(bos=False).image_tokens.start == whole.image_tokens.start - 1


def test_prompts_of_the_published_templates():
    before, behind = wording("llama_2")
    assert before.startswith("[INST] <<SYS>>\nYou are a helpful language and vision assistant.")
    assert before.endswith("natural language.\n<</SYS>>\n\n")
    assert behind == "\nDescribe the image in few words. [/INST]An image of"  # glued, as B has it
    assert wording("vicuna") == (
        "USER: ",
        "\nDescribe the image in few words. ASSISTANT: An image of",
    )
    assert wording("vicuna", "Where?", "") == ("USER: ", "\nWhere? ASSISTANT:")
    model = tiny_llava(before=before, prefix=behind)
    table = model.language_model.model.embed_tokens.weight
    prompt = model.prompt(tiny_images(1)).embeds[0]
    end = model.image_tokens.start + model.image_tokens.count
    behind_ids = model.tokenizer.encode(behind, add_special_tokens=False)
    assert torch.equal(prompt[end:], table[behind_ids])
    assert model.tokenizer.decode(behind_ids) == behind
    with pytest.raises(ValueError, match="template = 'llama': choose from llama_2, vicuna"):
        wording("llama")


# --- pixels -----------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 40), st.integers(0, 99))
def test_the_cut_out_square_is_that_of_clips_processor(width, height, side, seed):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    clip = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    expected = clip([image], return_tensors="pt")["pixel_values"]
    facts = LlavaFacts()
    pixels = to_pixels([image], side, facts.mean, facts.std, fit="crop", resample="bicubic")
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)


def test_what_lies_beyond_the_square_is_not_seen(tiny):
    image = Image.new("RGB", (3 * SIDE, SIDE), "black")
    for left in (0, 2 * SIDE):
        image.paste("white", (left, 0, left + SIDE // 2, SIDE))
    middle = tiny.preprocess([image])[..., 4:-4]
    black = tiny.preprocess([Image.new("RGB", (SIDE, SIDE), "black")])[..., 4:-4]
    torch.testing.assert_close(middle, black)
    mask = Image.new("L", (3 * SIDE, SIDE), 0)
    mask.paste(255, (SIDE, 0, 2 * SIDE, SIDE))
    assert np.asarray(to_square(mask, SIDE, "crop", "nearest")).min() == 255
    for bad in ({"fit": "stretch"}, {"resample": "lanczos"}):
        with pytest.raises(ValueError, match="choose from"):
            to_square(mask, SIDE, **bad)


# --- bad input --------------------------------------------------------------------------


def test_systems_of_other_parts_are_refused(tiny):
    for facts, says in (
        ({"vision_feature_layer": [-2, -1]}, r"vision_feature_layer = \[-2, -1\]"),
        ({"vision_feature_select_strategy": "full"}, "without CLS"),
    ):
        with pytest.raises(ValueError, match=says):
            build_llava(LlavaFacts(), tiny_whole(**facts), words())
    whole = tiny_whole()
    whole.config.text_config.model_type = "mistral"
    with pytest.raises(ValueError, match="clip_vision_model and mistral"):
        build_llava(LlavaFacts(), whole, words())
    linear = torch.nn.Linear(24, 31)
    with pytest.raises(ValueError, match=r"from and to \(24, 31\) does not fit .* from 24 to 32"):
        Llava(LlavaFacts(), tiny.vision, linear, tiny.language_model, words())


def test_texts_that_do_not_fit_are_refused(tiny):
    with pytest.raises(ValueError, match="the picture's place is fixed"):
        tiny.prompt(tiny_images(1), "two <image> pictures")
    with pytest.raises(ValueError, match="give a list of pictures"):
        tiny.prompt(tiny_images(1)[0])
    tokenizer = words()
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="no token for the beginning of text"):
        tiny_llava(tokenizer=tokenizer)
