"""Stored training curves of every kind."""

from __future__ import annotations

import pytest

from mmn_utils.miniature.curves import training_curve


@pytest.mark.parametrize(
    "text",
    [
        "step,items,loss\n1,10,3.5\n2,20,2.5\n",
        "stage,images,loss,patch\na,10,3.5,\na,15,,0.4\nb,20,2.5,0.5\n",
        "10,3.5,80.0\n20,2.5,81.0\n",
    ],
)
def test_training_curves_of_every_kind_are_read(tmp_path, text):
    (tmp_path / "curve.csv").write_text(text)
    curve = training_curve(tmp_path / "curve.csv")
    assert curve["items"].tolist() == [10, 20]
    assert curve["loss"].tolist() == [3.5, 2.5]


def test_a_missing_curve_is_empty(tmp_path):
    assert training_curve(tmp_path / "none.csv").empty
