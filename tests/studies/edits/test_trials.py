"""Edits tried on photographs that are dealt out, against the plain evaluation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mmn_utils.interventions.edit import apply
from mmn_utils.interventions.editing import Settings
from mmn_utils.models.base import state_hash
from mmn_utils.studies import edits as study

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def ground(system, photographs, edits):
    return study.trials.Ground.of(system, photographs, edits, max_new_tokens=4)


@pytest.fixture(scope="module")
def tried(system, edits, ground):
    return ground.compared(system, {"a": edits}, ground.rows, **QUIET)


def test_each_photograph_is_dealt_once(ground):
    assert ground.rows["image"].is_unique
    dealt = ground.rows.set_index("image")
    assert dealt["role"].to_dict() == {"a": "edited", "b": "same", "c": "edited", "e": "same"}
    assert dealt["source"].tolist() == ["horse", "horse", "boat", "boat"]
    assert ground.few(1)["image"].tolist() == ["a", "c", "b"]
    assert ground.few(9)["image"].tolist() == ["a", "c", "b", "e"]


def test_photographs_without_a_source_are_dealt_by_turns():
    pairs = [("horse", "cat"), ("boat", "dog")]
    table = pd.DataFrame(
        [(image, *pair, "other") for image in "abcd" for pair in pairs],
        columns=["image", "source", "target", "role"],
    )
    concepts = [SimpleNamespace(source=a, target=b) for a, b in pairs]
    dealt = study.trials.deal(SimpleNamespace(rows=table, concepts=concepts))
    assert dealt["source"].tolist() == ["horse", "boat", "horse", "boat"]
    mixed = pd.concat([dealt, dealt.assign(image=list("efgh"), role="same")])
    few = study.trials.thinned(mixed, 4)
    assert few["role"].tolist() == ["same", "same", "other", "other"]
    assert set(few["source"][:2]) == {"horse", "boat"}


def test_trials_agree_with_the_plain_evaluation(system, edits, ground):
    weights = state_hash(system.language_model)
    table = ground.compared(system, {"a": edits}, ground.rows, **QUIET).set_index("image")
    assert state_hash(system.language_model) == weights
    for edit in edits:
        own = study.outcomes.before_edit(
            system, ground.before.photographs, edit.concepts, max_new_tokens=4, **QUIET
        )
        plain = study.outcomes.evaluate(system, edit, own, **QUIET).set_index("image")
        for image in table.index[table["source"] == edit.concepts[0].source]:
            expected, got = plain.loc[image], table.loc[image]
            for column in ("before", "after", "swapped", "exact", "kept", "unchanged"):
                assert got[column] == expected[column]
            for column in ("margin_before", "margin_after"):
                assert got[column] == pytest.approx(expected[column], abs=1e-3)
    assert (table["swapped"] == 1).all()


def test_efficacy_takes_an_edit_for_each_photograph(system, photographs, said, ground, tried):
    found, there = study.findings.find_on_each(system, photographs, said, ground.rows, 1)
    assert [finding.photograph.id for finding in found] == there["image"].tolist() == ["b", "e"]
    assert set(there["role"]) == {study.outcomes.EDITED}
    made = study.findings.edits_of(system, found, Settings())
    assert [edit.concepts[0].images for edit in made] == [("b",), ("e",)]
    own = ground.own_edits(system, said, Settings(), 1)
    pd.testing.assert_frame_equal(own, ground.trials(system, made, there))
    both = pd.concat([tried, own])
    assert study.trials.measured(tried, "efficacy").n == 2
    assert study.trials.measured(both, "efficacy").n == 4
    # A photograph that was tried twice counts once, with the mean of its trials.
    assert study.trials.measured(both, "fluency").n == 4
    halved = both.assign(kept=np.where(both["role"] == study.outcomes.EDITED, 0.0, 1.0))
    assert study.trials.measured(halved, "fluency").value == 0.25


def test_ways_are_compared_on_the_same_photographs(system, said, edits, ground):
    weak = [edit.scaled(0.01) for edit in edits]
    table = ground.compared(system, {"a": edits, "b": weak}, ground.rows, **QUIET)
    assert table.groupby("method")["swapped"].mean().to_dict() == {"a": 1.0, "b": 0.0}
    found = study.trials.measures(table[table["method"] == "a"])
    assert found["generality"].value == 1
    assert found["locality"] is None
    assert study.trials.paired(table, "a", "b", "efficacy").value == 1
    assert study.trials.paired(table, "a", "b", "locality") is None
    summary = study.outcomes.summarise(table, ["method"], concepts=False)
    assert summary.set_index(["method", "measure"])["n"]["a", "efficacy"] == 2
    means = study.trials.means(table, summary)
    assert list(means) == ["a", "b"]
    assert (means["a"]["efficacy"], means["b"]["generality"]) == (1, 0)
    assert np.isnan(means["a"]["locality"])
    assert means["b"]["norm"] == pytest.approx(means["a"]["norm"] / 100)


def test_the_first_way_is_tried_everywhere_and_the_others_on_few(system, said, edits, ground):
    own = ground.own_edits(system, said, Settings(), 1)
    table = ground.results(system, {"plain": edits, "other": edits}, own, 1)
    images = table.groupby("method", sort=False)["image"].apply(list).to_dict()
    assert images == {"plain": ["a", "b", "c", "e", "b", "e"], "other": ["a", "c", "b"]}


def test_a_sweep_cuts_and_scales(system, findings, ground):
    edits = study.findings.edits_of(system, findings, Settings(beta=0.0))
    sizes = {"counts": [1, 2], "strengths": [0.01, 1.0], "n_images": 9}
    table = ground.sweep(system, edits, **sizes)
    assert set(table["image"]) == {"b", "e"}
    assert table.groupby("strength")["swapped"].mean().tolist() == [0.0, 1.0]
    assert table["neurons"].tolist() == [1] * 4 + [2] * 4
    lengths = table[table["neurons"] == 1].groupby("strength")["norm"].mean()
    assert lengths[1.0] == pytest.approx(100 * lengths[0.01])


def test_the_best_way_has_most_of_both():
    nan = float("nan")
    means = {"a": {"generality": 0.9, "locality": 0.2}, "b": {"generality": 0.6, "locality": 0.6},
             "c": {"generality": 1.0, "locality": nan}}  # fmt: skip
    assert study.trials.best_way(means) == ("b", pytest.approx(1.2))
    way, most = study.trials.best_way({"c": means["c"]})
    assert way == "c"
    assert np.isnan(most)


def swept(rows) -> pd.DataFrame:
    """Build a summary of neurons, strength, generality and locality; None for no images."""
    long = [
        (neurons, strength, measure, value)
        for neurons, strength, *values in rows
        for measure, value in zip(("generality", "locality"), values, strict=True)
        if value is not None
    ]
    return pd.DataFrame(long, columns=["neurons", "strength", "measure", "mean"])


def test_a_sweep_trades_generality_for_locality():
    table = swept([(1, 0.5, 0.2, 1.0), (1, 2.0, 0.4, 0.96), (5, 0.5, 0.7, 0.5), (5, 2.0, 0.9, 0.1)])
    trade = study.trials.trade_off(table)
    assert trade.ends == ((1, 0.5), (5, 2.0))
    assert (trade.generality, trade.locality) == ((0.2, 0.9), (1.0, 0.1))
    assert (trade.best, trade.at) == (0.4, (1, 2.0))
    assert trade.correlation < -0.9
    assert study.trials.trade_off(table, least=0.3).at == (5, 0.5)


def test_a_sweep_without_images_has_no_numbers():
    trade = study.trials.trade_off(swept([(1, 1.0, 0.5, None), (2, 1.0, 0.7, None)]))
    assert trade.generality == (0.5, 0.7)
    assert np.isnan([*trade.locality, trade.correlation, trade.best]).all()
    assert trade.at is None


def test_trials_refuse_a_model_that_is_edited_already(system, edits, ground):
    with apply(system, edits[0]), pytest.raises(ValueError, match="undo its edits"):
        ground.compared(system, {"a": edits}, ground.rows, **QUIET)
