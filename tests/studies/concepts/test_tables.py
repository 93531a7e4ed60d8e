"""Paper B's tables: what stands in them is what was computed, and beside it the paper's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets import Photograph
from mmn_utils.measures.estimates import Estimate, difference_of
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.methods import METHODS
from mmn_utils.neurons.table import Neuron, neuron_table
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.concepts import tables as concept_tables
from mmn_utils.studies.concepts.regions import RegionInvariance
from mmn_utils.studies.concepts.scoring import of_paper
from mmn_utils.studies.concepts.sensitivity import Sensitivity
from mmn_utils.studies.concepts.specificity import HeatMap, Specificity
from mmn_utils.studies.subjects import Subjects
from tests.tiny import tiny_images


def test_every_method_has_its_names():
    assert set(concept_tables.NAMES) == set(concept_tables.PAPER_NAMES) == set(METHODS)


def test_contribution_is_compared_with_the_better_of_the_others():
    by_image = pd.DataFrame(
        {"activation": [0.1, 0.2], "attribution": [0.4, 0.6], "contribution": [0.9, 0.8]}
    )
    found = concept_tables.lead(by_image, 2)
    assert found.rival == "attribution"
    assert found.gap == difference_of([0.9, 0.8], [0.4, 0.6], 2)
    turned = by_image.rename(columns={"activation": "attribution", "attribution": "activation"})
    assert concept_tables.lead(turned).rival == "activation"


def test_the_papers_lead_is_over_its_own_best_rival():
    theirs = of_paper("InstructBLIP")["B-table-3"].set_index("method")
    assert concept_tables.paper_lead(theirs, "bertscore") == pytest.approx(0.726 - 0.626)
    assert concept_tables.paper_lead(theirs, "bleurt") == pytest.approx(0.160 - 0.089)


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
    return concept_tables.with_writes(table.assign(neuron="L1.u2", score=0.5))


def test_a_noun_counts_in_singular_and_plural_and_as_a_whole_word(words):
    assert words["writes"].tolist() == [True, True, False, True, False, True, False, False]
    shares = concept_tables.writes_by_image(words)
    assert shares["contribution"].to_dict() == {"a": 1.0, "b": 0.5}
    assert shares["activation"].to_dict() == {"a": 0.5, "b": 0.0}


def test_table_2_has_one_concepts_top_neurons(words):
    table = concept_tables.top_neurons_exhibit(words, "a", "cat", neurons=1, tokens=1)
    assert table["method"].tolist() == ["contribution (Ours)", "activation (Base)"]
    assert table["top tokens"].tolist() == ["cat", "catalogue"]
    assert table["writes the concept"].tolist() == ["yes", "no"]
    assert len(concept_tables.top_neurons_exhibit(words, "b", "dog")) == 4


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


def test_only_metrics_with_values_are_taken():
    rows = [("a", "cat", m, "bertscore", v) for m, v in zip(METHODS, (1.0, 2.0, 3.0), strict=True)]
    values = pd.DataFrame(rows, columns=["image", "noun", "method", "metric", "value"])
    found = concept_tables.by_metric(Sensitivity(values, {"bleurt": "no checkpoint"}))
    assert list(found) == ["bertscore"]
    assert found["bertscore"].loc["a"].to_dict() == dict(zip(METHODS, (1, 2, 3), strict=True))


def test_table_4_has_the_papers_rows_below_ours():
    theirs = of_paper("LLaVA")["B-table-4"].set_index("type")
    level = {(kind, m): Estimate(m, 0, 9, 5) for kind in ("related", "random") for m in (1, 7, 10)}
    table = concept_tables.specificity_exhibit(level, theirs, "LLaVA").set_index("tokens")
    assert list(table) == ["S@1", "S@7", "S@10"]
    assert table.loc["random", "S@7"] == "7.000 [0.000, 9.000]"
    assert table.loc["related, LLaVA in the paper"].tolist() == [3.549, "", 2.333]
    paper = concept_tables.specificity_of_paper(theirs, 1, 10)
    assert paper.gap == pytest.approx(2.333 - 0.014)
    assert paper.fall == pytest.approx(3.549 - 2.333)
    assert paper.keeps == pytest.approx(2.333 / 3.549)
    assert paper.luck == pytest.approx(0.014 / 2.333)
    assert math.isnan(concept_tables.specificity_of_paper(theirs, 1, 7).fall)


def test_neurons_are_turned_round_by_a_negative_activation():
    scores = pd.DataFrame({"image": [*"aabbcc"], "activation": [-1.0, -1, 2, 2, 3, 3]})
    assert concept_tables.turned_round(Specificity(scores, (1,))) == pytest.approx(1 / 3)


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
    several = concept_tables.with_several(heats)
    assert [one.image for one in several] == ["two", "three"]
    assert concept_tables.with_several(heats[:1]) == heats[:1]
    assert [one.image for one in concept_tables.richest(several, 1)] == ["three"]
    found = concept_tables.own_highest(several)
    assert found["own"].tolist() == [0.5, 1.0]
    assert found["chance"].tolist() == [1 / 2, 1 / 3]
    assert found["doubled"].tolist() == [True, False]
    scores = concept_tables.scores_of(several)
    assert len(scores) == 4 + 9
    assert scores["score"].tolist()[:4] == [2.0, 1.0, 2.0, 1.0]


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
