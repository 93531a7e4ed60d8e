"""Top neurons by several methods: in batches, cached, and undisturbed by it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.neurons.methods import METHODS, by_methods, by_readings
from mmn_utils.studies.concepts import scoring
from tests.studies.scenes import subjects_of_texts
from tests.tiny import tiny_limber
from tests.tiny_gated import TinyGated

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model():
    return TinyGated()


@pytest.fixture
def some(model, tmp_path):
    return subjects_of_texts(model, tmp_path)


def refuse(*arguments, **named):
    raise AssertionError("computed again what was cached")


@pytest.mark.parametrize("norm", ["none", "final"])
def test_top_neurons_are_those_of_each_method_whatever_the_batch(model, some, monkeypatch, norm):
    pictures, targets = some.opened()
    methods = scoring.switched("gate", norm)
    expected = by_methods(model, pictures, targets, k=12, methods=methods)
    options = {"k": 12, "activation": "gate", "contribution_norm": norm, **QUIET}
    found = scoring.top_neurons(model, some, batch_size=2, **options)
    assert list(found) == list(METHODS)
    for name, table in found.items():
        np.testing.assert_allclose(table["score"], expected[name]["score"], rtol=1e-3, atol=1e-5)
        assert table[["image", "target"]].equals(expected[name][["image", "target"]])
    monkeypatch.setattr(scoring, "by_readings", refuse)
    again = scoring.top_neurons(model, some, **options)
    assert all(again[name].equals(found[name]) for name in found)
    with pytest.raises(AssertionError, match="computed again"):
        scoring.top_neurons(model, some, **{**options, "activation": "gated"})


def test_both_readings_come_off_the_same_passes(model, some, monkeypatch):
    pictures, targets = some.opened()
    expected = {
        reading: by_methods(model, pictures, targets, k=6, methods=scoring.switched(reading))
        for reading in ("gated", "gate")
    }
    passes = []
    hook = model.language_model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        found = scoring.top_neurons_of(model, some, k=6, batch_size=10, **QUIET)
    finally:
        hook.remove()
    assert len(passes) == 3  # base, attribution, contribution
    assert list(found) == ["gated", "gate"]
    for reading, tables in expected.items():
        assert list(found[reading]) == list(METHODS)
        for name, table in tables.items():
            pd.testing.assert_frame_equal(found[reading][name], table, rtol=1e-3, atol=1e-5)
    assert (found["gated"]["contribution"]["activation"] < 0).any()
    monkeypatch.setattr(scoring, "by_readings", refuse)
    again = scoring.top_neurons_of(model, some, k=6, **QUIET)
    assert again["gate"]["attribution"].equals(found["gated"]["attribution"])
    with pytest.raises(ValueError, match="'up'"):
        by_readings(model, pictures, targets, k=6, readings=("gated", "up"))


def test_settings_that_a_model_cannot_have_are_refused(model):
    good = {"k": 1, "ks": [1, 144], "ns": [2], "ms": [1], "activation": "gate"}
    scoring.check_settings(model, **good)
    for bad, match in (
        ({"ks": [1, 145]}, "from 1 to 144"), ({"ks": []}, "ks ="), ({"k": 2}, "not among ks"),
        ({"others": [145]}, "from 1 to 144"), ({"ns": [1]}, "from 2"), ({"ms": [10**6]}, "ms ="),
        ({"activation": "up"}, "gated, gate"), ({"compare": "all"}, "tokens, joined"),
        ({"contribution_norm": "first"}, "'none' or 'final'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            scoring.check_settings(model, **{**good, **bad})
    with pytest.raises(ValueError, match="no gate"):
        scoring.check_settings(tiny_limber(), **good)


def test_the_papers_numbers_are_those_of_one_system():
    found = scoring.of_paper("InstructBLIP")
    assert found["B-table-3"].set_index("method").loc["Mmns", "bertscore"] == 0.339
    assert len(found["B-table-4"]) == 2
    with pytest.raises(ValueError, match="the paper has LLaVA, InstructBLIP, mPLUG-Owl2"):
        scoring.of_paper("GPT")
