"""Facts about a model's inputs: grid, template, opening, end."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import nn

from mmn_utils.models import load_model
from mmn_utils.models.auto.building import build_auto
from mmn_utils.models.auto.inputs import AutoFacts, _side, token_grid, token_span
from mmn_utils.models.base import ImageTokens
from mmn_utils.models.capture import capture
from mmn_utils.neurons.captions import as_caption, generate
from mmn_utils.neurons.receptive_fields import activation_maps
from mmn_utils.neurons.table import Neuron
from tests.models.auto.families import idefics3, llava, qwen2_vl, system
from tests.models.auto.families.table import system_of
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


def test_rows_with_ends_are_a_grid_and_several_views_are_none():
    """Of 4 x 4 tokens with an end behind each row but the last, ends have no place."""
    model, _, _ = llava()
    ids = torch.tensor([7, *[9, 9, 9, 9, 5] * 3, 9, 9, 9, 9, 6, 8])
    start, count, between = token_span(model, ids, 9)
    assert (start, count, between) == (1, 19, {4, 9, 14})
    assert token_grid(model, AutoFacts(), {}, 0, count, between) == (4, 4)
    places = ImageTokens(start, count, (4, 4), 32, between).places
    assert (ids[places] == 9).all()
    assert places[4:8] == [6, 7, 8, 9]
    views = torch.tensor([7, 9, 9, 9, 9, 5, 9, 9, 9, 9, 8])
    assert token_span(model, views, 9) == (1, 9, {4})
    assert token_grid(model, AutoFacts(), {}, 0, 9, {4}) is None
    with pytest.raises(ValueError, match="has no image token 3"):
        token_span(model, ids, 3)


@torch.no_grad()
def test_several_views_are_read_without_a_heat_map():
    model, processor, _ = idefics3()
    found = build_auto("idefics3", model, processor, options={"do_image_splitting": True})
    assert found.image_tokens.grid is None
    assert found.soft_prompt(tiny_images(2)).shape == (2, 5 * 4, 32)
    with pytest.raises(ValueError, match="several views"):
        found.require_grid()


@torch.no_grad()
@pytest.mark.parametrize("name", ["mistral3", "fuyu"])
def test_heat_maps_leave_the_ends_of_rows_out(name):
    model, images = system_of(name), tiny_images(2)
    rows, columns = model.require_grid()
    with capture(model, layers=[1]) as seen:
        model.forward(model.prompt(images))
    grid = activation_maps(model, images, [Neuron(1, 3)])[:, 0]
    first, step = model.image_tokens.start, columns + 1
    for row in range(rows):
        begin = first + row * step
        own = seen.values[1][:, begin : begin + columns, 3]
        torch.testing.assert_close(grid[:, row], own, atol=1e-5, rtol=1e-4)


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
    more = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert built.end_tokens == {0, more}
    assert processor.tokenizer.eos_token == END
    model.generation_config.eos_token_id = [7, 8]
    assert build_auto("llava", model, processor, check=False).end_tokens == {0, 7, 8}
    model.generation_config.eos_token_id = None
    model.config.text_config.eos_token_id = 9
    assert build_auto("llava", model, processor, check=False).end_tokens == {0, 9}
    with pytest.raises(ValueError, match="end = '<stop>' is no token"):
        build_auto("llava", model, processor, end="<stop>", check=False)


@torch.no_grad()
def test_captions_end_where_the_models_own_generate_does():
    model, processor, facts = llava()
    said = generate(system("llava"), system("llava").prompt(tiny_images(2)), 8)
    model.generation_config.eos_token_id = [0, said[0].ids[3]]
    built = build_auto("llava", model, processor, **facts)
    inputs = built.reader(tiny_images(2))
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=0)
    own = [as_caption(built, row) for row in out[:, len(built.ids) :].tolist()]
    assert generate(built, built.prompt(tiny_images(2)), 8) == own
    assert len(own[0].ids) <= 3


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("special", ["$A {0}", "{0} $A {0}"])
def test_no_end_of_text_stands_behind_the_prompt(special, alone):
    model, processor, _ = llava()
    template = "A picture <image> of"
    plain = build_auto("llava", model, processor, template=template, check=False)
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=special.format(END), special_tokens=[(END, 0)]
    )
    given = processor.tokenizer if alone else processor
    built = build_auto("llava", model, given, template=template)
    start = special.count("{0}") - 1
    assert list(built.ids) == [0] * start + list(plain.ids)
    assert built.prefix == " of"
    mine, _ = built.forward(built.prompt(tiny_images(2)), last_only=False)
    torch.testing.assert_close(mine, built.own_logits(tiny_images(2)), atol=2e-5, rtol=1e-4)
    said = build_auto("llava", model, given, template=template + END, check=False)
    assert list(said.ids) == [*built.ids, 0], "one that the template asks for stays"


def test_a_chat_template_can_be_given_as_text_or_file(tmp_path):
    model, processor, _ = llava()
    own = processor.chat_template
    other = own.replace("USER: ", "Someone says: ")
    (tmp_path / "chat.jinja").write_text(other)
    (tmp_path / "chat.json").write_text(json.dumps({"chat_template": other}))
    expected = build_auto("llava", model, processor, check=False)
    assert "USER: " in expected.reader.text
    for given in (other, str(tmp_path / "chat.jinja"), str(tmp_path / "chat.json")):
        found = build_auto("llava", model, processor, chat_template=given, check=False)
        assert found.reader.text == expected.reader.text.replace("USER: ", "Someone says: ")
    processor.chat_template = None
    found = build_auto("llava", model, processor, chat_template=own, check=False)
    assert found.reader.text == expected.reader.text
    (tmp_path / "none.json").write_text("{}")
    for given, says in {
        "chat.jinja": "neither a file nor a template",
        str(tmp_path / "none.json"): "no key chat_template",
        "{{ raise_exception('no pictures') }}": "does not take a picture and a text: no pictures",
        "{% for %}": "does not take",
        "{{ 1 }}": "with <image> in it once",
    }.items():
        with pytest.raises(ValueError, match=says):
            build_auto("llava", model, processor, chat_template=given)
    with pytest.raises(ValueError, match="miniature has a prompt of its own"):
        load_model("miniature", chat_template=own)


def test_a_file_of_settings_names_the_model_and_what_it_is_told(tmp_path):
    model, processor, _ = llava()
    template = processor.chat_template.replace("USER: ", "Someone says: ")
    processor.chat_template = None
    for part in (model, processor):
        part.save_pretrained(tmp_path / "llava")
    (tmp_path / "chat.jinja").write_text(template)
    file = tmp_path / "mine.yaml"
    file.write_text(f"model: {tmp_path / 'llava'}\nchat_template: chat.jinja\nquestion: What?\n")
    found = load_model(file, dtype="float64")
    assert found.dtype == torch.float64
    assert found.reader.text.startswith("Someone says: ")
    assert "What?" in found.reader.text
    assert "What?" not in load_model(file, question="Who?").reader.text
    for text, says in {
        "- a": "a mapping with the key model",
        "model: a/b\ndtype: float32": "give dtype elsewhere",
    }.items():
        file.write_text(text)
        with pytest.raises(ValueError, match=says):
            load_model(file)
    with pytest.raises(ValueError, match="no such file of settings"):
        load_model(tmp_path / "none.yaml")


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
