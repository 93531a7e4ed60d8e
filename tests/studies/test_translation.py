"""Top units and their words: shares against random ones, layers, and how well the words fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmn_utils.measures.estimates import mean_of, share_of
from mmn_utils.neurons.decoding import decoded_words
from mmn_utils.neurons.table import Neuron, controls
from mmn_utils.neurons.targets import Target
from mmn_utils.neurons.text import is_dictionary_word
from mmn_utils.studies import translation
from mmn_utils.studies.subjects import Subjects, top_neurons
from tests.tiny import tiny_limber, tiny_photographs
from tests.tiny_gated import TinyGated


@pytest.fixture(scope="module")
def system():
    return tiny_limber()


@pytest.fixture
def sample(tmp_path) -> Subjects:
    """Three photographs with targets of the test's own."""
    photographs = tiny_photographs(tmp_path, 3)
    targets = [Target(p.id, "horse", 300 + i, (5,) * i) for i, p in enumerate(photographs)]
    return Subjects(photographs, [None] * 3, [[target] for target in targets])


# --- what the units write ----------------------------------------------------------------


WORDS = ["horse", "horses", "field", "riding", "stable", "saddle", "pony", "x", "y", "z"]


def test_decoded_neurons_are_described_image_by_image():
    a, b = (Neuron(1, 2), -1), (Neuron(0, 7), 1)
    words = {a: [f" {word}" for word in WORDS], b: ["##"] * 10}
    sets = {"1": {"multimodal": [a, b], "random": [b, a]}, "2": {"multimodal": [a], "random": [b]}}
    table = translation.described(sets, words, {"1": "horse", "2": "boat"})
    assert len(table) == 6
    first = table.iloc[0]
    assert (first["image"], first["condition"], first["rank"]) == ("1", "multimodal", 0)
    assert (first["neuron"], first["sign"]) == a
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
        units_here = list(zip(rows["neuron"], rows["sign"], strict=True))
        words = decoded_words(system, units_here)
        assert rows["tokens"].tolist() == [words[pair] for pair in units_here]
        if condition == "multimodal":
            mine = neurons[neurons["image"] == image]["activation"]
            assert rows["sign"].tolist() == np.sign(mine).tolist()
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
    assert found.ours == share_of([0.25, 0.5, 0.75], 1)
    assert found.chance.value == 0
    assert found.more.value == 0.5
    assert translation.share(table, "interpretable", top=1).ours.value == 1


def test_shares_of_first_units_that_write_the_noun_have_a_row_for_each_count():
    table = pd.DataFrame(
        [(i, c, rank, c == "multimodal" and rank < 1) for i in "ab"
         for c in ("multimodal", "random") for rank in range(4)],
        columns=["image", "condition", "rank", "writes_noun"],
    )  # fmt: skip
    found = translation.noun_shares(table, (1, 4))
    assert found.columns.tolist() == ["image", "units", "top", "random"]
    assert found["image"].tolist() == ["a", "b", "a", "b"]
    assert found["units"].tolist() == [1, 1, 4, 4]
    assert found["top"].tolist() == [1, 1, 0.25, 0.25]
    assert not found["random"].any()


def test_words_among_tokens_are_counted_by_the_dictionary(system):
    named = [is_dictionary_word(token) for token in system.token_strings]
    assert translation.words_among_tokens(system) == sum(named) / len(named)
    assert 0 < sum(named) < len(named)


# --- pairs of unit and patch -------------------------------------------------------------


def test_pairs_are_the_tables_own_decoded(sample):
    system = TinyGated()
    pairs = translation.pairs(system, sample, n=5)
    table = top_neurons(system, sample, k=5, rank_by="pair", progress=False)
    assert list(pairs.columns) == [
        "image", "target", "neuron", "patch", "sign", "interpretable", "writes noun",
        "top five tokens", "score",
    ]  # fmt: skip
    assert pairs["score"].tolist() == table["score"].tolist()
    assert pairs["sign"].tolist() == ["−" if a < 0 else "+" for a in table["activation"]]
    assert set(pairs["sign"]) == {"+", "−"}
    for sign, text in ((1, "+"), (-1, "−")):
        row = pairs[pairs["sign"] == text].iloc[0]
        (words,) = decoded_words(system, [(row["neuron"], sign)]).values()
        assert row["top five tokens"] == ", ".join(token.strip() for token in words[:5])


