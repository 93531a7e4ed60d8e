"""Judging again under each switch: what is run, what is kept, and what is refused."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from papermill.exceptions import PapermillExecutionError

from mmn_utils.exhibits import switches as tables
from mmn_utils.exhibits.entries import exhibits_of
from mmn_utils.exhibits.formats import to_csv
from mmn_utils.exhibits.ledger import CLAIM_COLUMNS
from mmn_utils.presets import Preset
from mmn_utils.running import switches
from mmn_utils.running.switches import Court, collect
from mmn_utils.running.switches.making import Workplace
from mmn_utils.running.switches.plan import Switch

PRESET = Preset("tiny", {"model": "miniature"}, only=("04_ablation",))
NOTEBOOK = "04_ablation"
MEAN = Switch("ablate_value", "mean", {"ablate_value": "mean"})
ROWS = Switch("batch", "one", environment={"MMN_ROWS": "1"}, may_agree=True)


@pytest.fixture
def runs(monkeypatch):
    """Instead of a kernel, a ledger of two claims whose numbers follow the parameters."""
    made = []

    def run(self, notebook, preset, parameters, switch):
        made.append((notebook, switch.run, dict(parameters)))
        value = {"zero": "0.5", "mean": "0.4"}[parameters["ablate_value"]]
        row = dict.fromkeys(CLAIM_COLUMNS, "") | {"exhibit": "A-fig-6", "paper": "A", "n": "9"}
        row |= {"statement": "Stated.", "value": value}
        rows = [row | {"id": "A-fig-6-top", "holds": "yes" if value == "0.5" else "open"}]
        rows += [row | {"id": "A-fig-6-gap", "holds": "no"}]
        rows += [row | {"id": "C-ours", "paper": "C"}]
        folder = self.folder / "figures" / switch.run
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "claims.csv").write_text(to_csv(pd.DataFrame(rows)))
        beside = self.folder / "build" / switch.run / "provenance"
        beside.mkdir(parents=True, exist_ok=True)
        seen = {"threads": "1", "rows": switch.environment.get("MMN_ROWS", "")}
        (beside / f"{exhibits_of(notebook)[0].id}.json").write_text(json.dumps(seen))

    monkeypatch.setattr(Workplace, "_run", run)
    return made


@pytest.fixture
def asked(monkeypatch):
    """Make the list of switches what a test says."""

    def ask(*some: Switch) -> None:
        monkeypatch.setattr(switches, "read_switches", lambda: list(some))

    return ask


def test_the_table_has_the_defaults_and_what_each_switch_made_of_them(runs, asked, tmp_path):
    asked(MEAN, ROWS, Switch("x", "y", {"activation": "gate"}))
    table = tmp_path / "tiny.csv"
    assert collect(PRESET, folder=tmp_path / "runs", table=table) == []
    found = tables.read("tiny", tmp_path)
    assert found.default.to_dict() == {"A-fig-6-top": "yes", "A-fig-6-gap": "no"}
    assert found.statement("A-fig-6-top") == "Stated."
    assert found.turns["A-fig-6-top"] == [("ablate_value", "mean", "open")]
    assert found.matrix.columns.tolist() == [
        ("default", ""), ("ablate_value", "mean"), ("batch", "one"),
    ]  # fmt: skip
    assert [(name, run) for name, run, _ in runs] == [
        (NOTEBOOK, "default"), (NOTEBOOK, "ablate-value-mean"), (NOTEBOOK, "batch-one"),
    ]  # fmt: skip


def test_what_was_run_is_not_run_again_until_something_changes(runs, asked, tmp_path, monkeypatch):
    asked(MEAN)
    where = {"folder": tmp_path / "runs", "table": tmp_path / "tiny.csv"}
    collect(PRESET, **where)
    first = where["table"].read_bytes()
    collect(PRESET, **where)
    assert len(runs) == 2
    assert where["table"].read_bytes() == first
    more = Preset("tiny", {"model": "miniature", "seed": 5}, only=PRESET.only)
    collect(more, **where)
    assert len(runs) == 4
    monkeypatch.setattr("mmn_utils.running.switches.making.code_version", lambda *_: "new")
    collect(more, **where)
    assert len(runs) == 6


def test_after_some_minutes_no_other_switch_is_begun_and_the_table_says_so(runs, asked, tmp_path):
    asked(MEAN, ROWS)
    where = {"folder": tmp_path / "runs", "table": tmp_path / "tiny.csv"}
    assert collect(PRESET, minutes=0, **where) == ["ablate-value-mean", "batch-one"]
    assert tables.read("tiny", tmp_path).absent["why"].tolist() == ["not run", "not run"]
    assert collect(PRESET, only=["batch"], **where) == ["ablate-value-mean"]
    assert collect(PRESET, minutes=0, **where) == ["ablate-value-mean"]  # what was made is kept
    with pytest.raises(ValueError, match=r"'bath' is not a switch .* did you mean 'batch'"):
        collect(PRESET, only=["bath"], **where)


def test_a_switch_after_which_every_number_is_what_it_was_is_an_error(runs, asked, tmp_path):
    deaf = Switch("ablate_positions", "image", {"ablate_positions": "image"})
    asked(deaf)
    with pytest.raises(ValueError, match="every number of tiny is what it was by default"):
        collect(PRESET, folder=tmp_path / "runs", table=tmp_path / "tiny.csv")


def test_a_switch_that_changes_no_parameter_is_an_error_before_anything_runs(runs, asked, tmp_path):
    asked(MEAN, Switch("ablate_value", "zero", {"ablate_value": "zero"}))
    with pytest.raises(ValueError, match="ablate_value has that value already"):
        collect(PRESET, folder=tmp_path / "runs", table=tmp_path / "tiny.csv")
    assert runs == []


def test_a_variable_that_does_not_reach_the_kernel_is_an_error(runs, asked, tmp_path):
    asked(Switch("threads", "two", environment={"OMP_NUM_THREADS": "2"}, may_agree=True))
    with pytest.raises(ValueError, match="the notebook ran with OMP_NUM_THREADS = '1'"):
        collect(PRESET, folder=tmp_path / "runs", table=tmp_path / "tiny.csv")


def test_a_notebook_that_refuses_has_its_reason_and_is_not_run(runs, asked, tmp_path):
    reason = "weights on a grid cannot be edited"
    asked(Switch("dtype", "int8", {"dtype": "int8"}, refuses={NOTEBOOK: reason}))
    collect(PRESET, folder=tmp_path / "runs", table=tmp_path / "tiny.csv")
    absent = tables.read("tiny", tmp_path).absent
    assert absent[["claim", "why"]].values.tolist() == [
        ["A-fig-6-top", reason], ["A-fig-6-gap", reason],
    ]  # fmt: skip
    assert [run for _, run, _ in runs] == ["default"]


def test_a_notebook_that_stops_in_a_cell_is_told_of_and_the_others_go_on(
    runs, asked, tmp_path, monkeypatch, capsys
):
    asked(MEAN, ROWS)
    run = Workplace._run

    def stop(self, notebook, preset, parameters, switch):
        if switch == MEAN:
            raise PapermillExecutionError(3, 2, "assert", "AssertionError", "1.0 is\nnot 2.0", [])
        run(self, notebook, preset, parameters, switch)

    monkeypatch.setattr(Workplace, "_run", stop)
    assert collect(PRESET, folder=tmp_path / "runs", table=tmp_path / "tiny.csv") == []
    found = tables.read("tiny", tmp_path)
    said = f"{NOTEBOOK} stops: AssertionError 1.0 is not 2.0"
    assert found.absent["why"].tolist() == [said] * 2
    assert set(found.judged["switch"]) == {"batch"}
    assert said in capsys.readouterr().err


def test_a_preset_without_a_claim_of_a_paper_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tiny runs no notebook with a claim"):
        Court(Preset("tiny", {"model": "miniature"}, only=("00_miniature",)), tmp_path)


def test_the_command_refuses_an_unknown_switch(capsys):
    assert switches.main(["miniature", "--only", "nothing"]) == 2
    assert "'nothing' is not a switch" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("warm_kernels")
def test_a_switch_moves_what_the_notebook_itself_enters(asked, tmp_path):
    small = {"n_images": 3, "counts": [0, 800], "n_table_images": 1, "max_new_tokens": 8}
    preset = Preset("tiny", {"model": "miniature"}, {NOTEBOOK: small}, only=(NOTEBOOK,))
    asked(MEAN)
    collect(preset, folder=tmp_path / "runs", table=tmp_path / "tiny.csv")
    found = tables.read("tiny", tmp_path)
    assert set(found.default.index) == set(found.judged["claim"])
    usual = found.rows[found.rows["switch"] == "default"].set_index("claim")["value"]
    put = found.judged.set_index("claim")["value"]
    assert (usual != put).any()
    assert found.default.index.str.startswith("A-").all()
