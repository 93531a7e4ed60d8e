"""Folders in transformers' format: saved, shared, published, in part or missing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mmn_utils.models import MissingParts, load_model
from mmn_utils.models.folders import FACTS
from mmn_utils.models.hub import own_vocabulary
from mmn_utils.models.llava import load_llava
from mmn_utils.models.llava.original import PAPER_CHECKPOINT
from mmn_utils.models.llava.system import wording
from mmn_utils.models.llava.whole import save_llava
from tests.models.llava.tiny import tiny_llava, tiny_whole
from tests.models.words import words
from tests.tiny import tiny_images, tiny_tokenizer


def test_a_saved_system_comes_back(tmp_path):
    model = tiny_llava(seed=3, vocabulary=390)
    save_llava(model, tmp_path, dtype=torch.float32)
    again = load_llava(tmp_path)
    images = tiny_images(2)
    assert again.dtype == torch.float32
    assert replace(again.facts, revision=None) == model.facts
    expected, _ = model.forward(model.prompt(images))
    torch.testing.assert_close(again.forward(again.prompt(images))[0], expected)
    assert load_model(tmp_path).revision == again.revision != tiny_llava().revision
    half = load_model(tmp_path, dtype="bfloat16")
    assert half.dtype == half.prompt(images).embeds.dtype == torch.bfloat16
    assert next(half.vision.parameters()).dtype == torch.float32
    rotary = half.language_model.model.rotary_emb.inv_freq
    torch.testing.assert_close(rotary, again.language_model.model.rotary_emb.inv_freq)
    assert rotary.dtype == torch.float32  # a rounded frequency turns far tokens wrongly
    other = load_model(tmp_path, template="llama_2", prefix="\nWhat?")
    assert (other.facts.before, other.prefix) == (wording("llama_2")[0], "\nWhat?")


def test_a_shared_language_model_is_stored_once(tmp_path):
    model = tiny_llava(seed=4)
    model.language_model.save_pretrained(tmp_path / "llama")
    save_llava(model, tmp_path / "llava", language_model="../llama", dtype=torch.float32)
    whole, shared = tmp_path / "whole", tmp_path / "llava"
    save_llava(model, whole, dtype=torch.float32)
    sizes = [(place / "model.safetensors").stat().st_size for place in (shared, whole)]
    assert sizes[0] < sizes[1] / 2
    images = tiny_images(2)
    again = load_llava(shared)
    expected, _ = model.forward(model.prompt(images))
    torch.testing.assert_close(again.forward(again.prompt(images))[0], expected)
    (tmp_path / "llama" / "model.safetensors").unlink()
    with pytest.raises(MissingParts, match=r"llama.model\.safetensors.*make miniature"):
        load_llava(shared)


def test_folders_that_are_not_whole_are_refused(tmp_path):
    model = tiny_llava()
    save_llava(model, tmp_path, language_model="../elsewhere")
    record = json.loads((tmp_path / FACTS).read_text())
    del record["language_model"]
    (tmp_path / FACTS).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"lacks .* weights of LlavaForConditionalGeneration"):
        load_llava(tmp_path)
    for change, says in (
        ({"prefx": ""}, r"unknown \['prefx'\]"),
        ({"system": "instructblip"}, "of kind 'instructblip', not 'llava'"),
        ({"system": 3}, "names no 'system'"),
    ):
        (tmp_path / FACTS).write_text(json.dumps({**record, **change}))
        with pytest.raises(ValueError, match=says):
            load_llava(tmp_path)
    (tmp_path / FACTS).write_text(json.dumps({**record, "system": "owl"}))
    with pytest.raises(ValueError, match="holds a 'owl'; known are llava"):
        load_model(tmp_path)
    (tmp_path / FACTS).write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        load_model(tmp_path)


def test_transformers_own_folder_has_the_published_facts(tmp_path):
    tiny_whole(5).half().save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    model = load_llava(tmp_path)
    assert model.dtype == torch.float16
    assert model.sizes.vocabulary == own_vocabulary(words(), model.language_model.lm_head)
    assert model.sizes.vocabulary == len(tiny_tokenizer()) < len(words())
    assert (model.facts.before, model.prefix) == wording("vicuna")
    assert load_llava(tmp_path, dtype=torch.float32).dtype == torch.float32
    with pytest.raises(ValueError, match="has its own CLIP"):
        load_llava(tmp_path, vision_tower=tmp_path)


def test_a_folder_says_where_a_turn_ends(tmp_path):
    whole = tiny_whole(5)
    whole.generation_config.eos_token_id = [0, 7]
    whole.save_pretrained(tmp_path / "hub")
    words().save_pretrained(tmp_path / "hub")
    model = load_llava(tmp_path / "hub")
    assert model.end_tokens == {0, 7}
    save_llava(model, tmp_path / "saved")
    assert load_llava(tmp_path / "saved").end_tokens == {0, 7}


# --- what is missing --------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_offline_every_missing_part_is_listed_with_its_source():
    with pytest.raises(MissingParts, match=r"hf download llava-hf/llava-1\.5-7b-hf"):
        load_model("llava15")
    with pytest.raises(MissingParts) as error:
        load_model("llava", tokenizer="a/tokenizer")
    for phrase in (
        f"hf download {PAPER_CHECKPOINT}",
        "pass checkpoint=FOLDER",
        "hf download openai/clip-vit-large-patch14",
        "pass vision_tower=FOLDER",
        "hf download a/tokenizer",
    ):
        assert phrase in str(error.value), str(error.value)


def test_a_missing_shard_is_noticed(tmp_path):
    tiny_whole().save_pretrained(tmp_path, max_shard_size="60KB")
    words().save_pretrained(tmp_path)
    assert load_llava(tmp_path).sizes.layers == 3
    sorted(tmp_path.glob("*.safetensors"))[-1].unlink()
    with pytest.raises(MissingParts, match="not complete"):
        load_llava(tmp_path)


def test_a_miniature_that_is_absent_says_how_to_train_it(tmp_path, monkeypatch):
    monkeypatch.setattr("mmn_utils.models.data_path", lambda *parts: tmp_path.joinpath(*parts))
    with pytest.raises(MissingParts, match=r"miniature/llava lacks .*facts\.json.*make miniature"):
        load_model("miniature/llava")
    with pytest.raises(ValueError, match=r"'miniature/lava' is neither a name .*miniature/llava"):
        load_model("miniature/lava")


def test_a_miniature_is_loaded_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("mmn_utils.models.data_path", lambda *parts: tmp_path.joinpath(*parts))
    folder = tmp_path / "miniature" / "llava"
    save_llava(tiny_llava(name="miniature/llava"), folder)
    assert load_model("miniature/llava").name == "miniature/llava"
    with pytest.raises(ValueError, match="its tokenizer and its CLIP are its own"):
        load_model("miniature/llava", tokenizer=folder)


def test_a_tokenizer_that_cannot_be_read_says_what_to_do(tmp_path, monkeypatch):
    tiny_whole().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"sentences")
    monkeypatch.setattr("mmn_utils.models.hub._importable", lambda _name: False)
    with pytest.raises(ValueError, match=r"as tokenizer.model only; install protobuf"):
        load_llava(tmp_path)
