"""Tables of edits, as paper B lays them out, and what is read off them."""

from __future__ import annotations

import pandas as pd
import pytest

from mmn_utils.interventions.edit import save_edit
from mmn_utils.interventions.editing import Settings
from mmn_utils.interventions.joint import JointSettings
from mmn_utils.models.base import state_hash
from mmn_utils.studies import edits as study
from tests.studies.conftest import PAIRS


def test_edits_are_shown_with_captions_before_and_after(system, findings):
    table = study.tables.edited(system, findings, Settings(), 4)
    assert table["before"].tolist() == ["horse grass", "boat grass"]
    assert table["after"].tolist() == ["cat grass", "dog grass"]
    assert table["swapped"].all()
    gap = study.tables.largest_gap(table)
    assert gap.value == gap.low == gap.high == table["steps"].max() < 1e-5
    assert gap.n == 2


def test_edits_of_nothing_are_shown_as_such(system, findings):
    none = study.tables.edited(system, findings, Settings(beta=1e6), 4)
    assert set(none["after"]) == {"(no edit: g below beta)"}
    assert not none["swapped"].any()
    assert study.tables.largest_gap(none) is None


def test_others_are_the_first_of_each_role():
    rows = [("1", "horse", "cat", "edited"), ("2", "horse", "cat", "same"),
            ("3", "horse", "cat", "same"), ("4", "boat", "dog", "other")]  # fmt: skip
    trials = pd.DataFrame(rows, columns=["image", "source", "target", "role"])
    trials = trials.assign(before="b" + trials["image"], after="a" + trials["image"])
    others = study.tables.others(trials, PAIRS)
    assert others["image"].tolist() == ["1", "2", "4"]
    assert others["role"].tolist() == [
        "edited on it", "another with the source", "without the source",
    ]  # fmt: skip
    assert others["edited output"].tolist() == ["a1", "a2", "a4"]


def test_other_uses_of_an_edit(system, findings, tmp_path):
    joint = JointSettings(epochs=3)
    table = study.tables.uses(system, findings, Settings(), joint, "catdog", 4)
    assert len(table) == 5
    assert (table["weights before"] != table["weights edited"]).all()
    off = study.tables.taken_off(table)
    assert (off.value, off.n) == (1, 5)
    saved = table.iloc[-1]
    edit = study.findings.edit_of(system, findings[0], Settings())
    size = save_edit(edit, tmp_path / "same.safetensors").stat().st_size
    assert saved["edit"] == f"saved ({size} bytes), loaded"
    assert saved["edited"] == "cat grass"
    assert saved["target said"]
    alone = study.tables.uses(system, findings[:1], Settings(), joint, "catdog", 4)
    assert [edit.split(" ")[0] for edit in alone["edit"]] == ["several", "several", "saved"]
    with pytest.raises(ValueError, match="one token"):
        study.tables.uses(system, findings, Settings(), joint, "cat", 4)


def test_what_did_not_come_off_is_counted():
    uses = pd.DataFrame(
        {
            "weights before": ["x", "x", "x", "x"],
            "weights undone": ["x", "y", "x", "x"],
            "before": ["a", "a", "a", "a"],
            "undone": ["a", "a", "b", "a"],
        }
    )
    assert study.tables.taken_off(uses).value == 0.5


def test_a_loaded_edit_says_what_it_said():
    edited = pd.DataFrame({"source": ["a", "c"], "target": ["b", "d"], "after": ["one", "two"]})
    uses = pd.DataFrame({"concept": ["a → b", "c → d"], "edited": ["?", "two"]})
    assert study.tables.kept(uses, edited)
    assert not study.tables.kept(uses.assign(edited="one"), edited)
    assert not study.tables.kept(uses.assign(concept="a → d"), edited)


def test_an_edit_goes_in_and_out_again(system, edits):
    weights = state_hash(system.language_model)
    before, within, after = study.tables.round_trip(system, edits[0])
    assert before == after != within
    assert state_hash(system.language_model) == weights
