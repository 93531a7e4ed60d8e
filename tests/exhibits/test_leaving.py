"""Exhibits that leave themselves out, in a run, on its pages and in the README."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from mmn_utils.datasets.base import KINDS, TooFew, lacking
from mmn_utils.exhibits import leaving, readme
from mmn_utils.exhibits.entries import OF_RUNS, SHIPPED, load_exhibits
from mmn_utils.exhibits.leaving import OR, LeftOut, why_left_out
from mmn_utils.exhibits.ledger import claims
from mmn_utils.exhibits.report import build_report
from mmn_utils.exhibits.saving import Run
from mmn_utils.exhibits.texts import load_texts
from mmn_utils.exhibits.verdicts import came_out
from mmn_utils.exhibits.verify import verify
from tests.exhibits.samples import NUMBERS, TABLE, draw

BARE = "no photograph has a caption"
NO_CLIP = "no CLIP knows them"


class Photographs:
    """A data set that has some things and lacks the others."""

    name = "folder"

    def __init__(self, *has: str):
        self.has = has

    def lacks(self, what: str) -> str:
        told = {kind: kind in self.has for kind in KINDS if kind != "captions"}
        return lacking(what, captions=["captions" in self.has], **told)


def open_run(folder, *has: str, model="tiny", notebook="02_attribution", without=None) -> Run:
    parameters = {"preset": "", "run": "mine", "seed": 0}
    data = Photographs(*has)
    return Run("mine", notebook, parameters, model, data, root=folder, without=without)


def leave(run: Run, id: str, data=None) -> str:
    with pytest.raises(LeftOut) as error:
        run.needs(id, data=data)
    return error.value.reason


def test_what_exhibits_need_is_something_that_data_sets_or_runs_have():
    assert not {*KINDS} & {*OF_RUNS}
    for exhibit in load_exhibits().values():
        assert {kind for need in exhibit.needs for kind in need.split(OR)} <= {*KINDS, *OF_RUNS}
    assert load_exhibits()["A-fig-3"].needs == ("clipscore",)
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


def test_a_run_that_does_without_a_judge_leaves_out_what_needs_it(tmp_path):
    given = {"notebook": "01_projection_decoding"}
    open_run(tmp_path, **given).needs("A-fig-3")
    run = open_run(tmp_path, "captions", without={"clipscore": NO_CLIP}, **given)
    run.needs("A-table-2")
    assert leave(run, "A-fig-3") == NO_CLIP
    assert set(claims(run)["id"]) == {"A-fig-3-prompts-random", "A-fig-3-nouns"}
    assert set(claims(run)["test"]) == {f"left out: {NO_CLIP}"}
    assert [path.name for path in run.folder.glob("A-fig-3*")] == ["A-fig-3.json"]
    with pytest.raises(ValueError, match="'clip' is not something that a run may do without"):
        open_run(tmp_path, without={"clip": NO_CLIP})


def scores(**judges: float) -> pd.DataFrame:
    """Rows of Table 2 in which prompts are as good as random vectors and captions better."""
    kinds = {"random": 0.0, "prompts": 0.0, "captions": 1.0, "coco": 2.0}
    rows = [
        {"judge": judge, "image": str(i), **{kind: scale * (x + i) for kind, x in kinds.items()}}
        for judge, scale in judges.items()
        for i in range(8)
    ]
    return pd.DataFrame(rows)


def test_claims_that_need_a_judge_are_not_tested_without_it(tmp_path):
    given = {"notebook": "01_projection_decoding", "without": {"clipscore": NO_CLIP}}
    run = open_run(tmp_path, "captions", **given)
    run.save_table("A-table-2", TABLE, "A table.", numbers=scores(bertscore=0.1))
    found = claims(run).set_index("id")
    assert found["holds"].to_dict() == {
        "A-table-2-bertscore-prompts": "yes",
        "A-table-2-bertscore-captions": "yes",
        "A-table-2-clipscore-prompts": "not tested",
        "A-table-2-clipscore-captions": "not tested",
    }
    untested = found["holds"] == "not tested"
    assert set(found.loc[untested, "test"]) == {f"not tested: {NO_CLIP}"}
    assert found.loc[untested, ["value", "ci_low", "n"]].isna().all(axis=None)
    record = json.loads((run.folder / "A-table-2.json").read_text())
    assert record["without"] == {"clipscore": NO_CLIP}
    assert verify("mine", tmp_path) == (4, [])


def test_a_run_that_has_all_judges_keeps_no_word_of_it(tmp_path):
    run = open_run(tmp_path, "captions", notebook="01_projection_decoding")
    run.save_table("A-table-2", TABLE, "A table.", numbers=scores(bertscore=0.1, clipscore=10))
    assert set(claims(run)["holds"]) == {"yes"}
    assert "without" not in json.loads((run.folder / "A-table-2.json").read_text())


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
    assert f"1 of {len(load_exhibits())} exhibits were produced; the run lacks" in html
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
    assert f"*Here:* `{SHIPPED[0]}`: left out: {BARE}." in line
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
