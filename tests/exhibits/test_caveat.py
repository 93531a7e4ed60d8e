"""What must be said of numbers, and of whose pictures are, stands on every page that shows them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import nbformat
import pytest
from nbformat import v4

from mmn_utils.datasets import load_dataset
from mmn_utils.exhibits.pages import standalone
from mmn_utils.exhibits.provenance import caveats, credits_of, describe
from mmn_utils.exhibits.report import build_report
from mmn_utils.exhibits.saving import Run
from mmn_utils.presets import read_parameters
from mmn_utils.running.notebook_pages import write_page
from tests.exhibits.samples import NUMBERS, PARAMETERS, TABLE, draw

CAVEAT = "Weights <drawn> at random."
SHOWN = "<strong>Weights &lt;drawn&gt; at random.</strong>"


def opened(tmp_path, untold, caveat: str) -> Run:
    model = SimpleNamespace(name="tiny", revision="r1", caveat=caveat)
    run = Run("test", "02_attribution", PARAMETERS, model, "scenes", root=tmp_path, exhibits=untold)
    run.save_figure("A-fig-1", draw(), NUMBERS, "A figure.")
    run.save_table("A-table-1", TABLE, "A table.")
    return run


def page_of(run: Run, tmp_path) -> str:
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), v4.new_code_cell("k = 1")])
    nbformat.write(notebook, tmp_path / "02_attribution.ipynb")
    page = write_page(tmp_path / "02_attribution.ipynb", run.name, run.folder.parent)
    return page.read_text(encoding="utf-8")


def test_each_page_and_each_caption_says_it(tmp_path, untold):
    run = opened(tmp_path, untold, CAVEAT)
    for id in ("A-fig-1", "A-table-1"):
        record = json.loads((run.folder / f"{id}.json").read_text())
        assert record["caption"].endswith(f". {CAVEAT}")
        assert record["model"]["caveat"] == CAVEAT
    assert "Weights" in (run.folder / "A-table-1.tex").read_text()
    assert build_report(run).read_text(encoding="utf-8").count(SHOWN) == 1
    assert page_of(run, tmp_path).count(SHOWN) == 1


def test_nothing_is_said_where_there_is_nothing_to_say(tmp_path, untold):
    run = opened(tmp_path, untold, "")
    record = json.loads((run.folder / "A-fig-1.json").read_text())
    assert record["caption"] == "A figure."
    assert "caveat" not in record["model"]
    assert 'role="note"' not in build_report(run).read_text(encoding="utf-8")
    assert 'role="note"' not in page_of(run, tmp_path)


@pytest.mark.parametrize("caveat", ["", CAVEAT])
def test_a_notebook_shows_it_first(capsys, caveat):
    model = SimpleNamespace(name="tiny", revision="r1", caveat=caveat)
    given = {"preset": "", "run": "test", "seed": 0, "n_images": 1, "model": "tiny"}
    defaults = {name: one.default for name, one in read_parameters("02_attribution").items()}
    Run.of("02_attribution", {**defaults, **given}, model)
    assert capsys.readouterr().out.strip() == caveat


def test_each_is_listed_once():
    records = [{"model": describe(SimpleNamespace(name="a", caveat=CAVEAT))}] * 2
    assert caveats([*records, {"model": {"name": "b"}}, {"model": None}]) == [CAVEAT]


# --- whose the pictures are ---------------------------------------------------------------------

CREDIT = "Pictures by <somebody>, under a licence."
CREDITED = "Pictures by &lt;somebody&gt;, under a licence."


def credited(tmp_path, untold, credit: str) -> Run:
    data = SimpleNamespace(name="scenes", credit=credit)
    run = Run("test", "02_attribution", PARAMETERS, "tiny", data, root=tmp_path, exhibits=untold)
    run.save_figure("A-fig-1", draw(), NUMBERS, "A figure.")
    run.save_table("A-table-1", TABLE, "A table.")
    return run


def test_each_page_and_each_record_says_whose_the_pictures_are(tmp_path, untold):
    run = credited(tmp_path, untold, CREDIT)
    record = json.loads((run.folder / "A-fig-1.json").read_text())
    assert record["data"] == {"name": "scenes", "credit": CREDIT}
    report = build_report(run)
    assert report.read_text(encoding="utf-8").count(CREDITED) == 1
    assert page_of(run, tmp_path).count(CREDITED) == 1
    alone = standalone(report.read_text(encoding="utf-8"), run.folder)
    assert alone.count(CREDITED) == 1


def test_pictures_of_the_projects_own_have_no_credit(tmp_path, untold):
    run = credited(tmp_path, untold, "")
    record = json.loads((run.folder / "A-fig-1.json").read_text())
    assert record["data"] == {"name": "scenes"}
    assert load_dataset("miniature").credit == ""


def test_credits_are_listed_once_each():
    of = [{"data": {"name": "a", "credit": CREDIT}}, {"data": {"name": "b"}}, {"data": None}, {}]
    assert credits_of([*of, *of]) == [CREDIT]
