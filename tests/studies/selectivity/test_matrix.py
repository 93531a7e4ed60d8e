"""The matrix of classes, and the rows that its claims are computed from."""

from __future__ import annotations

import numpy as np
import pytest

from mmn_utils.datasets import Photograph
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.selectivity import matrix
from mmn_utils.studies.selectivity.classes import ClassStudy


def test_class_matrix_of_units_that_know_their_class():
    set_of, class_of = ["a", "a", "b", "c"], list("aabbcc")
    own = np.array([[s == c for c in class_of] for s in set_of], float)
    found = matrix.class_matrix(own + 0.5, set_of, class_of)
    assert found.classes == ("a", "b", "c")
    assert found.astray == {}
    np.testing.assert_allclose(found.mean, np.eye(3) + 0.5)
    np.testing.assert_allclose(found.relative, (np.eye(3) + 0.5) / 1.5)


def test_the_matrix_as_a_frame_and_off_its_diagonal():
    activations = np.array([[2.0, 1.0, -1.0], [0.0, 4.0, 3.0], [1.0, 2.0, 2.0]])
    found = matrix.class_matrix(activations, ["a", "b", "c"], list("abc"))
    frame = found.frame
    assert frame["units of"].tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(frame[["a", "b", "c"]], activations)
    assert found.elsewhere == pytest.approx((0.5 + 0 + 0 + 0.75 + 0.5 + 1) / 6)
    assert found.astray == {"c": "b"}


def test_a_set_that_is_never_active_has_no_relative_value():
    found = matrix.class_matrix(np.full((2, 4), -0.1), ["a", "b"], list("aabb"))
    assert np.isnan(found.relative).all()
    with pytest.raises(ValueError, match="images of"):
        matrix.class_matrix(np.ones((1, 2)), ["a"], ["a", "b"])


def made_study(tmp_path) -> ClassStudy:
    """Two classes of two units and two pictures; a unit of b, and its set, prefers a."""
    own = np.array([[4.0, 2, 1, 1], [1, 1, 0, 0], [9, 9, 1, 1], [0, 0, 2, 2]])
    chance = np.array([[0.0, 0, 1, 1], [2, 2, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    units = {"cat": [Neuron(0, 1), Neuron(0, 2)], "hot dog": [Neuron(0, 1), Neuron(1, 3)]}
    shown = {name: [Photograph(f"{name}{i}", tmp_path) for i in range(2)] for name in units}
    signed = {name: [(one, -1 if one.unit == 2 else 1) for one in some]
              for name, some in units.items()}  # fmt: skip
    return ClassStudy(units, signed, shown, own, chance, {})


def test_claim_rows_say_of_sets_and_units_whether_they_prefer_their_class(tmp_path):
    study = made_study(tmp_path)
    found = matrix.class_matrix(study.own, study.set_of, study.image_class)
    words = {(Neuron(0, 1), 1): [" cats", "on"], (Neuron(0, 2), -1): ["of"],
             (Neuron(1, 3), 1): ["dog"]}  # fmt: skip
    rows = matrix.claim_rows(study, found, words)
    sets, units = (rows[rows["level"] == level] for level in ("class", "unit"))
    assert sets["units_of"].tolist() == ["cat", "hot dog"]
    assert sets["own"].tolist() == [2, 1.5]
    assert sets["other"].tolist() == [0.5, 4.5]
    assert sets["prefers"].tolist() == [True, False]
    assert units["unit"].tolist() == ["L0.u1", "L0.u2", "L0.u1", "L1.u3"]
    assert units["sign"].tolist() == ["+", "−", "+", "+"]
    assert units["prefers"].tolist() == [True, True, False, True]
    assert units["random_prefers"].tolist() == [False, True, True, False]  # a tie prefers none
    assert units["names"].tolist() == [True, False, False, True]
    assert units["words"].tolist()[0] == "cats, on"
    assert units["cat"].tolist() == [3, 1, 9, 0]
    # the rows of classes are the averages of those of their units
    np.testing.assert_allclose(units.groupby("units_of")["own"].mean(), sets["own"])
