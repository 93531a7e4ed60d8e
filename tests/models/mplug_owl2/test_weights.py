"""Files: what is saved comes back, text weights are shared, and what does not fit is named."""

from __future__ import annotations

import json
import re
from dataclasses import replace as changed
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmn_utils.models import load_model
from mmn_utils.models.base import ImageTokens, state_hash
from mmn_utils.models.hub import MissingParts
from mmn_utils.models.mplug_owl2 import HUB, load_mplug_owl2
from mmn_utils.models.mplug_owl2.abstractor import grid_embedding, line_embedding
from mmn_utils.models.mplug_owl2.weights import load_weights, save_mplug_owl2, text_weights
from tests.models.mplug_owl2.tiny import CONFIG, as_llama, llama_tokenizer, network, tiny
from tests.tiny import tiny_images


def same_system(one, other) -> bool:
    return state_hash(one.language_model) == state_hash(other.language_model)


def test_a_saved_system_comes_back(tmp_path):
    system = tiny(seed=3, fit="crop")
    assert save_mplug_owl2(system, tmp_path / "owl") == tmp_path / "owl"
    loaded = load_mplug_owl2(tmp_path / "owl")
    assert same_system(loaded, system)
    assert changed(loaded.facts, revision=None) == system.facts
    assert loaded.language_model.config == CONFIG
    assert (loaded.image_tokens, loaded.sizes) == (system.image_tokens, system.sizes)
    images = tiny_images(2)
    expected = system.forward(system.prompt(images))[0]
    assert torch.equal(loaded.forward(loaded.prompt(images))[0], expected)
    assert load_mplug_owl2(tmp_path / "owl", fit="square").facts.fit == "square"
    half = load_mplug_owl2(tmp_path / "owl", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.image_features(images), system.image_features(images))


def test_transformers_does_not_warn_of_a_class_that_it_lacks(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("transformers.configuration_utils.logger.warning", said.append)
    save_mplug_owl2(tiny(), tmp_path / "owl")
    load_mplug_owl2(tmp_path / "owl")
    assert said == []


def test_text_weights_may_lie_in_another_folder(tmp_path):
    system = tiny(seed=4)
    as_llama(system.language_model).save_pretrained(tmp_path / "llama")
    save_mplug_owl2(system, tmp_path / "owl", shared=tmp_path / "llama")
    record = json.loads((tmp_path / "owl" / "facts.json").read_text())
    assert record["language_model"] == "../llama"
    stored = load_file(tmp_path / "owl" / "model.safetensors")
    text = [name for name in stored if "vis" not in name]
    assert len(text) == 4 * 3
    assert all(".multiway.1." in name for name in text)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "owl").rename(moved / "owl")
    with pytest.raises(MissingParts, match=r"llama.*model\.safetensors"):
        load_mplug_owl2(moved / "owl")
    (tmp_path / "llama").rename(moved / "llama")
    assert same_system(load_mplug_owl2(moved / "owl"), system)


def test_what_differs_from_the_shared_folder_is_stored(tmp_path):
    system = tiny(seed=4)
    llama = as_llama(system.language_model)
    llama.half().save_pretrained(tmp_path / "llama")
    system.language_model.lm_head.weight.data = llama.lm_head.weight.float()
    save_mplug_owl2(system, tmp_path / "owl", shared=tmp_path / "llama", dtype=torch.bfloat16)
    stored = load_file(tmp_path / "owl" / "model.safetensors")
    assert "lm_head.weight" not in stored  # the same after rounding to float16
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16
    loaded = load_mplug_owl2(tmp_path / "owl").language_model
    assert torch.equal(loaded.lm_head.weight, system.language_model.lm_head.weight)
    as_llama(network(seed=9)).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="no tensor in common"):
        save_mplug_owl2(system, tmp_path / "owl", shared=tmp_path / "other")


def test_text_weights_of_a_tied_llama_have_an_unembedding():
    table = torch.randn(5, 4)
    state = text_weights({"model.embed_tokens.weight": table, "model.layers.0.x.weight": table})
    assert torch.equal(state["lm_head.weight"], table)
    assert state["lm_head.weight"].data_ptr() != table.data_ptr()
    assert set(text_weights({"model.layers.7.self_attn.v_proj.weight": table})) == {
        "model.layers.7.self_attn.v_proj.multiway.0.weight"
    }


