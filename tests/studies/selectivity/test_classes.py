"""Classes: one pass against two, steady units, and the matrix."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets import FolderDataset, OwnClasses
from mmn_utils.datasets.base import TooFew
from mmn_utils.neurons import targets
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies import subjects as study
from mmn_utils.studies.selectivity import classes
from mmn_utils.studies.signs import interpretable_ends
from tests.photographs import some_photographs

K = 12


def test_steady_units_are_in_the_table_for_most_images():
    rows = [
        ("a", 1, 1.0),
        ("b", 1, 1.0),
        ("a", 2, 9.0),
        ("b", 2, 9.0),
        ("c", 3, 99.0),
        ("d", 3, 1.0),
    ]
    table = pd.DataFrame([{"image": i, "layer": 0, "unit": u, "score": s} for i, u, s in rows])
    labels = {"a": "cat", "b": "cat", "c": "cat"}  # d has none
    found = classes.steady_units(table, labels, 2)
    assert found == {"cat": [Neuron(0, 2), Neuron(0, 1)]}
    assert classes.steady_units(table, {**labels, "d": "dog"}, 5)["dog"] == [Neuron(0, 3)]


def test_a_classs_unit_has_the_sign_of_most_of_its_pictures():
    rows = [("a", 1, -0.5), ("b", 1, -0.1), ("c", 1, 9.0), ("d", 1, 0.2), ("e", 1, -0.3)]
    table = pd.DataFrame([{"image": i, "layer": 0, "unit": u, "activation": a} for i, u, a in rows])
    labels = {"a": "cat", "b": "cat", "c": "cat", "d": "dog", "e": "dog"}
    units = {"cat": [Neuron(0, 1)], "dog": [Neuron(0, 1)]}
    found = classes.usual_signs(table, labels, units)
    assert found == {"cat": [(Neuron(0, 1), -1)], "dog": [(Neuron(0, 1), 1)]}


class Nouns:
    """Stands in for the tagger: captions of a random system have no nouns to find."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, caption, model):
        from mmn_utils.neurons.text import Noun

        step = self.steps[hash(caption.ids) % len(self.steps)]
        return [] if step is None else [Noun("word", step, caption.ids[step])]


@pytest.mark.parametrize("rank_by", ["max", "sum"])
@pytest.mark.parametrize("target", ["logit", "probability"])
def test_one_pass_scores_as_two_do(system, photographs, monkeypatch, rank_by, target):
    monkeypatch.setattr(classes, "nouns", Nouns([0, 2, 1]))
    monkeypatch.setattr(targets, "nouns", Nouns([0, 2, 1]))
    asked = {"k": K, "target": target, "rank_by": rank_by}
    found = classes.class_table(
        system, photographs, max_new_tokens=4, batch_size=5, progress=False, **asked
    )
    subjects = study.subjects(system, photographs, max_new_tokens=4, progress=False)
    assert len({t.prefix for t in subjects.targets}) > 1  # of several lengths in one batch
    expected = study.top_neurons(system, subjects, progress=False, **asked)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-5)


def test_a_caption_without_a_noun_has_no_rows(system, photographs, monkeypatch):
    monkeypatch.setattr(classes, "nouns", lambda caption, model: [])
    table = classes.class_table(system, photographs, k=3, max_new_tokens=2, progress=False)
    assert table.empty


def test_a_class_is_named_by_one_of_its_words():
    class_of = {"1": "african elephant", "2": "african elephant", "3": "cat", "4": "cat"}
    rows = [("1", "elephants"), ("1", "elephants"), ("2", "dog"), ("3", "cat")]  # 4 has no noun
    found = classes.named_shares(pd.DataFrame(rows, columns=["image", "target"]), class_of)
    assert found == {"african elephant": 0.5, "cat": 0.5}
    assert not classes.is_of_class("catalogue", "cat")


def test_units_that_serve_several_classes_are_counted():
    one, two, three = (Neuron(0, unit) for unit in (1, 2, 3))
    units = {"a": [one, two], "b": [one], "c": [one, three]}
    pairs = {"a": [(one, 1), (two, 1)], "b": [(one, -1)], "c": [(one, 1), (three, 1)]}
    found = classes.ClassStudy(units, pairs, {}, np.empty(0), np.empty(0), {})
    assert found.every_unit == [one, two, one, one, three]
    assert found.every_signed[1:3] == [(two, 1), (one, -1)]
    assert found.sharing() == {"places": 5, "different": 3, "shared": 1, "most": 3}


def test_only_max_and_sum_rank_classes(system, photographs):
    with pytest.raises(ValueError, match="pair"):
        classes.class_table(system, photographs, rank_by="pair")


def test_a_class_needs_photographs_to_find_units_on_and_to_watch_them_on(tmp_path):
    for name in ("cats", "dogs"):
        some_photographs(tmp_path / name, 2 - (name == "dogs"))
    folders = OwnClasses(FolderDataset(tmp_path))
    with pytest.raises(TooFew, match=r"class 'dogs' has 1 photograph .*; put two or more"):
        classes.class_study(None, folders, [], None, per_class={"train": 2, "val": 2})


def test_one_class_with_units_is_compared_with_none(system, tmp_path, monkeypatch):
    for name in ("cats", "dogs"):
        some_photographs(tmp_path / name, 2)
    folders, readable = OwnClasses(FolderDataset(tmp_path)), interpretable_ends(system)
    monkeypatch.setattr(classes, "nouns", lambda caption, model: [])
    counts = {"train": 2, "val": 2}
    with pytest.raises(TooFew, match="0 of 2 classes"):
        classes.class_study(system, folders, [], readable, per_class=counts, max_new_tokens=2)
