"""Facts about a model's inputs: grid, template, opening, end."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from mmn_utils.models.auto.building import build_auto
from mmn_utils.models.auto.inputs import AutoFacts, _side, token_grid
from mmn_utils.models.base import ImageTokens
from tests.models.auto.families import llava, qwen2_vl, system
from tests.tiny import END, tiny_images


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
    assert _side(model.language_model.whole) == 16 * 4 * 2


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
