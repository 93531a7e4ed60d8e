"""Tables of edits, as paper B lays them out, and what is read off them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mmn_utils.interventions.edit import apply, save_edit
from mmn_utils.interventions.editing import Settings
from mmn_utils.interventions.joint import JointSettings
from mmn_utils.models.base import state_hash
from mmn_utils.neurons.captions import caption_images
from mmn_utils.neurons.decoding import both_ends
from mmn_utils.studies import edits as study
from tests.interventions.planted import neuron
from tests.studies.conftest import PAIRS


def test_edits_are_tried_where_they_were_found(system, findings, ground):
    weights = state_hash(system.language_model)
    several = [*findings, findings[0].into("dog")]
    table = study.tables.edited(system, ground, several, Settings())
    assert state_hash(system.language_model) == weights
    assert table["image"].tolist() == ["a", "c", "a"]
    assert table["before"].tolist() == ["horse grass", "boat grass", "horse grass"]
    assert table["after"].tolist() == ["cat grass", "dog grass", "dog grass"]
    assert table["swapped"].all()
    assert table["steps"].max() < 1e-5
    for finding, row in zip(several, table.itertuples(), strict=True):
        edit = study.making.edit_of(system, finding, Settings())
        with apply(system, edit) as receipt:
            said = caption_images(system, [finding.photograph.open()], 4)[0].text
        assert row.after == said
        assert row.dw == pytest.approx(np.mean(receipt.relative), rel=1e-4)
        assert row.g == pytest.approx(max(edit.pulls), rel=1e-5)
    assert table["neurons"][0].split()[0] == f"{neuron('horse')}+"
    signs = table["neurons"].str.count("−")  # as it is written, not as it is counted
    assert table["negative"].tolist() == signs.tolist()
    shown = study.tables.captions(table)
    assert not {"steps", "neurons", "negative"} & set(shown)
    assert shown["dw / write vector"].tolist() == table["dw"].tolist()


def test_edits_of_nothing_are_shown_as_such(system, findings, ground):
    pulls = [max(study.making.edit_of(system, f, Settings()).pulls) for f in findings]
    table = study.tables.edited(system, ground, findings, Settings(beta=sum(pulls) / 2))
    empty = np.array(pulls) <= sum(pulls) / 2
    assert table["dw"].eq(0).tolist() == table["steps"].isna().tolist() == empty.tolist()
    assert (table["after"] == table["before"])[empty].all()
    shown = study.tables.captions(table)["after"]
    assert (shown == "(no edit: g below beta)").tolist() == empty.tolist()


def test_neurons_are_read_as_they_write_there(system, findings):
    edit = study.making.edit_of(system, findings[0], Settings())
    table = study.tables.written(system, findings[0], edit, 2)
    assert table["neuron"].tolist() == [str(n) for n in findings[0].neurons]
    assert table["writes there"][0].split(", ")[0] == "horse"
    assert table["with dw"][0].split(", ")[0] == "cat"
    turned = replace(findings[0], signed=tuple((n, -s) for n, s in findings[0].signed))
    other = study.tables.written(system, turned, edit, 2)
    assert set(table["sign"] + other["sign"]) <= {"+−", "−+"}
    ends = both_ends(system, findings[0].neurons[1:2], 2)  # nothing is planted in this one
    writes, suppresses = (
        ", ".join(token.strip() for token in ends[end][0]) for end in ("writes", "suppresses")
    )
    read = {table["sign"][1]: table["writes there"][1], other["sign"][1]: other["writes there"][1]}
    assert read == {"+": writes, "−": suppresses}


def test_rows_name_what_sets_trials_apart():
    trial = {"image": "a", "source": "b", "target": "c", "role": "same", "before": "", "after": "",
             "swapped": 1.0, "exact": 1.0, "kept": 1.0, "unchanged": 0.0, "norm": 2.0}  # fmt: skip
    trials = pd.DataFrame([trial, trial])
    rows = study.tables.rows_of(trials.assign(method=["Algorithm 1", "whole model"]))
    assert rows["way"].tolist() == ["algorithm_1", "whole_model"]
    assert all(name.isidentifier() for name in [*rows["way"], *rows.columns])
    rows = study.tables.rows_of(trials.assign(neurons=5, strength=0.5))
    assert (rows["neurons"].tolist(), rows["strength"].tolist()) == ([5, 5], [0.5, 0.5])
    assert not {"way", "before"} & set(rows)


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
    assert table["off"].all()
    saved = table.iloc[-1]
    edit = study.making.edit_of(system, findings[0], Settings())
    put_in = study.tables.round_trip(system, edit)[1]
    assert put_in == saved["weights edited"], "put in for good it is what the table says of it"
    size = save_edit(edit, tmp_path / "same.safetensors").stat().st_size
    assert saved["edit"] == f"saved ({size} bytes), loaded"
    assert saved["edited"] == "cat grass"
    assert saved["target said"]
    alone = study.tables.uses(system, findings[:1], Settings(), joint, "catdog", 4)
    assert [edit.split(" ")[0] for edit in alone["edit"]] == ["several", "several", "saved"]
    with pytest.raises(ValueError, match="one token"):
        study.tables.uses(system, findings, Settings(), joint, "cat", 4)


def test_what_did_not_come_off_is_said(system, findings, edits, monkeypatch):
    other = study.tables.generate(system, system.prompt([findings[1].photograph.open()]), 4)
    monkeypatch.setattr(study.tables, "generate", lambda *_: other)
    used = study.tables._use(system, "edit", edits[0], findings[0], 4)
    assert used["weights before"] == used["weights undone"]
    assert not used["off"]


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