def test_pairs_show_what_a_unit_suppresses_on_request(sample):
    system = TinyGated()
    pairs = translation.pairs(system, sample, n=5, both_ends=True)
    assert list(pairs.columns)[-2:] == ["suppresses", "score"]
    for sign, text in ((1, "+"), (-1, "−")):
        row = pairs[pairs["sign"] == text].iloc[0]
        (words,) = decoded_words(system, [(row["neuron"], -sign)]).values()
        assert row["suppresses"] == ", ".join(token.strip() for token in words[:5])
    assert pairs.drop(columns="suppresses").equals(translation.pairs(system, sample, n=5))


def test_different_values_are_averaged_over_images():
    table = pd.DataFrame({"image": list("aaabb"), "patch": [1, 1, 2, 3, 3]})
    assert translation.different(table, "patch") == 1.5


# --- in which layers ---------------------------------------------------------------------


def test_a_layer_lies_in_a_band_by_the_share_of_its_depth():
    assert translation.depth_shares(4, 0.25, 0.75).tolist() == [0, 1, 1, 0]
    assert translation.depth_shares(4, 0.125, 0.3).tolist() == pytest.approx([0.5, 0.2, 0, 0])
    assert translation.depth_shares(2, 0.1, 0.2).tolist() == pytest.approx([0.2, 0])
    of_28 = translation.depth_shares(28, *translation.BAND)
    assert of_28.tolist() == pytest.approx([0] * 5 + [1] * 6 + [0] * 17)


@given(st.integers(1, 40), st.floats(0, 1), st.floats(0, 1))
def test_shares_of_depth_add_up_to_the_band(layers, one, other):
    low, high = sorted((one, other))
    shares = translation.depth_shares(layers, low, high)
    assert shares.sum() / layers == pytest.approx(high - low, abs=1e-9)
    assert ((shares >= 0) & (shares <= 1)).all()


TOPS = pd.DataFrame(
    {"layer": [0, 1, 1, 1], "unit": [2, 3, 3, 4], "interpretable": [False, True, False, False]}
)


def test_different_units_are_listed_once_with_their_place_in_the_depth():
    table = translation.different_units(TOPS, 4)
    assert table[["layer", "unit"]].to_numpy().tolist() == [[0, 2], [1, 3], [1, 4]]
    assert table["lists"].tolist() == [1, 2, 1]
    assert table["readable"].tolist() == [0, 1, 0]
    # of four layers the second spans .25 to .5, the band 5/28 = .179 to 11/28 = .393
    assert table["before"].tolist() == pytest.approx([5 / 7, 0, 0])
    assert table["band"].tolist() == pytest.approx([2 / 7, 4 / 7, 4 / 7])
    assert table["behind"].tolist() == pytest.approx([0, 3 / 7, 3 / 7])


def test_layers_count_different_units_and_entries():
    table = translation.layer_counts(translation.different_units(TOPS, 4), 4)
    assert table["different units, multimodal"].tolist() == [1, 2, 0, 0]
    assert table["different units, interpretable"].tolist() == [0, 1, 0, 0]
    assert table["entries in top lists, multimodal"].tolist() == [1, 3, 0, 0]
    assert table["entries in top lists, interpretable"].tolist() == [0, 1, 0, 0]


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
    assert (fit.above.value, fit.behind.value, fit.way.value) == pytest.approx((1, -3, 0.25))
    assert fit.means["captions"] == mean_of(best["captions"])


def test_scores_and_interpretable_shares_have_a_row_for_every_image():
    rows = [(i, c, c == "multimodal" or i == "b") for i in "ab" for c in ("multimodal", "random")]
    units = pd.DataFrame(rows, columns=["image", "condition", "interpretable"])
    best = pd.DataFrame({"random": [1.5], "multimodal": [2.5]}, pd.Index(["b"], name="image"))
    table = translation.by_image({"clipscore": best}, units)
    assert table.columns.tolist() == [
        "image", "interpretable", "interpretable_random", "clipscore_random",
        "clipscore_multimodal",
    ]  # fmt: skip
    assert table["image"].tolist() == ["a", "b"]
    assert table["interpretable"].tolist() == [1, 1]
    assert table["interpretable_random"].tolist() == [0, 1]
    assert table["clipscore_multimodal"].isna().tolist() == [True, False]
    assert table["clipscore_multimodal"].iloc[1] == 2.5


def test_the_papers_table_is_read_by_judge_and_condition():
    printed = translation.printed_fit()
    assert printed["clipscore"]["multimodal"] == 23.43
    assert printed["bertscore"]["captions"] == 0.5251
