"""The quality table: its statistics by hand, and all of it on a tiny system."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mmn_utils.miniature.quality import measurement
from mmn_utils.miniature.quality.measurement import ALIKE, LOOKS, measure
from mmn_utils.miniature.quality.table import REQUIRED, _overlap, _peak, _verdict, quality_table
from mmn_utils.miniature.quality.units import layer_counts, overlaps
from tests.miniature.quality.world import TOPS, WORLD, tops
from tests.tiny import tiny_limber


def test_overlap_of_same_and_different_concepts_by_hand():
    shared, same = overlaps(tops(TOPS))
    np.testing.assert_allclose(shared[0], [1, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(same, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    found = _overlap(tops(TOPS))
    assert found["top-20 overlap, same concept"][0] == pytest.approx((0.5 + 1) / 2)
    assert found["top-20 overlap, different concepts"][0] == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)
    assert found["top-20 overlap, same over different"][0] == pytest.approx(3)


def test_resampled_pairs_equal_a_loop_over_pairs():
    table = tops({f"{i}": (("horse", "dog")[i % 2], [(0, i % 3), (1, i % 5)]) for i in range(9)})
    shared, same = overlaps(table)
    value = _overlap(table)["top-20 overlap, same concept"][0]
    pairs = [shared[i, j] for i, j in itertools.combinations(range(9), 2) if same[i, j]]
    assert value == pytest.approx(np.mean(pairs))


def test_layers_are_counted_and_their_peak_found():
    counts = layer_counts(tops(TOPS), layers=4)
    assert counts.loc["a"].tolist() == [1, 1, 0, 0]
    assert counts.columns.tolist() == [0, 1, 2, 3]
    assert _peak(tops(TOPS), 4)[0] == 1


@pytest.mark.parametrize(
    ("value", "required", "met"),
    [(0.8, ">= 0.75", "yes"), (0.2, "<= 0.20", "yes"), (0.21, "<= 0.20", "no"), (0.8, "", ""),
     (np.nan, ">= 5", "")],
)  # fmt: skip
def test_verdicts_are_computed(value, required, met):
    assert _verdict(value, required) == met


# --- all of it --------------------------------------------------------------------------


@pytest.fixture
def measured(model, scenes, found, monkeypatch):
    """Measure a tiny system; its targets are given, as its captions are noise."""
    monkeypatch.setattr(
        measurement, "subjects", lambda model, few: found.select([s.id for s in few])
    )
    others = {"untrained encoder": (tiny_limber(1), scenes), LOOKS: (model, scenes[:2])}
    others[ALIKE] = (model, scenes[2:3])
    return measure(model, scenes, WORLD, others=others, n_analyses=3)


def test_the_table_has_every_measure_in_order(measured):
    table = quality_table(measured)
    assert table["measure"].tolist() == list(REQUIRED)
    assert list(table.columns) == [
        "measure", "value", "ci_low", "ci_high", "n", "required", "met",
    ]  # fmt: skip
    rows = table.set_index("measure")
    assert rows.loc["first noun is in the scene", "n"] == 4
    assert rows.loc["first noun, looks never seen", "n"] == 2
    assert rows.loc["objects named, looks like trained ones", "n"] == 1
    assert rows.loc["first noun, untrained projection", "n"] == 0
    assert rows.loc["IoU of top units", "n"] == 3
    inside = table.dropna(subset=["ci_low"])
    assert (inside["ci_low"] <= inside["ci_high"]).all()


def test_measures_that_were_not_made_have_no_verdict(measured):
    rows = quality_table(measured).set_index("measure")
    assert rows.loc["first noun, untrained projection", "met"] == ""
    assert set(rows.loc[rows["required"] == "", "met"]) == {""}


def test_no_scenes_are_refused(model):
    with pytest.raises(ValueError, match="no photographs"):
        measure(model, [], WORLD)
