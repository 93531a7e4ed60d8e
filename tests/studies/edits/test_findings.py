"""What edits are found on: concepts of captions, top neurons, and edits made in batches."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.models.capture import capture
from mmn_utils.neurons.targets import teacher_forced
from mmn_utils.studies import edits as study
from tests.interventions.planted import neuron


def test_an_edit_is_found_on_the_first_photograph_with_the_word(findings):
    assert [finding.photograph.id for finding in findings] == ["a", "c"]
    assert [finding.neurons[0] for finding in findings] == [neuron("horse"), neuron("boat")]
    assert findings[0].concept == ("horse", "cat")
    assert findings[0].into("dog").concept == ("horse", "dog")
    assert findings[0].first(1).neurons == (neuron("horse"),)
    assert findings[0].first(1).signed == ((neuron("horse"), 1),)


def test_neurons_come_with_the_sign_of_their_activation(system, photographs, said):
    place = [photographs[:1], said[0]]
    every = system.sizes.layers * system.sizes.units
    (found,) = study.findings.top_neurons(system, *place, every)
    prompt = teacher_forced(system, system.prompt([photographs[0].open()]), [said[0][0].prefix])
    with torch.no_grad(), capture(system, "activation", range(system.sizes.layers)) as seen:
        system.forward(prompt)
    values = [float(seen.values[n.layer][0, prompt.ends[0], n.unit]) for n, _ in found]
    assert [sign for _, sign in found] == [-1 if value < 0 else 1 for value in values]
    assert {sign for _, sign in found} == {1, -1}


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


def test_vectors_name_the_tokens_that_they_raise(system):
    vectors = system.write_vectors(2)[[neuron("horse").unit, neuron("boat").unit]]
    first = study.findings.tokens_of(system, vectors, 2)
    assert [tokens[0].strip() for tokens in first] == ["horse", "boat"]
    assert [len(tokens) for tokens in first] == [2, 2]
    turned = study.findings.tokens_of(system, -vectors, 2)
    for word, tokens in zip(("horse", "boat"), turned, strict=True):
        assert word not in {token.strip() for token in tokens}


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
