"""Top units and their words: shares against random ones, layers, and how well the words fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets import Photograph
from mmn_utils.measures.estimates import mean_of
from mmn_utils.models.base import Sizes
from mmn_utils.neurons.decoding import decoded_words
from mmn_utils.neurons.table import Neuron, controls, neuron_table
from mmn_utils.neurons.targets import Target
from mmn_utils.neurons.text import is_dictionary_word
from mmn_utils.studies import translation
from mmn_utils.studies.subjects import Subjects, top_neurons
from tests.tiny import tiny_images, tiny_limber

SIZES = Sizes(layers=4, units=16, width=8, vocabulary=20)


@pytest.fixture(scope="module")
def system():
    return tiny_limber()


@pytest.fixture
def sample(tmp_path) -> Subjects:
    """Three photographs with targets of the test's own."""
    photographs = []
    for i, image in enumerate(tiny_images(3)):
        image.save(tmp_path / f"{i}.png")
        photographs.append(Photograph(str(i), tmp_path / f"{i}.png"))
    targets = [Target(p.id, "horse", 300 + i, (5,) * i) for i, p in enumerate(photographs)]
    return Subjects(photographs, [None] * 3, [[target] for target in targets])


def a_table(*rows) -> pd.DataFrame:
    """Return a neuron table of (image, layer, unit, score)."""
    return neuron_table(
        {"image": i, "target": "cat", "token": 1, "layer": layer, "unit": u, "patch": 0, "score": s}
        for i, layer, u, s in rows
    )


# --- what the units write ----------------------------------------------------------------


WORDS = ["horse", "horses", "field", "riding", "stable", "saddle", "pony", "x", "y", "z"]


def test_decoded_neurons_are_described_image_by_image():
    a, b = Neuron(1, 2), Neuron(0, 7)
    words = {a: [f" {word}" for word in WORDS], b: ["##"] * 10}
    sets = {"1": {"multimodal": [a, b], "random": [b, a]}, "2": {"multimodal": [a], "random": [b]}}
    table = translation.described(sets, words, {"1": "horse", "2": "boat"})
    assert len(table) == 6
    first = table.iloc[0]
    assert (first["image"], first["condition"], first["rank"]) == ("1", "multimodal", 0)
    assert first["neuron"] == a
    assert first["text"].startswith("horse, horses, field")
    assert first["interpretable"]
    assert first["writes_noun"]
    assert not table.iloc[1][["interpretable", "writes_noun"]].any()
    assert not table[table["image"] == "2"]["writes_noun"].any()
    shares = translation.share_by_image(table, "writes_noun")
    assert shares.loc["1"].tolist() == [0.5, 0.5]
    assert translation.share_by_image(table, "writes_noun", 1).loc["1"].tolist() == [1, 0]
    assert list(shares.index) == ["1", "2"]
    assert first["tokens"] == words[a]


def test_top_units_are_decoded_beside_random_ones_of_their_layers(system, sample):
    neurons = top_neurons(system, sample, k=4, progress=False)
    units = translation.with_controls(system, sample, neurons, seed=3)
    sets = controls(neurons, system.sizes.units, 3)
    assert len(units) == 3 * 2 * 4
    for (image, condition), rows in units.groupby(["image", "condition"]):
        assert rows["neuron"].tolist() == sets[image][condition]
        words = decoded_words(system, sets[image][condition])
        assert rows["tokens"].tolist() == [words[n] for n in rows["neuron"]]
    normed = translation.with_controls(system, sample, neurons, seed=3, decode_norm="final")
    assert normed["text"].tolist() != units["text"].tolist()


def test_ranked_units_carry_their_scores_best_first(system, sample):
    neurons = top_neurons(system, sample, k=4, progress=False)
    top = translation.ranked(
        neurons=neurons, units=translation.with_controls(system, sample, neurons)
    )
    assert len(top) == len(neurons)
    assert (top["score"].diff().dropna() <= 0).all()
    row = top.iloc[5]
    same = neurons[(neurons["image"] == row["image"]) & (neurons["unit"] == row["unit"])]
    assert row["score"] in same["score"].tolist()
    assert row["neuron"] == Neuron(row["layer"], row["unit"])


