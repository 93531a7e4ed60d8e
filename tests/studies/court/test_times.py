"""Measured times: read beside what is counted, of one's own system alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.studies.court import summary, times

ROWS = [
    ("tiny", "gradient", 3.5, 4.0, 1, "Linux on x86_64, 2 cores, torch 2"),
    ("tiny", "exact", 900.0, 20.0, 1, "Linux on x86_64, 2 cores, torch 2"),
    ("other", "gradient", 7.0, 4.0, 2, "elsewhere"),
]
COSTS = pd.DataFrame({"score": ["gradient", "new"], "passes": [3.0, 1.0], "memory": [4.0, 1.0]})


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "times.csv"
    pd.DataFrame(ROWS, columns=times.COLUMNS).to_csv(path, index=False)
    return path


def test_times_stand_beside_what_is_counted(table):
    found = times.timed(COSTS, "tiny", table)
    np.testing.assert_array_equal(found["time"], [3.5, np.nan])
    assert times.where("tiny", table) == "Linux on x86_64, 2 cores, torch 2, 1 thread"
    assert times.where("other", table) == "elsewhere, 2 threads"


def test_what_was_not_timed_has_no_time(table, tmp_path):
    for path in (table, tmp_path / "none.csv"):
        found = times.timed(COSTS, "third", path)
        assert found["time"].isna().all()
        assert times.where("third", path) == ""
    pd.DataFrame({"score": [1]}).to_csv(table, index=False)
    with pytest.raises(ValueError, match="bench_scores"):
        times.read(table)


def test_the_table_has_a_column_of_times_where_there_are_some(table):
    rows = [("all", "gradient", "rank", 0.5, 0.4, 0.6, 3), ("all", "new", "rank", 0.2, 0.1, 0.3, 3)]
    means = pd.DataFrame(rows, columns=["question", "score", "measure", "mean", "low", "high", "n"])
    names = {"gradient": "gradient", "new": "new"}
    shown = summary.as_table(means, times.timed(COSTS, "tiny", table), names, {"all": "all"})
    assert shown[["operations", "processor time", "memory"]].values.tolist() == [
        ["3", "3.5", "4"], ["1", "–", "1"],
    ]  # fmt: skip
    untimed = summary.as_table(means, times.timed(COSTS, "third", table), names, {"all": "all"})
    assert "processor time" not in untimed
