"""The table of families: every type has a row, and what it says is so for the quick ones."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.models.auto.families.table import FILE, TYPES, examine

RAW = ("AttributeError:", "KeyError:", "IndexError:", "TypeError:")
QUICK = ("mistral3", "glm4v", "janus", "qwen3_vl_moe", "t5gemma2", "blip")


def table() -> pd.DataFrame:
    return pd.read_csv(FILE, keep_default_na=False).set_index("type")


def test_every_type_of_the_installed_release_has_a_row():
    rows = table()
    assert rows.index.tolist() == list(TYPES)
    assert set(rows["loads"]) <= {"yes", "no", "not tried"}
    refused = rows[rows["loads"] == "no"]
    assert (refused["reason"] != "").all()
    assert not refused["reason"].str.startswith(RAW).any()


def test_at_least_28_families_pass_all():
    rows = table()
    passed = (rows[["loads", "doctor", "check"]] == "yes").all(axis=1)
    assert passed.sum() >= 28
    assert (rows.loc[passed, "reason"] == "").all()


@pytest.mark.parametrize("name", QUICK)
def test_a_row_is_what_comes_out_again(name):
    row = examine(name)
    old = table().loc[name].to_dict()
    assert {key: row[key] for key in old} == old
