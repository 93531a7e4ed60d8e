"""The face: the README's five lines, and that each function is what its rooms compute."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

import mmn_utils as mmn
from mmn_utils.models.base import state_hash
from mmn_utils.models.doctor import CHECKS
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.receptive_fields import activation_maps, upsample
from mmn_utils.presets import ROOT
from tests.tiny import tiny_limber

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def system():
    return mmn.load("miniature")


@pytest.fixture(scope="module")
def llava():
    return mmn.load("miniature/llava")


@pytest.fixture(scope="module")
def picture():
    return mmn.example()


def test_the_readmes_lines_run_as_they_stand_there(capsys):
    blocks = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.S)
    (script,) = [block for block in blocks if "import mmn_utils as mmn" in block]
    assert len(script.splitlines()) == 5
    exec(script, {})
    printed = capsys.readouterr().out
    assert len(re.findall(r"L\d+\.u\d+", printed)) == 5
    assert "..." not in printed


def test_the_names_are_found_and_looking_costs_no_import():
    for name in mmn.__all__:
        assert callable(getattr(mmn, name)), name
    assert set(mmn.__all__) <= set(dir(mmn))
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = mmn.nothing_of_this_name
    code = "import mmn_utils, sys; assert not {'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_top_neurons_are_those_of_the_scores(system, picture):
    (target, *_) = mmn.targets(system, picture)
    assert target.noun in mmn.caption(system, picture).text
    expected = attribution(system, [picture], [target], k=7)
    found = mmn.top_neurons(system, picture, target.noun.upper(), k=7)
    assert found.equals(expected)
    decoded = mmn.decode(system, found)
    assert decoded["score"].tolist() == found["score"].tolist()
    assert decoded["sign"].tolist() == ["−" if a < 0 else "+" for a in found["activation"]]
    ends = mmn.decode(system, decoded["neuron"].tolist())
    assert list(ends) == ["neuron", "writes", "suppresses"]
    wrote = ends["writes"].where(found["activation"] >= 0, ends["suppresses"])
    assert wrote.tolist() == decoded["writes"].tolist()
    bare = found.assign(activation=float("nan"))
    assert mmn.decode(system, bare).equals(ends)


def test_heat_maps_have_the_pictures_size(system):
    picture = mmn.example(1).resize((90, 60))
    every = mmn.heat_map(system, picture, ["L1.u2", "L0.u3"], mean=False)
    neurons = [mmn.Neuron(1, 2), mmn.Neuron(0, 3)]
    expected = upsample(activation_maps(system, [picture], neurons)[0], (60, 90))
    np.testing.assert_array_equal(every, expected.numpy())
    mean = mmn.heat_map(system, picture, neurons)
    np.testing.assert_allclose(mean, every.mean(0), atol=1e-6)


def test_ablation_and_edit_leave_the_system_as_it_was(system, llava, picture):
    before = state_hash(system.language_model), state_hash(llava.language_model)
    receipt = mmn.ablate(system, picture, mmn.top_neurons(system, picture, k=20))
    assert receipt.caption_changed
    assert receipt.logit_change > 0
    edit, (old, new) = mmn.edit(llava, picture, None, "boat")
    noun = mmn.targets(llava, picture)[0].noun
    assert noun in old
    assert "boat" in new
    assert noun not in new
    assert len(edit.neurons) == 5
    assert (state_hash(system.language_model), state_hash(llava.language_model)) == before


def test_a_picture_may_be_a_file(system, picture, tmp_path):
    picture.save(tmp_path / "scene.png")
    assert mmn.caption(system, tmp_path / "scene.png") == mmn.caption(system, picture)
    with pytest.raises(FileNotFoundError, match="absent"):
        mmn.caption(system, tmp_path / "absent.png")
    with pytest.raises(TypeError, match="not of type ndarray"):
        mmn.caption(system, np.asarray(picture))


def test_the_doctor_examines_a_system_on_examples():
    report = mmn.doctor(tiny_limber())
    assert report["check"].tolist() == list(CHECKS)
    assert report["passed"].all(), report.to_string()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, p: mmn.top_neurons(s, p, "submarine"), "no noun 'submarine'; its nouns are"),
        (lambda s, p: mmn.top_neurons(s, p, method="magic"), "method = 'magic': give one of"),
        (lambda s, p: mmn.decode(s, "7.2"), "'7.2' is no neuron"),
        (lambda s, p: mmn.ablate(s, p, []), "no neurons"),
        (lambda s, p: mmn.heat_map(s, p, []), "no neurons"),
        (lambda s, p: mmn.example(10**6), "give a place from 0"),
        (
            lambda s, p: mmn.edit(s, p, None, " "),
            "cannot write ' ' .*; take another word",
        ),
        (lambda s, p: mmn.edit(s, p, None, mmn.targets(s, p)[0].noun), "begin with the token"),
    ],
)
def test_bad_input_is_named(system, picture, call, message):
    with pytest.raises(ValueError, match=message):
        call(system, picture)


def test_a_caption_without_a_noun_is_named(system, picture, monkeypatch):
    monkeypatch.setattr("mmn_utils.face.caption_targets", lambda *_: [])
    with pytest.raises(ValueError, match="no noun in the caption"):
        mmn.top_neurons(system, picture)
