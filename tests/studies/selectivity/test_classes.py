"""Classes: one pass against two, steady units, and the matrix."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.neurons import targets
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies import subjects as study
from mmn_utils.studies.selectivity import classes

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
    pd.testing.assert_frame_equal(
        found.drop(columns="patch"), expected.drop(columns="patch"), rtol=1e-3, atol=1e-5
    )


def test_a_caption_without_a_noun_has_no_rows(system, photographs, monkeypatch):
    monkeypatch.setattr(classes, "nouns", lambda caption, model: [])
    table = classes.class_table(system, photographs, k=3, max_new_tokens=2, progress=False)
    assert table.empty


def test_class_matrix_of_units_that_know_their_class():
    set_of, class_of = ["a", "a", "b", "c"], list("aabbcc")
    own = np.array([[s == c for c in class_of] for s in set_of], float)
    activations = own + 0.5
    matrix = classes.class_matrix(activations, set_of, class_of, n=50)
    assert matrix.classes == ("a", "b", "c")
    assert matrix.own_share.value == 1
    np.testing.assert_allclose(matrix.mean, np.eye(3) + 0.5)
    np.testing.assert_allclose(matrix.relative, (np.eye(3) + 0.5) / 1.5)
    assert classes.prefers_own(activations, set_of, class_of).all()
    assert not classes.prefers_own(-activations, set_of, class_of).any()


def test_the_matrix_as_a_frame_and_off_its_diagonal():
    activations = np.array([[2.0, 1.0, -1.0], [0.0, 4.0, 4.0], [1.0, 2.0, 2.0]])
    matrix = classes.class_matrix(activations, ["a", "b", "c"], list("abc"), n=10)
    assert matrix.own_share.n == 3  # classes
    frame = matrix.frame
    assert frame["units of"].tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(frame[["a", "b", "c"]], activations)
    assert matrix.elsewhere == pytest.approx((0.5 + 0 + 0 + 1 + 0.5 + 1) / 6)


def test_units_that_serve_several_classes_are_counted():
    one, two, three = (Neuron(0, unit) for unit in (1, 2, 3))
    units = {"a": [one, two], "b": [one], "c": [one, three]}
    found = classes.ClassStudy(units, {}, np.empty(0), np.empty(0))
    assert found.every_unit == [one, two, one, one, three]
    assert found.sharing() == {"places": 5, "different": 3, "shared": 1, "most": 3}


def test_a_set_that_is_never_active_has_no_relative_value():
    matrix = classes.class_matrix(np.full((2, 4), -0.1), ["a", "b"], list("aabb"), n=10)
    assert np.isnan(matrix.relative).all()
    with pytest.raises(ValueError, match="images of"):
        classes.class_matrix(np.ones((1, 2)), ["a"], ["a", "b"])


def test_only_max_and_sum_rank_classes(system, photographs):
    with pytest.raises(ValueError, match="pair"):
        classes.class_table(system, photographs, rank_by="pair")
