"""Edits as objects: bits that come back, what fits which model, files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mmn_utils.interventions.edit import FORMAT, apply, combine, install, load_edit, save_edit
from mmn_utils.interventions.editing import Settings, make_edit
from mmn_utils.interventions.receipts import NothingTouched
from mmn_utils.models.base import state_hash
from mmn_utils.neurons.captions import caption_images, generate
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.store import model_identity
from tests.interventions.planted import LAYER, UNITS, made_up, neuron, picture, planted, target
from tests.tiny import tiny_limber
from tests.tiny_gated import TinyGated

MODELS = {
    "gated": TinyGated(),
    "bfloat16": TinyGated().twin(torch.bfloat16),
    "float16": TinyGated().twin(torch.float16),
    "limber": tiny_limber(),
}


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(MODELS)), st.integers(0, 2**31), st.integers(1, 20), st.floats(1e-3, 100)
)
def test_edit_and_undo_restore_every_bit(name, seed, count, size):
    model = MODELS[name]
    before, revision = state_hash(model.language_model), model.revision
    edit = made_up(model, seed, count, size)
    with apply(model, edit, hash_weights=False):
        assert state_hash(model.language_model) != before
    assert state_hash(model.language_model) == before
    other = made_up(model, seed + 1, count, size)
    first = install(model, edit)
    second = install(model, other)
    second.undo()
    first.undo()
    assert state_hash(model.language_model) == before
    assert model.revision == revision


def test_the_weights_are_the_old_ones_plus_the_deltas(system, cat):
    w = system.write_vectors(LAYER)[UNITS["horse"]].clone()
    whole = system.act_module(LAYER).weight.clone()
    with apply(system, cat) as receipt:
        edited = system.act_module(LAYER).weight.clone()
    torch.testing.assert_close(edited[:, UNITS["horse"]], w + cat.deltas[0])
    edited[:, UNITS["horse"]] = w
    assert torch.equal(edited, whole)
    assert receipt.norms == pytest.approx(cat.norms.tolist(), rel=1e-5)
    assert receipt.relative[0] == pytest.approx(float(cat.norms[0] / w.norm()), rel=1e-5)
    assert receipt.weights_before == receipt.weights_after != receipt.weights_within


def test_an_error_inside_passes_and_restores(system, cat):
    before = state_hash(system.language_model)
    with pytest.raises(ZeroDivisionError), apply(system, cat):
        _ = 1 / 0
    assert state_hash(system.language_model) == before


def test_meddling_inside_is_noticed(cat):
    system = planted()
    weight = system.act_module(LAYER).weight
    for unit in (0, UNITS["horse"]):  # another column of the layer, and the edited one
        kept = weight.clone()
        with pytest.raises(RuntimeError, match="changed by something else"), apply(system, cat):
            weight.data[:, unit] += 1
        assert torch.equal(weight[:, UNITS["horse"]], kept[:, UNITS["horse"]])
        weight.data.copy_(kept)


def test_edits_of_one_neuron_come_off_in_reverse(system, cat):
    before = state_hash(system.language_model)
    first, second = install(system, cat), install(system, cat.scaled(0.5))
    with pytest.raises(RuntimeError, match=r"layers \[2\].*undo first"):
        first.undo()
    second.undo()
    first.undo()
    assert state_hash(system.language_model) == before
    with pytest.raises(RuntimeError, match="undone before"):
        first.undo()


def test_disjoint_edits_come_off_in_any_order(system, cat):
    dog = make_edit(system, [picture("boat")], [target("boat")], "dog", [neuron("boat")])
    revision = system.revision
    first, second = install(system, cat), install(system, dog)
    first.undo()
    assert system.revision == f"{revision}+{dog.identity}"
    assert generate(system, system.prompt([picture("boat")]), 4)[0].text == "dog grass"
    second.undo()
    assert system.revision == revision


def test_an_edited_model_is_another_model_to_the_cache(cat):
    system = planted()  # its revision was never asked for, so it is hashed now or never
    with apply(system, cat):
        within = model_identity(system)
    assert within != model_identity(system)
    assert model_identity(system)["revision"] == planted().revision == cat.revision


def test_rounding_that_swallows_an_edit_is_said():
    model = MODELS["bfloat16"]
    edit = made_up(model, 0).scaled(1e-9)
    with pytest.raises(NothingTouched, match=r"too small for torch\.bfloat16"), apply(model, edit):
        pass


def test_sums_beyond_the_type_leave_the_weights_alone():
    model = MODELS["float16"]
    before = state_hash(model.language_model)
    with pytest.raises(ValueError, match=r"range of torch\.float16"):
        install(model, made_up(model, 0, size=1e6))
    assert state_hash(model.language_model) == before


def test_quantised_and_offloaded_weights_are_refused(cat):
    system = planted()
    system.language_model.is_quantized = True
    with pytest.raises(ValueError, match="quantised"):
        install(system, cat)
    system.language_model.is_quantized = False
    system.act_module(LAYER).to("meta")
    with pytest.raises(ValueError, match="offloaded"):
        install(system, cat)


def test_scaled_and_first(system):
    neurons = [neuron("horse"), Neuron(LAYER, 3), neuron("boat")]
    asked, how = (system, [picture("horse")], [target("horse")], "cat"), Settings(beta=0.0)
    edit, two = (make_edit(*asked, some, how) for some in (neurons, neurons[:2]))
    assert edit.first(2).identity == two.identity
    torch.testing.assert_close(edit.scaled(0.25).deltas, edit.deltas / 4)
    assert edit.scaled(0.5).scaled(0.5).settings["strength"] == 0.25
    assert edit.scaled(2).identity != edit.identity
    assert edit.table()["norm"].tolist() == edit.norms.tolist()
    with pytest.raises(ValueError, match="has 3 neurons"):
        edit.first(4)
    joint = replace(edit, settings={"method": "joint"})
    assert joint.first(3).identity == edit.identity
    with pytest.raises(ValueError, match="joint edit of 3 neurons"):
        joint.first(2)
    assert not edit.empty
    assert edit.scaled(0).empty


def test_an_edit_is_read_as_it_was_written(system, cat, tmp_path):
    path = save_edit(cat, tmp_path / "cat.safetensors")
    read = load_edit(path, system)
    assert torch.equal(read.deltas, cat.deltas)
    for name in ("neurons", "pulls", "concepts", "settings", "model", "revision", "sizes"):
        assert getattr(read, name) == getattr(cat, name), name
    assert read.identity == cat.identity
    assert save_edit(read, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert path.stat().st_size < 2000
    with apply(system, read):
        assert generate(system, system.prompt([picture("horse")]), 4)[0].text == "cat grass"


def test_another_models_edit_is_refused(system, cat, tmp_path):
    path = save_edit(cat, tmp_path / "cat.safetensors")
    with pytest.raises(ValueError, match=r"3 layers, 48 units and width 32.*has 3, 128 and 32"):
        load_edit(path, tiny_limber())
    other = TinyGated(seed=4)
    with pytest.raises(ValueError, match=f"revision {cat.revision}.*{other.revision}"):
        load_edit(path, other)
    with pytest.raises(ValueError, match="load those weights"):
        install(other, cat)
    half = system.twin(torch.bfloat16)
    with apply(half, cat) as receipt:  # the same weights in another type are the same model
        assert receipt.norms == pytest.approx(cat.norms.tolist(), rel=0.01)


def test_an_edit_of_an_edited_model_needs_it(system, cat):
    with apply(system, cat):
        second = make_edit(system, [picture("boat")], [target("boat")], "dog", [neuron("boat")])
        install(system, second).undo()
    with pytest.raises(ValueError, match="load those weights"):
        install(system, second)


def test_broken_files_are_said(tmp_path, cat):
    with pytest.raises(FileNotFoundError, match="no edit at"):
        load_edit(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no tensors")
    save_file({"deltas": cat.deltas}, tmp_path / "bare")
    save_file({"deltas": cat.deltas}, tmp_path / "part", {FORMAT: json.dumps({"concepts": []})})
    for name in ("text", "bare", "part"):
        with pytest.raises(ValueError, match="is no edit of this kind"):
            load_edit(tmp_path / name)


def test_two_concepts_at_once(system, cat):
    dog = make_edit(system, [picture("boat")], [target("boat")], "dog", [neuron("boat")])
    both = combine([cat, dog])
    with apply(system, both):
        said = caption_images(system, [picture(word) for word in UNITS], 4)
    assert [caption.text for caption in said] == ["cat grass", "dog grass", "horses grass"]
    assert [concept.target for concept in both.concepts] == ["cat", "dog"]
    assert both.pulls == cat.pulls + dog.pulls
    with pytest.raises(ValueError, match=r"L2.u17 belongs to two.*shared='sum'"):
        combine([cat, dog, cat])
    added = combine([cat, cat], shared="sum")
    torch.testing.assert_close(added.deltas, 2 * cat.deltas)
    assert math.isnan(added.pulls[0])
    with pytest.raises(ValueError, match="cannot be combined"):
        combine([cat, replace(dog, revision="other")])
