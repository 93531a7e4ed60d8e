"""What edits are found on: concepts of captions, top neurons, and edits made in batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.interventions.edit import EmptyEdit
from mmn_utils.interventions.editing import Settings
from mmn_utils.studies import edits as study
from tests.interventions.planted import neuron
from tests.studies.conftest import PAIRS


def test_an_edit_is_found_on_the_first_photograph_with_the_word(findings):
    assert [finding.photograph.id for finding in findings] == ["a", "c"]
    assert [finding.neurons[0] for finding in findings] == [neuron("horse"), neuron("boat")]
    assert findings[0].concept == ("horse", "cat")
    assert findings[0].into("dog").concept == ("horse", "dog")
    assert findings[0].first(1).neurons == (neuron("horse"),)


def test_concepts_are_the_words_that_captions_begin_with(system, said):
    assert study.findings.choose_concepts(system, said, 1) == [("boat", "horse")]
    both = study.findings.choose_concepts(system, said, 5)
    assert {source for source, _ in both} == {"boat", "horse", "horses"}
    assert all(study.findings.differ(system, *pair) for pair in both)
    with pytest.raises(ValueError, match="no two"):
        study.findings.choose_concepts(system, said[:1], 3)


def test_concepts_are_checked(system, said):
    assert study.findings.check_concepts(system, [["Horse", "cat"]], said) == [("horse", "cat")]
    assert study.findings.check_concepts(system, [], said) == []
    for concepts, message in [
        ([["horse"]], "pairs of words"),
        ([["horse", 3]], "pairs of words"),
        ([["camel", "cat"]], r"no caption has the noun 'camel'.*horse"),
        ([["horse", "horses"]], "told apart"),
        ([["horse", "cat"], ["horse", "dog"]], "one other only"),
    ]:
        with pytest.raises(ValueError, match=message):
            study.findings.check_concepts(system, concepts, said)


def test_edits_found_in_batches_are_those_found_one_by_one(system, findings):
    several = [*findings, findings[0].into("dog"), findings[1].first(1)]
    for settings in (Settings(), Settings("adam", epochs=20), Settings("squared", beta=2.0)):
        together = study.findings.edits_of(system, several, settings, batch_size=3)
        for finding, edit in zip(several, together, strict=True):
            alone = study.findings.edit_of(system, finding, settings)
            assert (edit.neurons, edit.concepts) == (alone.neurons, alone.concepts)
            torch.testing.assert_close(edit.deltas, alone.deltas, rtol=1e-4, atol=1e-5)
    assert study.findings.edits_of(system, [], Settings()) == []


def test_edits_of_nothing_are_an_error_only_together(system, findings):
    with pytest.raises(EmptyEdit, match="Lower beta"):
        study.findings.edits_of(system, findings, Settings(beta=1e6))
    pulls = [max(study.findings.edit_of(system, f, Settings()).pulls) for f in findings]
    between = Settings(beta=sum(pulls) / 2)
    if min(pulls) < between.beta < max(pulls):
        edits = study.findings.edits_of(system, findings, between)
        assert sorted(float(edit.norms.max()) > 0 for edit in edits) == [False, True]


def test_the_closed_form_is_where_the_steps_end(system, findings):
    gaps = study.findings.closed_against_steps(system, findings, Settings())
    assert set(gaps) == set(PAIRS)
    assert max(gaps.values()) < 1e-5
    gaps = study.findings.closed_against_steps(system, findings, Settings(beta=1e6))
    assert all(np.isnan(gap) for gap in gaps.values())


def test_concepts_are_those_given_or_else_chosen(system, said):
    assert study.findings.concepts_of(system, said, [["Horse", "cat"]], 5) == [("horse", "cat")]
    assert study.findings.concepts_of(system, said, [], 1) == [("boat", "horse")]
    with pytest.raises(ValueError, match="camel"):
        study.findings.concepts_of(system, said, [["camel", "cat"]])


def test_what_all_findings_share(findings):
    assert study.findings.shared_neurons(findings[:1]) == sorted(findings[0].neurons, key=str)
    ones = [finding.first(1) for finding in findings]
    assert study.findings.shared_neurons(ones) == []
    assert study.findings.shared_neurons([ones[0], findings[0]]) == [neuron("horse")]


def test_the_first_source_gets_the_other_words_too(system, findings):
    third = findings[1].into("horses")  # cannot be told from the first source
    shown = study.findings.with_more_words(system, [*findings, third, findings[0].into("cat")], 3)
    assert [one.concept for one in shown] == [
        ("horse", "cat"), ("horse", "dog"), ("boat", "dog"), ("boat", "horses"), ("horse", "cat"),
    ]  # fmt: skip
    assert study.findings.with_more_words(system, findings, 0) == findings


def test_the_strongest_edit_comes_first(findings, edits):
    longer = [edits[0], edits[1].scaled(100.0)]
    assert study.findings.strongest(findings, longer) == (findings[::-1], longer[::-1])
    shorter = [edits[0], edits[1].scaled(0.01)]
    assert study.findings.strongest(findings, shorter) == (findings, shorter)


def test_an_empty_edit_is_refused_in_words(system, findings):
    for settings in (Settings(), Settings("squared", beta=2.0)):
        said = study.findings.refusal(system, findings[0], settings)
        assert "turning 'horse' into 'cat'" in said
        assert "Lower beta" in said
    assert "went through" in study.findings.refusal(system, findings[0], Settings(), beta=0.0)
