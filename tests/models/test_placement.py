"""Accelerate's placement: one device or an error, and what to do without Accelerate."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from mmn_utils.models import load_model
from mmn_utils.models.placement import on_one_device
from tests.models.auto.families import llava


def mapped(**places):
    model = nn.Linear(1, 1)
    model.hf_device_map = places
    return model


def test_a_model_on_one_device_is_taken(tmp_path):
    for model in (nn.Linear(1, 1), mapped(a=0, b=0), mapped(**{"": "cpu"})):
        assert on_one_device(model, tmp_path) is model


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ({"a": 0, "b": "cpu"}, r"leaves parts of it on cpu \(0, cpu\)"),
        ({"a": 0, "b": "disk", "c": "cpu"}, "leaves parts of it on cpu and disk"),
        ({"a": 0, "b": 1}, r"spreads it over several \(0, 1\)"),
    ],
)
def test_a_model_in_several_places_is_refused_with_the_remedy(tmp_path, places, says):
    with pytest.raises(ValueError, match=rf"{says}.*Take a GPU with more memory"):
        on_one_device(mapped(**places), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu"])
def test_a_device_that_is_not_here_is_refused_before_anything_is_read(device):
    with pytest.raises(ValueError, match=rf"device = '{device}' is not here \(.*\): give "):
        load_model("limber", device=device)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("saved")
    model, processor, _ = llava()
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return place


def test_without_accelerate_what_to_do_is_said(folder, monkeypatch):
    monkeypatch.setattr("mmn_utils.models.placement.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match="pip install accelerate, or give a device"):
        load_model(folder, device="auto")


@pytest.mark.skipif(find_spec("accelerate") is None, reason="Accelerate is not installed")
def test_accelerate_places_a_model_that_is_the_same(folder):
    placed, plain = load_model(folder, device="auto"), load_model(folder, device="cpu")
    assert placed.revision == plain.revision
    ours, theirs = (one.language_model.state_dict() for one in (placed, plain))
    assert all(torch.equal(ours[name].cpu(), theirs[name]) for name in theirs)
