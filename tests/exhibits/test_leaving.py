"""Exhibits that leave themselves out, in a run, on its pages and in the README."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from IPython.core.interactiveshell import InteractiveShell

from mmn_utils.datasets.base import KINDS, TooFew, lacking
from mmn_utils.exhibits import leaving, readme
from mmn_utils.exhibits.entries import SHIPPED, load_exhibits
from mmn_utils.exhibits.leaving import OR, LeftOut, why_left_out
from mmn_utils.exhibits.ledger import claims
from mmn_utils.exhibits.report import build_report
from mmn_utils.exhibits.saving import Run
from mmn_utils.exhibits.texts import load_texts
from mmn_utils.exhibits.verdicts import came_out
from mmn_utils.exhibits.verify import verify
from tests.exhibits.samples import NUMBERS, TABLE, draw

BARE = "no photograph has a caption"


class Photographs:
    """A data set that has some things and lacks the others."""

    name = "folder"

    def __init__(self, *has: str):
        self.has = has

    def lacks(self, what: str) -> str:
        told = {kind: kind in self.has for kind in KINDS if kind != "captions"}
        return lacking(what, captions=["captions" in self.has], **told)


def open_run(folder, *has: str, model="tiny") -> Run:
    parameters = {"preset": "", "run": "mine", "seed": 0}
    return Run("mine", "02_attribution", parameters, model, Photographs(*has), root=folder)


def leave(run: Run, id: str, data=None) -> str:
    with pytest.raises(LeftOut) as error:
        run.needs(id, data=data)
    return error.value.reason


def test_what_exhibits_need_is_something_that_data_sets_have():
    for exhibit in load_exhibits().values():
        assert {kind for need in exhibit.needs for kind in need.split(OR)} <= {*KINDS}
    assert load_exhibits()["A-table-1"].needs == ("captions",)


@pytest.mark.parametrize(
    ("needs", "has", "says"),
    [
        ((), (), ""),
        (("captions",), ("captions",), ""),
        (("captions",), ("masks",), BARE),
        (("captions or objects",), ("objects",), ""),
        (("captions or objects",), ("masks",), f"{BARE}, no photograph has an annotated object"),
        (("captions", "masks"), (), f"{BARE}; no photograph has the mask of an object"),
    ],
)
def test_any_of_some_will_do_and_all_are_named_that_lack(needs, has, says):
    exhibit = replace(load_exhibits()["A-table-1"], needs=needs)
    assert why_left_out(exhibit, Photographs(*has)) == says
    assert why_left_out(exhibit, "a data set that cannot tell") == ""


def test_a_left_out_exhibit_has_a_record_and_untested_claims(tmp_path):
    run = open_run(tmp_path)
    assert leave(run, "A-table-1") == leave(run, "A-table-1") == BARE
    run.needs("A-fig-1")
    record = json.loads((run.folder / "A-table-1.json").read_text())
    assert (record["left_out"], record["facts"]) == (BARE, {})
    assert record["caption"] == f"Left out: {BARE}."
    entered = claims(run)
    assert set(entered["id"]) == set(load_texts("02_attribution")["A-table-1"].claims) != set()
    assert set(entered["holds"]) == set(entered["like_paper"]) == {"not tested"}
    assert set(entered["test"]) == {f"left out: {BARE}"}
    assert run._judged("A-table-1-interpretable").holds.word == "not tested"
    with pytest.raises(LeftOut):
        run.say("A-table-1")
    assert verify("mine", tmp_path) == (len(entered), [])


def test_nothing_is_left_of_an_exhibit_that_was_made_before(tmp_path, untold):
    run = Run("mine", "02_attribution", {"preset": "", "run": "mine", "seed": 0}, "tiny",
              Photographs(), root=tmp_path, exhibits=untold)  # fmt: skip
    run.save_table("A-table-1", TABLE, "A table.", numbers=NUMBERS)
    leave(run, "A-table-1")
    assert [path.name for path in run.folder.glob("A-table-1*")] == ["A-table-1.json"]


def test_other_photographs_and_other_reasons_can_be_given(tmp_path):
    run = open_run(tmp_path, "captions")
    run.needs("A-table-1")
    assert leave(run, "A-table-1", Photographs()) == BARE
    with pytest.raises(LeftOut, match="A-fig-1 is left out: it is too early"):
        run.leave_out("A-fig-1", "it is too early")
    with pytest.raises(ValueError, match="belongs to 03_selectivity"):
        run.needs("A-fig-5")


def test_a_cells_exhibits_are_left_out_together(tmp_path):
    run = open_run(tmp_path, "captions")
    with pytest.raises(LeftOut, match=f"A-table-1 is left out: {BARE}"):
        run.needs("A-table-1", "A-fig-1", data=Photographs())
    assert leave(run, "A-fig-1") == BARE


def test_the_report_says_why(tmp_path, monkeypatch):
    run = open_run(tmp_path)
    leave(run, "A-table-1")
    run.save_figure("A-fig-1", draw(), NUMBERS, "A caption.")
    html = build_report(run).read_text(encoding="utf-8")
    assert html.count(f'<p class="absent">Left out: {BARE}.</p>') == 1
    assert f"1 of {len(load_exhibits())} exhibits were produced; the photographs lack" in html
    assert "A-table-1.csv" not in html
    assert html.count("The rows beneath it") == 1
    assert came_out(load_exhibits()["A-table-1"], ["mine"], tmp_path) == {
        "mine": f"left out: {BARE}"
    }
    monkeypatch.setattr(readme, "SHIPPED_FIGURES", tmp_path)
    run.folder.rename(tmp_path / SHIPPED[0])
    exhibit = load_exhibits()["A-table-1"]
    monkeypatch.setattr(readme, "load_exhibits", lambda: {exhibit.id: exhibit})
    line = readme.exhibits_table()
    assert f"*Here:* left out: {BARE}." in line
    assert f"figures/{SHIPPED[0]}/report.html#A-table-1" in line


@pytest.fixture
def shell():
    """A notebook's shell, without a notebook."""
    found = InteractiveShell.instance()
    yield found
    InteractiveShell.clear_instance()