def test_a_share_is_held_against_random_units_image_by_image():
    table = pd.DataFrame(
        [(i, c, rank, c == "multimodal" and rank <= int(i))
         for i in "012" for c in ("multimodal", "random") for rank in range(4)],
        columns=["image", "condition", "rank", "interpretable"],
    )  # fmt: skip
    found = translation.share(table, "interpretable", seed=1)
    assert found.ours == mean_of([0.25, 0.5, 0.75], 1)
    assert found.chance.value == 0
    assert found.more.value == 0.5
    assert translation.share(table, "interpretable", top=1).ours.value == 1


def test_words_among_tokens_are_counted_by_the_dictionary(system):
    named = [is_dictionary_word(token) for token in system.token_strings]
    assert translation.words_among_tokens(system) == sum(named) / len(named)
    assert 0 < sum(named) < len(named)


# --- pairs of unit and patch -------------------------------------------------------------


def test_pairs_are_the_tables_own_decoded(system, sample):
    pairs = translation.pairs(system, sample, n=5)
    table = top_neurons(system, sample, k=5, rank_by="pair", progress=False)
    assert list(pairs.columns) == [
        "image", "target", "neuron", "patch", "interpretable", "writes noun", "top five tokens",
        "score",
    ]  # fmt: skip
    assert pairs["score"].tolist() == table["score"].tolist()
    words = decoded_words(system, [pairs["neuron"].iloc[0]])
    five = [token.strip() for token in next(iter(words.values()))[:5]]
    assert pairs["top five tokens"].iloc[0] == ", ".join(five)


def test_different_values_are_averaged_over_images():
    table = pd.DataFrame({"image": list("aaabb"), "patch": [1, 1, 2, 3, 3]})
    assert translation.different(table, "patch") == 1.5


# --- in which layers ---------------------------------------------------------------------


def test_layers_count_different_units_and_entries():
    top = pd.DataFrame(
        {"layer": [0, 1, 1, 1], "unit": [2, 3, 3, 4], "interpretable": [False, True, True, False]}
    )
    table = translation.layer_counts(top, SIZES)
    assert table["depth"].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert table["different units, multimodal"].tolist() == [1, 2, 0, 0]
    assert table["different units, interpretable"].tolist() == [0, 1, 0, 0]
    assert table["entries in top lists, multimodal"].tolist() == [1, 3, 0, 0]
    assert table["entries in top lists, interpretable"].tolist() == [0, 2, 0, 0]


def test_whereabouts_are_those_of_the_different_units():
    rows = [("a", 1, 3, 0.5), ("a", 1, 4, 0.4), ("b", 1, 3, 0.5), ("b", 3, 0, 0.1)]
    where = translation.whereabouts(a_table(*rows), SIZES, band=(0.3, 0.7))
    assert (where.mode, where.peak.value, where.peak.n) == (1, 0.375, 2)
    assert where.band.value == pytest.approx(2 / 3)  # two of three different units
    assert where.beyond == 1
    assert where.inside == 2
    assert where.band.low < where.band.value < where.band.high


# --- do the words fit? -------------------------------------------------------------------


def test_texts_are_those_of_top_units_that_pass_the_filter():
    rows = [("a", "multimodal", "x", True), ("a", "multimodal", "y", False),
            ("a", "random", "z", True), ("b", "multimodal", "w", False)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["image", "condition", "text", "interpretable"])
    assert translation.texts_of(table) == {"a": ["x"]}
    assert translation.texts_of(table, only_interpretable=False) == {"a": ["x", "y"], "b": ["w"]}


def test_a_fit_compares_own_units_with_others_and_with_captions():
    rng = np.random.default_rng(0)
    chance = rng.normal(0, 0.01, 50)
    best = pd.DataFrame({"random": chance, "multimodal": chance + 1, "captions": chance + 4})
    fit = translation.fit(best)
    values = (fit.above.value, fit.behind.value, fit.middle.value, fit.way.value)
    assert values == pytest.approx((1, -3, -1, 0.25))
    assert fit.means["captions"] == mean_of(best["captions"])


def test_the_papers_table_is_read_by_judge_and_condition():
    printed = translation.printed_fit()
    assert printed["clipscore"]["multimodal"] == 23.43
    assert printed["bertscore"]["captions"] == 0.5251
