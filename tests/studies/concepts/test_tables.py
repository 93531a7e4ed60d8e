"""Paper B's tables: what stands in them is what was computed, and beside it the paper's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets import Photograph
from mmn_utils.measures.estimates import Estimate
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.decoding import decoded_words
from mmn_utils.neurons.methods import METHODS
from mmn_utils.neurons.table import Neuron, neuron_table
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.concepts import tables as concept_tables
from mmn_utils.studies.concepts.regions import RegionInvariance
from mmn_utils.studies.concepts.scoring import COLUMNS, of_paper, side_by_side, top_neurons_of
from mmn_utils.studies.concepts.sensitivity import Sensitivity
from mmn_utils.studies.concepts.specificity import HeatMap, specificity_of
from mmn_utils.studies.subjects import Subjects
from tests.studies.scenes import subjects_of_texts
from tests.tiny import tiny_images
from tests.tiny_gated import TinyGated


def test_every_method_has_its_names():
    assert set(concept_tables.PAPER_NAMES) == set(METHODS)
    assert set(concept_tables.NAMES) == {*COLUMNS, concept_tables.PRINTED}


# --- what neurons write -------------------------------------------------------------------


@pytest.fixture
def words():
    rows = [
        ("a", "cat", "contribution", 0, [" cat", " dog"]),
        ("a", "cat", "contribution", 1, [" Cats", " a"]),
        ("a", "cat", "activation", 0, [" catalogue", " a"]),
        ("a", "cat", "activation", 1, [" the", " cat"]),
        ("b", "dog", "contribution", 0, [" cat", " a"]),
        ("b", "dog", "contribution", 1, ["dog", " a"]),
        ("b", "dog", "activation", 0, [" a", " the"]),
        ("b", "dog", "activation", 1, [" of", " the"]),
    ]
    table = pd.DataFrame(rows, columns=["image", "noun", "method", "rank", "words"])
    signs = [-1, 1, 1, 1, -1, -1, 1, 1]
    return concept_tables.with_writes(table.assign(neuron="L1.u2", score=0.5, sign=signs))


def test_a_noun_counts_in_singular_and_plural_and_as_a_whole_word(words):
    assert words["writes"].tolist() == [True, True, False, True, False, True, False, False]
    rows = concept_tables.writes_rows(words).set_index("image")
    assert rows["contribution"].to_dict() == {"a": 1.0, "b": 0.5}
    assert rows["activation"].to_dict() == {"a": 0.5, "b": 0.0}
    assert rows["negative"].to_dict() == {"a": 0.5, "b": 1.0}
    assert rows[["contribution_gate", "attribution", "negative_gate"]].isna().all(axis=None)


def test_table_2_has_one_concepts_top_neurons(words):
    table = concept_tables.top_neurons_exhibit(words, "a", "cat", neurons=1, tokens=1)
    assert table["method"].tolist() == ["activation (Base)", "contribution (Ours)"]
    assert table["top tokens"].tolist() == ["catalogue", "cat"]
    assert table["sign"].tolist() == ["+", "−"]
    assert table["writes it"].tolist() == ["no", "yes"]
    assert len(concept_tables.top_neurons_exhibit(words, "b", "dog")) == 4
    assert not any("gate" in name for name in table)


def test_table_2_has_the_gates_neurons_beside(words):
    ours = words[words["method"] == "contribution"]
    both = pd.concat([words, ours.assign(method="contribution_gate", neuron="L9.u9")])
    table = concept_tables.top_neurons_exhibit(both, "a", "cat", tokens=1).set_index("method")
    assert table["neuron (gate)"].tolist() == ["", "", "L9.u9", "L9.u9"]
    assert table.loc["contribution (Ours)", "top tokens (gate)"].tolist() == ["cat", "Cats"]


def test_words_are_decoded_with_the_sign_and_a_second_time_without():
    model, images = TinyGated(), tiny_images(1)
    tables = {"contribution": contribution(model, images, [Target("a", "horse", 301, ())], k=40)}
    words = concept_tables.all_words(model, tables, neurons=40, tokens=3)
    signed, printed = (words[words["method"] == m] for m in tables | {concept_tables.PRINTED: None})
    assert signed["neuron"].tolist() == printed["neuron"].tolist()
    turned = (signed["sign"] == -1).to_numpy()
    assert 0 < turned.sum() < 40
    assert (printed["sign"] == 1).all()
    same = [a == b for a, b in zip(signed["words"], printed["words"], strict=True)]
    assert same == (~turned).tolist()


def test_words_are_decoded_through_the_final_norm_on_request():
    model, images = TinyGated(), tiny_images(1)
    tables = {"contribution": contribution(model, images, [Target("a", "horse", 301, ())], k=40)}
    asked = {"neurons": 40, "tokens": 3, "both_ends": True}
    normed = concept_tables.all_words(model, tables, decode_norm="final", **asked)
    usual = concept_tables.all_words(model, tables, **asked)
    assert normed["neuron"].tolist() == usual["neuron"].tolist()
    assert (normed["words"] != usual["words"]).any()
    for row in normed.iloc[[0, 3, 41]].itertuples():
        unit = Neuron.parse(row.neuron)
        vector = row.sign * model.act_module(unit.layer).weight[:, unit.unit].detach()
        logits = model.unembedding[0].detach() @ model.final_norm(vector)
        for end, words in ((logits, row.words), (-logits, row.suppresses)):
            best = end[: model.sizes.vocabulary].topk(3).indices.tolist()
            assert words == [model.token_strings[token] for token in best]


def test_table_2_shows_what_a_neuron_suppresses_on_request():
    model, images = TinyGated(), tiny_images(1)
    tables = {"contribution": contribution(model, images, [Target("a", "horse", 301, ())], k=40)}
    words = concept_tables.all_words(model, tables, neurons=40, tokens=3)
    ends = concept_tables.with_suppressed(model, words, tokens=3)
    for row in ends[ends["sign"] == -1].head(3).itertuples():
        (along,) = decoded_words(model, [Neuron.parse(row.neuron)], 3).values()
        assert row.suppresses == along != row.words
    asked = concept_tables.all_words(model, tables, neurons=40, tokens=3, both_ends=True)
    assert asked["suppresses"].tolist() == ends["suppresses"].tolist()
    table = concept_tables.top_neurons_exhibit(ends, "a", "horse", 40, 3)
    assert table["suppresses"].iloc[0] == ", ".join(t.strip() for t in ends["suppresses"].iloc[0])


# --- how near, how specific ------------------------------------------------------------------


def test_table_3_stands_beside_the_papers_and_says_what_was_not_tested():
    theirs = of_paper("LLaVA")["B-table-3"].set_index("method")
    level = {
        (metric, method): Estimate(i + j / 10, 0, 1, 5)
        for i, metric in enumerate(("bertscore", "moverscore"))
        for j, method in enumerate(METHODS)
    }
    table = concept_tables.sensitivity_exhibit(level, theirs).set_index("method")
    assert list(table)[:2] == ["BERTScore", "BERTScore, paper"]
    assert table.loc["contribution (Ours)", "MoverScore"] == (
        f"{level['moverscore', 'contribution']:.3f}"
    )
    assert table.loc["attribution (Mmns)", "BLEURT, paper"] == 0.1
    assert (table["BLEURT"] == "not tested").all()


def test_table_3_has_the_gates_values_beside():
    theirs = of_paper("LLaVA")["B-table-3"].set_index("method")
    level = {("bertscore", m): Estimate(0.5, 0, 1, 5) for m in [*METHODS, "contribution_gate"]}
    table = concept_tables.sensitivity_exhibit(level, theirs).set_index("method")
    assert table["BERTScore, gate"].tolist() == ["", "", "0.500 [0.000, 1.000]"]
    assert "MoverScore, gate" not in table


def test_only_metrics_with_values_have_rows():
    rows = [("a", "cat", m, "bertscore", v) for m, v in zip(METHODS, (1.0, 2.0, 3.0), strict=True)]
    values = pd.DataFrame(rows, columns=["image", "noun", "method", "metric", "value"])
    found = concept_tables.judged_rows(Sensitivity(values, {"bleurt": "no checkpoint"}))
    assert found["metric"].tolist() == ["bertscore"]
    assert found.iloc[0][list(METHODS)].to_dict() == dict(zip(METHODS, (1, 2, 3), strict=True))
    level = concept_tables.levels(found, "metric")
    assert list(level) == [("bertscore", method) for method in METHODS]  # the gate's are empty


def test_table_4_has_the_papers_rows_below_ours():
    theirs = of_paper("LLaVA")["B-table-4"].set_index("type")
    kinds = ("related", "random", "related_gate", "random_gate")
    level = {(m, kind): Estimate(m, 0, 9, 5) for m in (1, 7, 10) for kind in kinds}
    table = concept_tables.specificity_exhibit(level, theirs, "LLaVA").set_index("tokens")
    assert list(table) == ["S@1", "S@7", "S@10"]
    assert table.index[:3].tolist() == [
        "related, gated", "related, gate", "related, LLaVA in the paper",
    ]  # fmt: skip
    assert table.loc["random, gate", "S@7"] == "7.000 [0.000, 9.000]"
    assert table.loc["related, LLaVA in the paper"].tolist() == [3.549, "", 2.333]
    alone = {key: one for key, one in level.items() if not key[1].endswith("gate")}
    plain = concept_tables.specificity_exhibit(alone, theirs, "LLaVA")
    assert plain["tokens"].tolist()[::2] == ["related", "random"]


def test_specificity_has_a_row_for_each_photograph_and_m(tmp_path):
    model = TinyGated()
    some = subjects_of_texts(model, tmp_path)
    both = side_by_side(top_neurons_of(model, some, k=5, progress=False))
    rows = concept_tables.specificity_rows(model, some, both, ms=[1, 4], seed=3)
    assert rows[["image", "m"]].drop_duplicates().shape == (2 * len(some), 2)
    for end, reading in (("", "gated"), ("_gate", "gate")):
        table = both[f"contribution{end}"]
        found = specificity_of(model, some, table, ms=[1, 4], seed=3, activation=reading)
        mine = rows[rows["m"] == 4].set_index("image")
        for column, series in (
            ("related", found.at(4)), ("random", found.at(4, "random")), ("first", found.at(1)),
        ):  # fmt: skip
            expected = series.loc[mine.index]
            np.testing.assert_allclose(mine[f"{column}{end}"], expected, rtol=1e-3, atol=1e-5)
    printed = specificity_of(model, some, both["contribution"], ms=[1, 4], related_by="write")
    expected = printed.at(4).loc[mine.index]
    np.testing.assert_allclose(mine["printed"], expected, rtol=1e-3, atol=1e-5)
    turned = mine["negative"] == 1
    np.testing.assert_allclose(mine["related"][~turned], mine["printed"][~turned], rtol=1e-3)
    assert (mine["related"] >= mine["printed"] - 1e-5).all()


# --- among the words of a caption ------------------------------------------------------------


def heat(image: str, scores: list, units: list[int]) -> HeatMap:
    names = tuple("xyz"[: len(units)])
    return HeatMap(image, names, tuple(Neuron(0, u) for u in units), np.array(scores))


def test_captions_of_several_concepts_are_judged_against_chance():
    heats = [
        heat("one", [[1.0]], [4]),
        heat("two", [[2.0, 1.0], [2.0, 1.0]], [4, 4]),
        heat("three", np.eye(3).tolist(), [1, 2, 3]),
    ]
    assert concept_tables.richest(heats, 2) == ["three", "two"]
    found = concept_tables.own_rows({"gated": heats, "gate": heats[1:2]})
    assert found["image"].tolist() == ["two", "three"]  # one concept alone says nothing
    assert found["own"].tolist() == [0.5, 1.0]
    assert found["chance"].tolist() == [1 / 2, 1 / 3]
    assert found["doubled"].tolist() == [True, False]
    assert found["own_gate"].tolist()[0] == 0.5
    assert np.isnan(found["own_gate"].tolist()[1])
    assert concept_tables.own_rows({"gated": heats[:1]}).empty
    scores = concept_tables.scores_of({"gated": heats}, ["two"])
    assert scores["score"].tolist() == [2.0, 1.0, 2.0, 1.0]


def test_the_neuron_that_tops_most_concepts_is_counted():
    heats = [heat("a", np.eye(3).tolist(), [4, 4, 1]), heat("b", np.eye(2).tolist(), [4, 2])]
    found = concept_tables.busiest(heats)
    assert (found.neuron, found.times, found.concepts, found.nouns) == ("L0.u4", 3, 5, 2)


# --- before and after a shuffle --------------------------------------------------------------


def scored(targets: list[Target], units: list[int]) -> pd.DataFrame:
    rows = [
        {"image": t.image, "target": t.noun, "token": t.token, "layer": 2, "unit": unit,
         "patch": -1, "score": -float(i)}
        for t in targets for i, unit in enumerate(units)
    ]  # fmt: skip
    return neuron_table(rows)


@pytest.fixture
def some(tmp_path):
    """Return concepts of three photographs in files."""
    photographs, nouns = [], ("cat", "dog", "boat")
    for noun, image in zip(nouns, tiny_images(3), strict=True):
        path = tmp_path / f"{noun}.png"
        image.save(path)
        photographs.append(Photograph(noun, path, size=(image.height, image.width)))
    captions = [Caption(f"a {noun} and a cup", (1, 2)) for noun in nouns]
    targets = [[Target(noun, noun, 5, (1,)), Target(noun, "cup", 6, (1,))] for noun in nouns]
    return Subjects(photographs, captions, targets)


def test_table_10_has_captions_and_neurons_before_and_after(some, monkeypatch):
    asked = {}

    def shuffle(model, pictures, targets, *, ks, methods, **options):
        asked.update(options, ks=ks, methods=list(methods), images=[t.image for t in targets])
        cups = [t for t in targets if t.noun == "cup"]  # the only concept left
        texts = pd.DataFrame({"image": ["dog", "boat"], "shuffle": 0, "text": ["a cup", "cups"]})
        before = {"contribution": scored(targets, [1, 2, 3])}
        after = {"contribution": (scored(cups, [2, 7, 1]),)}
        return RegionInvariance(pd.DataFrame(), (), texts, before, after, 99)

    monkeypatch.setattr(concept_tables, "region_invariance", shuffle)
    kept = pd.Series(["dog", "dog", "boat"])
    options = {"top": 2, "seed": 8, "max_new_tokens": 5}
    table = concept_tables.shuffled_exhibit(None, some, kept, 2, **options)
    assert table.to_numpy().tolist() == [
        ["caption", "a dog and a cup", "a cup"], ["cup", "L2.u1, L2.u2", "L2.u2, L2.u7"],
        ["caption", "a boat and a cup", "cups"], ["cup", "L2.u1, L2.u2", "L2.u2, L2.u7"],
    ]  # fmt: skip
    assert asked == {"seed": 8, "max_new_tokens": 5, "ks": [2], "methods": ["contribution"],
                     "images": ["dog", "dog", "boat", "boat"]}  # fmt: skip
    with pytest.raises(ValueError, match="2 of 0 photographs"):
        concept_tables.shuffled_exhibit(None, some, [], 2)