def test_revisions_tell_weights_apart(tmp_path):
    save_mplug_owl2(tiny(seed=1), tmp_path / "a")
    save_mplug_owl2(tiny(seed=2), tmp_path / "b")
    first, second = (load_mplug_owl2(tmp_path / name) for name in "ab")
    assert first.revision != second.revision
    state = load_file(tmp_path / "b" / "model.safetensors")
    save_file(state, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    assert load_mplug_owl2(tmp_path / "a").revision == second.revision


# --- the published layout ---------------------------------------------------------------


def hub_folder(folder, ours, stray: bool = True):
    """Lay a system out as the hub has it: shards of PyTorch's own, strays among them."""
    folder.mkdir()
    state = {name: tensor.half() for name, tensor in ours.state_dict().items()}
    if stray:
        for layer in range(3):
            state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        for layer in range(2):
            at = f"model.visual_abstractor.encoder.layers.{layer}.crossattention.attention"
            state[f"{at}.q_pos_embed"] = line_embedding(5, 24).half()
            state[f"{at}.k_pos_embed"] = grid_embedding(4, 24).half()
    names = sorted(state)
    for shard, part in enumerate((names[::2], names[1::2]), 1):
        file = folder / f"pytorch_model-{shard}-of-2.bin"
        torch.save({name: state[name] for name in part}, file)
    (folder / "config.json").write_text(json.dumps(ours.config.to_dict()))
    llama_tokenizer().save_pretrained(folder)
    return state


def test_the_published_layout_is_read_in_float16(tmp_path):
    state = hub_folder(tmp_path / "hub", network(seed=5))
    system = load_mplug_owl2(tmp_path / "hub")
    assert system.dtype == torch.float16
    assert system.facts.fit == "square"
    assert system.sizes.vocabulary == system.tokenizer.vocab_size
    assert system.image_tokens == ImageTokens(start=5, count=6, grid=None, pixels=28)
    loaded = system.language_model.state_dict()
    assert all(torch.equal(loaded[name], state[name].to(loaded[name])) for name in loaded)
    assert loaded["model.visual_abstractor.vit_eos"].dtype == torch.float32
    logits, _ = system.forward(system.prompt(tiny_images(2)))
    wide = load_mplug_owl2(tmp_path / "hub", dtype=torch.float32)
    expected, _ = wide.forward(wide.prompt(tiny_images(2)))
    torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0.02)
    assert wide.revision == system.revision


def test_the_published_layout_says_where_a_turn_ends(tmp_path):
    hub_folder(tmp_path / "hub", network(seed=5))
    (tmp_path / "hub" / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    system = load_mplug_owl2(tmp_path / "hub")
    assert system.end_tokens == {2, 7}
    save_mplug_owl2(system, tmp_path / "owl")
    assert load_mplug_owl2(tmp_path / "owl").end_tokens == {2, 7}


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda state: state.pop("model.norm.weight"), r"1 missing: model\.norm\.weight"),
        (
            lambda state: state.pop("model.layers.2.self_attn.k_proj.multiway.1.weight"),
            r"1 missing: model\.layers\.2\.self_attn\.k_proj\.multiway\.1\.weight",
        ),
        (
            lambda state: state.update({"model.layers.0.self_attn.k_proj.weight": torch.ones(1)}),
            r"1 not known: model\.layers\.0\.self_attn\.k_proj\.weight",
        ),
        (
            lambda state: state.update({"lm_head.weight": torch.ones(2, 2)}),
            r"1 of another shape: lm_head\.weight",
        ),
        (
            lambda state: state.update({"x.attention.q_pos_embed": torch.ones(5, 24)}),
            r"1 not what they are computed to: x\.attention\.q_pos_embed",
        ),
        (
            lambda state: state.update({"x.attention.k_pos_embed": grid_embedding(5, 24)}),
            r"computed to: x\.attention\.k_pos_embed",
        ),
        (lambda state: [state.pop(name) for name in list(state)[:20]], r"20 missing.*and 8 more"),
    ],
    ids=["missing", "branch", "not known", "shape", "places", "grid", "many"],
)
def test_weights_that_do_not_fit_are_named(break_it, says):
    state = network().state_dict()
    break_it(state)
    with pytest.raises(ValueError, match=says):
        load_weights(network(seed=1), state)


def test_both_faults_are_named_at_once():
    state = network().state_dict()
    state["stray"] = state.pop("lm_head.weight")
    with pytest.raises(ValueError, match=r"missing: lm_head.weight; 1 not known: stray"):
        load_weights(network(seed=1), state)


# --- what is missing --------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "load", [load_mplug_owl2, partial(load_model, "mplug_owl2")], ids=["loader", "name"]
)
def test_offline_the_missing_checkpoint_is_named_with_its_source(load):
    with pytest.raises(MissingParts, match=re.escape(f"hf download {HUB} --include")):
        load()


def test_a_folder_in_part_says_what_it_lacks(tmp_path):
    hub_folder(tmp_path / "hub", network())
    (tmp_path / "hub" / "tokenizer.json").unlink()
    with pytest.raises(MissingParts, match=r"tokenizer .*hub: the folder is there, but not"):
        load_mplug_owl2(tmp_path / "hub")
    llama_tokenizer().save_pretrained(tmp_path / "words")
    assert load_mplug_owl2(tmp_path / "hub", tokenizer=tmp_path / "words").image_tokens.start == 5
    (tmp_path / "hub" / "config.json").unlink()
    with pytest.raises(MissingParts, match=r"checkpoint .*hub: the folder is there, but not"):
        load_mplug_owl2(tmp_path / "hub")


def test_a_miniature_in_part_says_which_files(tmp_path, monkeypatch):
    monkeypatch.setattr("mmn_utils.models.data_path", lambda *parts: tmp_path.joinpath(*parts))
    with pytest.raises(MissingParts, match=r"miniature/mplug_owl2 lacks .*facts\.json.*make mini"):
        load_model("miniature/mplug_owl2")
    save_mplug_owl2(tiny(), tmp_path / "miniature" / "mplug_owl2")
    assert load_model("miniature/mplug_owl2").facts.name == "tiny"
    (tmp_path / "miniature" / "mplug_owl2" / "model.safetensors").unlink()
    with pytest.raises(MissingParts, match=r"model\.safetensors"):
        load_model("miniature/mplug_owl2")
