"""Edits tried on photographs that are dealt out, against the plain evaluation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets.base import TooFew
from mmn_utils.interventions.edit import apply
from mmn_utils.interventions.editing import Settings
from mmn_utils.interventions.joint import JointSettings
from mmn_utils.models.base import state_hash
from mmn_utils.studies import edits as study
from tests.interventions.planted import neuron

QUIET = {"progress": False}


def test_each_photograph_is_dealt_once(ground):
    assert ground.rows["image"].is_unique
    dealt = ground.rows.set_index("image")
    assert dealt["role"].to_dict() == {"a": "edited", "b": "same", "c": "edited", "e": "same"}
    assert dealt["source"].tolist() == ["horse", "horse", "boat", "boat"]
    assert study.trials.thinned(ground.rows, 1)["image"].tolist() == ["b"]
    assert study.trials.thinned(ground.rows, 9)["image"].tolist() == ["b", "e"]
    assert ground.drafts.images == tuple("abcdef")


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
    table = ground.dealt(system, edits, ground.rows).set_index("image")
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


def test_captions_come_with_the_edit_of_each(system, edits, ground):
    said = ground.captions(system, [edits[0], edits[1], edits[0]], ["a", "c", "c"])
    assert [caption.text for caption in said] == ["cat grass", "dog grass", "boat grass"]


def test_efficacy_takes_an_edit_for_each_photograph(system, photographs, said, ground):
    places = study.findings.find_on_each(system, photographs, said, ground.rows, 1)
    assert [finding.photograph.id for finding in places] == ["b", "e"]
    assert [finding.neurons[0] for finding in places] == [neuron("horse"), neuron("boat")]
    made = study.making.edits_of(system, places, Settings())
    assert [edit.concepts[0].images for edit in made] == [("b",), ("e",)]


def test_ways_are_compared_on_the_same_photographs(system, photographs, said, findings, ground):
    places = study.findings.find_on_each(system, photographs, said, ground.rows, 1)
    ones = [finding.first(1) for finding in findings]
    ways = {"a": Settings(), "b": Settings(lr=1e-6), "c": JointSettings(epochs=3)}
    table = ground.compared(system, ways, ones, places, 9, **QUIET)
    assert table["method"].tolist() == [name for name in ways for _ in range(4)]
    assert table["image"].tolist() == ["b", "e", "b", "e"] * 3
    assert table["role"].tolist() == ["same", "same", "edited", "edited"] * 3
    made = study.making.edits_of(system, places, Settings())
    own = ground.trials(system, made, table[:2].assign(step=0, token=0, margin=0.0))
    assert table["after"][2:4].tolist() == own["after"].tolist()
    assert table.groupby("method")["swapped"].mean()[["a", "b"]].tolist() == [1.0, 0.0]
    summary = study.outcomes.summarise(table, ["method"], concepts=False)
    assert set(summary["n"]) == {2}
    means = study.trials.means(table, summary)
    assert list(means) == ["a", "b", "c"]
    assert (means["a"]["efficacy"], means["b"]["generality"]) == (1, 0)
    assert np.isnan(means["a"]["locality"])
    assert means["b"]["norm"] == pytest.approx(means["a"]["norm"] / 1000)
    few = ground.compared(system, {"a": Settings()}, ones, places, 1, **QUIET)
    assert few["image"].tolist() == ["b", "b"]
    none = ground.compared(system, {"a": Settings()}, ones, [], 9, **QUIET)
    assert none["role"].tolist() == ["same", "same"]


def test_edits_that_were_found_everywhere_can_be_tried_nowhere(system, findings, ground):
    found = ground.rows["role"] == study.outcomes.EDITED
    full = replace(ground, rows=ground.rows[found])
    with pytest.raises(TooFew, match="each of the 2 photographs, which leaves none"):
        full.compared(system, {"a": Settings()}, findings, [], 9, **QUIET)
    made = study.making.edits_of(system, findings, Settings())
    with pytest.raises(ValueError, match="or fewer concepts"):
        full.sweep(system, made, counts=[1], strengths=[1.0], n_images=9)


def test_a_photograph_that_is_tried_twice_counts_once(system, photographs, said, findings, ground):
    places = study.findings.find_on_each(system, photographs, said, ground.rows, 1)
    table = ground.compared(system, {"a": Settings()}, findings, places, 9, **QUIET)
    halved = table.assign(kept=np.where(table["role"] == study.outcomes.EDITED, 0.0, 1.0))
    found = study.trials.measures(halved)
    assert (found["fluency"].value, found["fluency"].n) == (0.5, 2)
    assert found["generality"].value == 1
    assert found["locality"] is None


def test_a_sweep_cuts_and_scales(system, findings, ground):
    edits = study.making.edits_of(system, findings, Settings(beta=0.0))
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
        ground.dealt(system, edits, ground.rows)
