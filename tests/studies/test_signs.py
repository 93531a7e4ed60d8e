"""Which end a unit writes where it was found, and random units beside it at the same place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.models.capture import capture
from mmn_utils.neurons.decoding import interpretable
from mmn_utils.neurons.table import Neuron, controls, neuron_table
from mmn_utils.neurons.targets import Target
from mmn_utils.studies import signs
from mmn_utils.studies.subjects import Subjects, top_neurons
from tests.tiny import tiny_limber, tiny_photographs
from tests.tiny_gated import TinyGated


@pytest.fixture(scope="module", params=[tiny_limber, TinyGated], ids=["plain", "gated"])
def system(request):
    return request.param()


@pytest.fixture
def sample(tmp_path) -> Subjects:
    photographs = tiny_photographs(tmp_path, 3)
    targets = [Target(p.id, "horse", 300 + i, (5,) * i) for i, p in enumerate(photographs)]
    return Subjects(photographs, [None] * 3, [[target] for target in targets])


@pytest.mark.parametrize("rank_by", ["max", "sum"])
def test_a_control_has_its_own_sign_where_its_partner_scored(system, sample, rank_by, monkeypatch):
    neurons = top_neurons(system, sample, k=6, rank_by=rank_by, progress=False)
    found = signs.signed_controls(system, sample, neurons, seed=4, k=5, progress=False)
    plain = controls(neurons, system.sizes.units, 4, 5)
    drawn = set()
    for photograph in sample.photographs:
        with torch.no_grad(), capture(system) as seen:
            system.forward(system.prompt([photograph.open()]))
        span = system.image_tokens
        rows = neurons[neurons["image"] == photograph.id].head(5)
        for condition, pairs in found[photograph.id].items():
            assert [neuron for neuron, _ in pairs] == plain[photograph.id][condition]
            for (neuron, sign), patch in zip(pairs, rows["patch"], strict=True):
                own = seen.values[neuron.layer][0, span.start : span.start + span.count]
                own = own[:, neuron.unit]
                assert sign == np.sign((own.sum() if patch < 0 else own[patch]).item())
        drawn |= {sign for _, sign in found[photograph.id]["random"]}
    assert drawn == {1, -1}
    monkeypatch.setattr(signs, "activations_at", None)  # not computed again
    again = signs.signed_controls(system, sample, neurons, seed=4, k=5, progress=False)
    assert again == found


def test_units_are_interpretable_end_by_end(system, monkeypatch):
    monkeypatch.setattr(signs, "WORDS_NEEDED", 1)  # random vectors name few words
    monkeypatch.setattr("mmn_utils.neurons.decoding.is_interpretable", names_a_word)
    ends = signs.interpretable_ends(system)
    units = [Neuron(layer, unit) for layer in range(3) for unit in range(0, system.sizes.units, 5)]
    for sign in (1, -1):
        assert ends[sign].shape == (3, system.sizes.units)
        expected = interpretable(system, [(unit, sign) for unit in units])
        found = [bool(ends[sign][unit.layer, unit.unit]) for unit in units]
        assert found == list(expected.values())
    assert (ends[1] != ends[-1]).any()


@pytest.mark.parametrize("norm", ["none", "final"])
@pytest.mark.parametrize("bias", [False, True])
def test_both_ends_are_read_with_the_norm_and_the_bias_that_are_asked(monkeypatch, norm, bias):
    system = tiny_limber()
    monkeypatch.setattr(signs, "WORDS_NEEDED", 2)
    word = torch.tensor([signs.is_dictionary_word(text) for text in system.token_strings])
    found = signs.interpretable_ends(system, decode_norm=norm, decode_bias=bias)
    weight, shift = (part.detach() for part in system.unembedding)
    last = system.final_norm
    for sign in (1, -1):
        vectors = sign * system.act_module(1).weight.detach().T  # (units, d)
        read = last(vectors) if norm == "final" else vectors
        logits = (read @ weight.T + (shift if bias else 0))[:, : system.sizes.vocabulary]
        expected = word[logits.argsort(dim=1, descending=True)[:, :10]].sum(1) >= 2
        assert found[sign][1].tolist() == expected.tolist()


def names_a_word(tokens) -> bool:
    return any(map(signs.is_dictionary_word, tokens))


def test_rows_are_judged_by_the_end_that_was_written():
    ends = {1: np.array([[True, False, True]]), -1: np.array([[False, True, True]])}
    rows = [(0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0), (2, 0.0)]
    table = neuron_table(
        {"image": "a", "target": "cat", "token": 1, "layer": 0, "unit": unit, "patch": -1,
         "score": -float(i), "activation": activation}
        for i, (unit, activation) in enumerate(rows)
    )  # fmt: skip
    assert signs.interpretable_rows(ends, table).tolist() == [True, False, False, True, True]
    assert signs.share_negative(table) == 0.4
    with pytest.raises(ValueError, match="5 of 5 neurons have no activation"):
        signs.share_negative(table.assign(activation=np.nan))
