"""Edits tried on photographs that are dealt out, against the plain evaluation."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.datasets import Photograph
from mmn_utils.exhibits.edit_plots import sweep_figure as drawn
from mmn_utils.exhibits.edit_plots import ways_figure
from mmn_utils.interventions.editing import EmptyEdit, JointSettings, Settings, apply
from mmn_utils.interventions.perturbation import perturbation_table
from mmn_utils.models.base import state_hash
from mmn_utils.neurons.captions import caption_images
from mmn_utils.neurons.targets import Target
from mmn_utils.studies import edit_tables as tables
from mmn_utils.studies import edit_trials as trials
from mmn_utils.studies import edits as study
from tests.interventions.test_editing import neuron, picture, planted

QUIET = {"progress": False}
SHOWN = [("a", "horse", 0), ("b", "horse", 2), ("c", "boat", 0), ("d", "horses", 0),
         ("e", "boat", 1), ("f", "horses", 1)]  # fmt: skip
PAIRS = [("horse", "cat"), ("boat", "dog")]


@pytest.fixture(scope="module")
def system():
    return planted()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("planted"), []
    for name, word, shade in SHOWN:
        path = folder / f"{name}.png"
        picture(word, shade).save(path)
        found.append(Photograph(name, path))
    return found


def as_targets(captions) -> list[list[Target]]:
    """Take the first word for the noun, whatever a tagger makes of these captions."""
    return [
        [Target(name, caption.text.split()[0], caption.ids[0], ())]
        for (name, _, _), caption in zip(SHOWN, captions, strict=True)
    ]


@pytest.fixture(scope="module")
def said(system, photographs):
    return as_targets(caption_images(system, [p.open() for p in photographs], 4))


@pytest.fixture(scope="module")
def findings(system, photographs, said):
    return trials.find_on_first(system, photographs, said, PAIRS, 2)


@pytest.fixture(scope="module")
def edits(system, findings):
    return trials.by_concept(
        trials.edits_of(system, [finding.first(1) for finding in findings], Settings())
    )


@pytest.fixture(scope="module")
def before(system, photographs, edits):
    concepts = [edit.concepts[0] for edit in edits.values()]
    return study.before_edit(system, photographs, concepts, max_new_tokens=4, **QUIET)


@pytest.fixture(scope="module")
def rows(before):
    return trials.deal(before)


@pytest.fixture(scope="module")
def drafts(system, before, edits, rows):
    return trials.drafts_for(system, before, rows)


def for_rows(edits, rows):
    return [edits[concept] for concept in zip(rows["source"], rows["target"], strict=True)]


def test_an_edit_is_found_on_the_first_photograph_with_the_word(findings):
    assert [finding.photograph.id for finding in findings] == ["a", "c"]
    assert [finding.neurons[0] for finding in findings] == [neuron("horse"), neuron("boat")]
    assert findings[0].concept == ("horse", "cat")
    assert findings[0].into("dog").concept == ("horse", "dog")
    assert findings[0].first(1).neurons == (neuron("horse"),)


def test_concepts_are_the_words_that_captions_begin_with(system, said):
    assert trials.choose_concepts(system, said, 1) == [("boat", "horse")]
    both = trials.choose_concepts(system, said, 5)
    assert {source for source, _ in both} == {"boat", "horse", "horses"}
    assert all(trials.differ(system, *pair) for pair in both)
    with pytest.raises(ValueError, match="no two"):
        trials.choose_concepts(system, said[:1], 3)


def test_concepts_are_checked(system, said):
    assert trials.check_concepts(system, [["Horse", "cat"]], said) == [("horse", "cat")]
    assert trials.check_concepts(system, [], said) == []
    for concepts, message in [
        ([["horse"]], "pairs of words"),
        ([["horse", 3]], "pairs of words"),
        ([["camel", "cat"]], r"no caption has the noun 'camel'.*horse"),
        ([["horse", "horses"]], "told apart"),
        ([["horse", "cat"], ["horse", "dog"]], "one other only"),
    ]:
        with pytest.raises(ValueError, match=message):
            trials.check_concepts(system, concepts, said)


def test_each_photograph_is_dealt_once(rows):
    assert rows["image"].is_unique
    dealt = rows.set_index("image")
    assert dealt["role"].to_dict() == {"a": "edited", "b": "same", "c": "edited", "e": "same"}
    assert dealt["source"].tolist() == ["horse", "horse", "boat", "boat"]


def test_photographs_without_a_source_are_dealt_by_turns():
    pairs = [("horse", "cat"), ("boat", "dog")]
    table = pd.DataFrame(
        [(image, *pair, "other") for image in "abcd" for pair in pairs],
        columns=["image", "source", "target", "role"],
    )
    concepts = [SimpleNamespace(source=a, target=b) for a, b in pairs]
    dealt = trials.deal(SimpleNamespace(rows=table, concepts=concepts))
    assert dealt["source"].tolist() == ["horse", "boat", "horse", "boat"]
    mixed = pd.concat([dealt, dealt.assign(image=list("efgh"), role="same")])
    few = trials.thinned(mixed, 4)
    assert few["role"].tolist() == ["same", "same", "other", "other"]
    assert set(few["source"][:2]) == {"horse", "boat"}


def test_trials_agree_with_the_plain_evaluation(system, edits, before, drafts, rows):
    weights = state_hash(system.language_model)
    found = trials.trials(system, for_rows(edits, rows), before, drafts, rows).set_index("image")
    assert state_hash(system.language_model) == weights
    for concept, edit in edits.items():
        own = study.before_edit(
            system, before.photographs, edit.concepts, max_new_tokens=4, **QUIET
        )
        plain = study.evaluate(system, edit, own, **QUIET).set_index("image")
        for image in found.index[found["source"] == concept[0]]:
            expected, got = plain.loc[image], found.loc[image]
            for column in ("before", "after", "swapped", "exact", "kept", "unchanged"):
                assert got[column] == expected[column]
            for column in ("margin_before", "margin_after"):
                assert got[column] == pytest.approx(expected[column], abs=1e-3)
    assert (found["swapped"] == 1).all()


def test_efficacy_takes_an_edit_for_each_photograph(
    system, photographs, said, edits, before, drafts, rows
):
    found, there = trials.find_on_each(system, photographs, said, rows, 1)
    assert [finding.photograph.id for finding in found] == there["image"].tolist() == ["b", "e"]
    assert set(there["role"]) == {study.EDITED}
    own = trials.edits_of(system, found, Settings())
    assert [edit.concepts[0].images for edit in own] == [("b",), ("e",)]
    first = trials.trials(system, for_rows(edits, rows), before, drafts, rows)
    both = pd.concat([first, trials.trials(system, own, before, drafts, there)])
    assert trials.measured(first, "efficacy").n == 2
    assert trials.measured(both, "efficacy").n == 4
    # A photograph that was tried twice counts once, with the mean of its trials.
    assert trials.measured(both, "fluency").n == 4
    halved = both.assign(kept=np.where(both["role"] == study.EDITED, 0.0, 1.0))
    assert trials.measured(halved, "fluency").value == 0.25


def test_edits_found_in_batches_are_those_found_one_by_one(system, findings):
    several = [*findings, findings[0].into("dog"), findings[1].first(1)]
    for settings in (Settings(), Settings("adam", epochs=20), Settings("squared", beta=2.0)):
        together = trials.edits_of(system, several, settings, batch_size=3)
        for finding, edit in zip(several, together, strict=True):
            alone = trials.edit_of(system, finding, settings)
            assert (edit.neurons, edit.concepts) == (alone.neurons, alone.concepts)
            torch.testing.assert_close(edit.deltas, alone.deltas, rtol=1e-4, atol=1e-5)
    assert trials.edits_of(system, [], Settings()) == []


def test_ways_are_compared_on_the_same_photographs(system, edits, findings, before, drafts, rows):
    weak = {concept: edit.scaled(0.01) for concept, edit in edits.items()}
    table = trials.compared(system, {"a": edits, "b": weak}, before, drafts, rows, **QUIET)
    assert table.groupby("method")["swapped"].mean().to_dict() == {"a": 1.0, "b": 0.0}
    assert trials.measured(table[table["method"] == "a"], "generality").value == 1
    assert trials.measured(table, "locality") is None
    assert trials.paired(table, "a", "b", "efficacy").value == 1
    assert trials.paired(table, "a", "b", "locality") is None
    summary = study.summarise(table, ["method"], concepts=False)
    assert summary.set_index(["method", "measure"])["n"]["a", "efficacy"] == 2
    figure = ways_figure(summary, ["a", "b"])
    assert len(figure.axes[0].get_xticks()) == 3  # no locality here
    plt.close(figure)
    with pytest.raises(ValueError, match="colours"):
        ways_figure(summary, list("abcde"))


def test_a_sweep_cuts_and_scales(system, findings, before, drafts, rows):
    edits = trials.by_concept(trials.edits_of(system, findings, Settings(beta=0.0)))
    cut = trials.grid(edits, [1, 2], [0.01, 1.0])
    assert len(cut["1 x 0.01"]["horse", "cat"].neurons) == 1
    drafts = trials.drafts_for(system, before, rows)
    table = trials.swept(trials.compared(system, cut, before, drafts, rows, **QUIET))
    assert table.groupby("strength")["swapped"].mean().tolist() == [0.0, 1.0]
    summary = study.summarise(table, ["neurons", "strength"], concepts=False)
    figure = drawn(summary)
    assert len(figure.axes) == 2
    plt.close(figure)


def test_trials_refuse_a_model_that_is_edited_already(system, edits, before, drafts, rows):
    own = for_rows(edits, rows)
    with (
        apply(system, edits["horse", "cat"]),
        pytest.raises(ValueError, match="undo its edits"),
    ):
        trials.trials(system, own, before, drafts, rows)


def test_edits_of_nothing_are_an_error_only_together(system, findings):
    with pytest.raises(EmptyEdit, match="Lower beta"):
        trials.edits_of(system, findings, Settings(beta=1e6))
    pulls = [max(trials.edit_of(system, f, Settings()).pulls) for f in findings]
    between = Settings(beta=sum(pulls) / 2)
    if min(pulls) < between.beta < max(pulls):
        edits = trials.edits_of(system, findings, between)
        assert sorted(float(edit.norms.max()) > 0 for edit in edits) == [False, True]


def test_the_closed_form_is_where_the_steps_end(system, findings):
    gaps = trials.closed_against_steps(system, findings, Settings())
    assert set(gaps) == set(PAIRS)
    assert max(gaps.values()) < 1e-5
    gaps = trials.closed_against_steps(system, findings, Settings(beta=1e6))
    assert all(np.isnan(gap) for gap in gaps.values())


def test_tables_show_captions_before_and_after(system, findings, edits, before, drafts, rows):
    table = tables.edit_exhibit(system, findings, Settings(), 4)
    assert table["before"].tolist() == ["horse grass", "boat grass"]
    assert table["after"].tolist() == ["cat grass", "dog grass"]
    assert table["swapped"].all()
    none = tables.edit_exhibit(system, findings, Settings(beta=1e6), 4)
    assert set(none["after"]) == {"(no edit: g below beta)"}
    assert not none["swapped"].any()
    others = tables.others_exhibit(
        trials.trials(system, for_rows(edits, rows), before, drafts, rows), PAIRS
    )
    assert others["role"].tolist() == ["edited on it", "another with the source"] * 2
    assert others["edited output"].tolist() == ["cat grass", "cat grass", "dog grass", "dog grass"]


def test_a_perturbation_table_is_laid_out(system, photographs, said):
    some = photographs[:2]
    targets = [nouns[0] for nouns in said[:2]]
    tops = trials.top_neurons(system, some, targets, 1)
    table = perturbation_table(
        system, [p.open() for p in some], targets, tops, sigma=3.0, max_new_tokens=4
    )
    shown = tables.perturbation_exhibit(table, ["a"])
    assert shown["neurons"].tolist() == ["top", "random"]
    assert shown["original output"].tolist() == ["horse grass"] * 2
    averaged = trials.by_image(table, "changed")
    assert list(averaged.index) == ["a", "b"]
    assert set(averaged.columns) == {"multimodal", "random"}


def test_other_uses_of_an_edit(system, findings, tmp_path):
    path = tmp_path / "edit.safetensors"
    joint = JointSettings(epochs=3)
    table = tables.uses_exhibit(system, findings, Settings(), joint, "catdog", path, 4)
    assert len(table) == 5
    assert (table["weights before"] == table["weights undone"]).all()
    assert (table["weights before"] != table["weights edited"]).all()
    assert (table["before"] == table["undone"]).all()
    saved = table.iloc[-1]
    assert saved["edit"] == f"saved ({path.stat().st_size:,} bytes), loaded"
    assert saved["edited"] == "cat grass"
    assert saved["target said"]
    with pytest.raises(ValueError, match="one token"):
        tables.uses_exhibit(system, findings, Settings(), joint, "cat", path, 4)
