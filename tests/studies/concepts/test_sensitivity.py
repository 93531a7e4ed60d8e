"""Semantic sensitivity: whose words are compared, and how many numbers become one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.measures.bertscore import bertscore
from mmn_utils.measures.bleurt import BleurtResult
from mmn_utils.measures.estimates import difference_of, mean_of
from mmn_utils.measures.moverscore import moverscore
from mmn_utils.models.capture import capture
from mmn_utils.neurons import decoding
from mmn_utils.neurons.activation import activation_baseline
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.decoding import decoded_words, signed
from mmn_utils.neurons.table import Neuron, neuron_table
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.concepts import sensitivity as module
from mmn_utils.studies.concepts.sensitivity import METRICS, Sensitivity, sensitivity, top_words
from tests.tiny import tiny_images
from tests.tiny_gated import TinyGated

IMAGES = tiny_images(2)
TARGETS = [Target("a", "horse", 301, ()), Target("b", "boat", 277, ())]


@pytest.fixture(scope="module")
def model():
    return TinyGated()


@pytest.fixture(scope="module")
def tables(model):
    return {
        "contribution": contribution(model, IMAGES, TARGETS, k=40),
        "activation": activation_baseline(model, IMAGES, TARGETS, k=40),
    }


# --- top words -----------------------------------------------------------------------------


def test_top_words_are_the_decoded_top_of_each_table(model, tables):
    found = top_words(model, tables, neurons=4, tokens=5)
    assert list(found.columns) == [
        "image", "noun", "method", "rank", "neuron", "score", "sign", "words",
    ]  # fmt: skip
    assert len(found) == 2 * 2 * 4
    for (image, method), part in found.groupby(["image", "method"]):
        rows = tables[method].query(f"image == {image!r}").head(4)
        expected = [Neuron(row.layer, row.unit) for row in rows.itertuples()]
        assert part["neuron"].tolist() == [str(neuron) for neuron in expected]
        assert part["rank"].tolist() == [0, 1, 2, 3]
        assert part["score"].tolist() == rows["score"].tolist()
        pairs = signed(rows)
        words = decoded_words(model, pairs, 5)
        assert part["words"].tolist() == [words[pair] for pair in pairs]
        assert part["sign"].tolist() == [sign for _, sign in pairs]
    assert set(found["sign"]) == {1, -1}
    printed = top_words(model, tables, neurons=4, tokens=5, signed=False)
    assert (printed["sign"] == 1).all()
    assert found["noun"].unique().tolist() == ["horse", "boat"]


@pytest.mark.parametrize("norm", ["none", "final"])
def test_neurons_are_decoded_along_what_they_write(model, norm):
    """The sign is that of the activation itself, as a pass of its own reads it."""
    tables = {"ours": contribution(model, IMAGES, TARGETS, k=120, contribution_norm=norm)}
    ours = top_words(model, tables, neurons=120)
    prompt = model.prompt(IMAGES)
    with capture(model) as seen:
        model.forward(prompt)
    for row in ours.itertuples():
        neuron = Neuron.parse(row.neuron)
        activation = seen.values[neuron.layer]["ab".index(row.image), -1, neuron.unit]
        assert row.sign == torch.sign(activation)
    assert set(ours["sign"]) == {1, -1} == set(np.sign(ours["score"]))
    negative = ours[ours["sign"] == -1].iloc[0]
    neuron = Neuron.parse(negative["neuron"])
    weight, _ = model.unembedding
    logits = weight[: model.sizes.vocabulary] @ model.write_vectors(neuron.layer)[neuron.unit]
    lowest = logits.argsort()[:10].tolist()
    assert negative["words"] == [model.token_strings[i] for i in lowest]


def test_a_neuron_counts_once_and_is_decoded_once(model, monkeypatch):
    decoded = []
    whole = decoding.decode_vectors

    def counted(model, vectors, *rest):
        decoded.append(len(vectors))
        return whole(model, vectors, *rest)

    monkeypatch.setattr(decoding, "decode_vectors", counted)
    scores = {(0, 1): 3.0, (0, 2): 2.0, (1, 5): 1.0}
    rows = [
        {"image": image, "target": "horse", "token": 1, "layer": layer, "unit": unit,
         "patch": patch, "score": score - patch / 10, "activation": 0.1 - unit % 2}
        for image in "ab" for (layer, unit), score in scores.items() for patch in (0, 1)
    ]  # fmt: skip
    found = top_words(model, {"pairs": neuron_table(rows)}, neurons=3, tokens=2)
    assert found["neuron"].tolist() == ["L0.u1", "L0.u2", "L1.u5"] * 2
    assert found["score"].tolist() == [3.0, 2.0, 1.0] * 2
    assert found["sign"].tolist() == [-1, 1, -1] * 2
    assert decoded == [3]


def test_tables_that_do_not_go_together_are_refused(model, tables):
    some = {**tables, "activation": tables["activation"].query("image == 'a'")}
    with pytest.raises(ValueError, match=r"'contribution' and 'activation' .*\('b', 'boat'\)"):
        top_words(model, some)
    with pytest.raises(ValueError, match=r"has 40 neurons for \('a', 'horse'\), 41 are asked"):
        top_words(model, tables, neurons=41)
    bare = {name: table.assign(activation=np.nan) for name, table in tables.items()}
    with pytest.raises(ValueError, match=r"20 of 40 neurons have no activation"):
        top_words(model, {**tables, "activation": bare["activation"]})
    assert len(top_words(model, bare, signed=False)) == 40
    with pytest.raises(ValueError, match="no neuron tables"):
        top_words(model, {})


# --- the numbers -----------------------------------------------------------------------------


def written(lists: dict[tuple[str, str, str], list[list[str]]]) -> pd.DataFrame:
    """Lay out words as ``top_words`` does: {(image, noun, method): one list for each rank}."""
    rows = [
        (*concept, rank, f"L0.u{rank}", 1.0, 1, words)
        for concept, ranks in lists.items()
        for rank, words in enumerate(ranks)
    ]
    columns = ["image", "noun", "method", "rank", "neuron", "score", "sign", "words"]
    return pd.DataFrame(rows, columns=columns)


WORDS = written(
    {
        ("a", "horse", "ours"): [[" horse", " pony"], ["", " boat"]],
        ("a", "field", "ours"): [[" field", " grass"], [" horse", " pony"]],
        ("b", "horse", "ours"): [[" horse", " pony"], [" ", "\n"]],
        ("a", "horse", "base"): [[" boat", ""], [" grass", " grass"]],
        ("a", "field", "base"): [[" boat", ""], [" boat", " pony"]],
        ("b", "horse", "base"): [[" boat", " boat"], [" grass", " field"]],
    }
)


def length_score(pairs: pd.DataFrame, *_) -> tuple[np.ndarray, str]:
    """Score by length, with a sign that only a blank text has."""
    found = [len(text) / 10 + len(noun) if text else -1.0 for noun, text in pairs.to_numpy()]
    return np.array(found), "by length"


@pytest.fixture
def by_length(monkeypatch):
    seen = []

    def score(pairs, *rest):
        seen.append(pairs)
        return length_score(pairs, *rest)

    monkeypatch.setitem(module._SCORERS, "bertscore", score)
    return seen


def value_of(result: Sensitivity, image: str, noun: str, method: str) -> float:
    rows = result.values.query(f"image == {image!r} and noun == {noun!r} and method == {method!r}")
    (value,) = rows["value"]
    return value


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, np.mean([np.mean([5.5, 5.4]), np.mean([-1, 5.4])])),
        ({"blank": "zero"}, np.mean([np.mean([5.5, 5.4]), np.mean([0, 5.4])])),
        ({"blank": "leave_out"}, np.mean([np.mean([5.5, 5.4]), 5.4])),
        ({"over_tokens": "max"}, np.mean([5.5, 5.4])),
        ({"over_neurons": "max"}, np.mean([5.5, 5.4])),
        ({"over_neurons": "max", "over_tokens": "max"}, 5.5),
        ({"compare": "joined"}, np.mean([5 + len("horse, pony") / 10, 5 + len("boat") / 10])),
    ],
)
def test_each_choice_in_closed_form(by_length, choices, expected):
    found = sensitivity(WORDS, metrics=["bertscore"], **choices)
    assert value_of(found, "a", "horse", "ours") == pytest.approx(expected)


def test_neurons_of_blanks_alone(by_length):
    """'b' has a neuron without a word: 0, -1, or nothing, whichever is asked for."""
    for blank, expected in {"own": -1.0, "zero": 0.0}.items():
        for compare in ("tokens", "joined"):
            found = sensitivity(WORDS, metrics=["bertscore"], blank=blank, compare=compare)
            full = 5.45 if compare == "tokens" else 6.1
            assert value_of(found, "b", "horse", "ours") == pytest.approx((full + expected) / 2)
    found = sensitivity(WORDS, metrics=["bertscore"], blank="leave_out")
    assert value_of(found, "b", "horse", "ours") == pytest.approx(5.45)
    nothing = written({("a", "horse", "ours"): [["", " "]]})
    left = sensitivity(nothing, metrics=["bertscore"], blank="leave_out")
    assert np.isnan(left.values["value"]).all()


def test_each_pair_is_scored_once(by_length):
    sensitivity(WORDS, metrics=["bertscore"])
    (pairs,) = by_length
    assert not pairs.duplicated().any()
    texts = {(row.noun, w.strip()) for row in WORDS.itertuples() for w in row.words}
    assert set(pairs.itertuples(index=False, name=None)) == texts


def test_the_true_metrics_score_the_concept_against_each_token():
    found = sensitivity(WORDS, metrics=["bertscore", "moverscore"])
    tokens = ["horse", "pony", "", "boat"]
    for metric, score in {"bertscore": bertscore, "moverscore": moverscore}.items():
        own = Sensitivity(found.values[found.values["metric"] == metric], found.notes)
        expected = score(tokens, [["horse"]] * 4).mean()
        assert value_of(own, "a", "horse", "ours") == pytest.approx(expected, abs=1e-5)
        assert value_of(own, "a", "horse", "ours") > value_of(own, "a", "horse", "base")
    assert set(found.notes) == {"bertscore", "moverscore"}
    assert "layer 6" in found.notes["moverscore"]


def test_bleurt_has_rows_only_where_there_is_a_checkpoint(monkeypatch, by_length):
    found = sensitivity(WORDS, metrics=["bertscore", "bleurt"])
    assert set(found.values["metric"]) == {"bertscore"}
    assert found.notes["bleurt"] == "not tested: no checkpoint"
    with pytest.raises(ValueError, match="'bleurt' has no values: not tested: no checkpoint"):
        found.by_image("bleurt")
    asked = []

    def scored(candidates, references, checkpoint):
        asked.append(checkpoint)
        return BleurtResult(np.full(len(candidates), 0.25), "BLEURT, tiny")

    monkeypatch.setattr(module, "bleurt_of", scored)
    found = sensitivity(WORDS, metrics=["bleurt"], bleurt="some/where")
    assert asked == ["some/where"]
    assert found.notes == {"bleurt": "BLEURT, tiny"}
    assert (found.values["value"] == 0.25).all()
    nothing = sensitivity(WORDS, metrics=[])
    assert nothing.values.empty
    assert list(nothing.values.columns) == ["image", "noun", "method", "metric", "value"]


def test_images_are_the_cases(by_length):
    """Concepts are averaged first, then an image counts once (the caption of Table 3)."""
    found = sensitivity(WORDS, metrics=["bertscore"])
    wide = found.by_image("bertscore")
    assert wide.index.tolist() == ["a", "b"]
    assert wide.columns.tolist() == ["ours", "base"]
    values = [value_of(found, "a", noun, "ours") for noun in ("horse", "field")]
    assert wide.loc["a", "ours"] == pytest.approx(np.mean(values))
    assert mean_of(wide["ours"]).n == 2
    assert mean_of(wide["ours"]).value == pytest.approx(wide["ours"].mean())
    assert difference_of(wide["ours"], wide["base"]).n == 2


@settings(max_examples=10)
@given(st.permutations(range(len(WORDS))))
def test_the_order_of_rows_does_not_matter(order):
    """Property: shuffled rows give the same value to every concept and method."""
    keys = ["image", "noun", "method"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module._SCORERS, "bertscore", length_score)
        plain, mixed = (
            sensitivity(words, metrics=["bertscore"]).values.set_index(keys)["value"].sort_index()
            for words in (WORDS, WORDS.iloc[list(order)])
        )
    pd.testing.assert_series_equal(plain, mixed)


@pytest.mark.parametrize(
    "choice",
    [
        {"metrics": ["rouge"]},
        {"compare": "pairs"},
        {"over_tokens": "median"},
        {"over_neurons": "sum"},
        {"blank": "drop"},
    ],
)
def test_unknown_choices_are_refused(choice):
    with pytest.raises(ValueError, match=rf"{next(iter(choice))}=.*choose from"):
        sensitivity(WORDS, **choice)


def test_words_of_a_model_go_all_the_way(model, tables):
    """From neuron tables to one number an image, by both metrics that need no download."""
    found = sensitivity(top_words(model, tables, neurons=3, tokens=4))
    assert len(found.values) == 2 * 2 * 2
    assert found.values["value"].notna().all()
    assert list(found.notes) == list(METRICS)
    assert found.by_image("moverscore").shape == (2, 2)