def test_a_cell_ends_quietly_and_the_next_one_goes_on(tmp_path, shell, capsys):
    leaving.stop_quietly()
    leaving.stop_quietly()
    shell.user_ns["run"] = open_run(tmp_path)
    result = shell.run_cell('begun = 1\nrun.needs("A-table-1")\nended = 1')
    assert result.success
    assert {"begun", "ended"} & set(shell.user_ns) == {"begun"}
    assert capsys.readouterr().out.strip() == "A-table-1"
    assert shell.run_cell("ended = 2").success
    assert not shell.run_cell("1 / 0").success
    bundle = leaving.Placard(LeftOut("A-table-1", BARE))._repr_mimebundle_()
    assert bundle["text/markdown"] == f"*`A-table-1` is left out: {BARE}.*"


def test_a_cell_that_finds_too_few_photographs_leaves_its_exhibit_out(tmp_path, shell, capsys):
    leaving.stop_quietly()
    run = shell.user_ns["run"] = open_run(tmp_path, "captions")
    shell.user_ns["TooFew"] = TooFew
    few = 'raise TooFew("one photograph; take more")'
    assert not shell.run_cell(few).success
    assert "TooFew" in capsys.readouterr().out
    assert shell.run_cell(f'run.needs("A-table-1")\n{few}').success
    assert not shell.run_cell(few).success, "what a cell is for ends with it"
    assert leave(run, "A-table-1") == "one photograph; take more"
    entered = claims(run)
    assert set(entered["test"]) == {"left out: one photograph; take more"}
    assert set(entered["id"]) == set(load_texts("02_attribution")["A-table-1"].claims)
    assert shell.run_cell('run.needs("A-table-1")\nended = 1').success
    assert "ended" not in shell.user_ns
