"""The report of a run, and the command line."""

from __future__ import annotations

import base64
import re

import pandas as pd
import pytest

from mmn_utils.exhibits.__main__ import main
from mmn_utils.exhibits.entries import load_exhibits
from mmn_utils.exhibits.pages import standalone, write_standalone
from mmn_utils.exhibits.report import SHOWN_ROWS, build_report
from mmn_utils.exhibits.saving import Run
from mmn_utils.presets import load_preset
from tests.exhibits.samples import NUMBERS, TABLE, draw, fill

LINK = re.compile(r'(?:src|href)="(?!#|data:|https://arxiv.org/)([^"]+)"')


def test_the_report_shows_what_lies_beside_it_and_needs_nothing_else(run):
    fill(run)
    path = build_report(run)
    html = path.read_text(encoding="utf-8")
    assert '<img src="A-fig-1.png" width="480" height="320"' in html
    links = LINK.findall(html)
    assert set(links) == {file.name for file in run.folder.iterdir()} - {path.name, "claims.csv"}
    for word in ("base64", "Other runs", "executed notebooks", "<script", "@import", "url("):
        assert word not in html
    assert "<b>signs</b>" not in html
    assert "&lt;b&gt;signs&lt;/b&gt; &amp; 3 units." in html


def test_a_report_links_to_the_notebooks_that_have_pages(run):
    fill(run)
    (run.folder / "notebooks").mkdir()
    for name in ("02_attribution", "02_attribution-standalone"):
        (run.folder / "notebooks" / f"{name}.html").touch()
    html = build_report(run).read_text(encoding="utf-8")
    assert html.count('href="notebooks/02_attribution.html"') == 3  # the list, figure, table
    assert "standalone" not in html


def test_a_report_links_to_the_browser_where_there_is_one(run):
    fill(run)
    assert "browser.html" not in build_report(run).read_text(encoding="utf-8")
    (run.folder / "browser.html").touch()
    html = build_report(run).read_text(encoding="utf-8")
    assert html.count('href="browser.html"') == 1
    assert "browser.html" not in standalone(html, run.folder)


def test_of_long_numbers_the_report_shows_the_first_rows(run):
    long = pd.DataFrame({"n": range(1000, 1000 + SHOWN_ROWS + 1)})
    run.save_figure("A-fig-1", draw(), long, "A caption.")
    html = build_report(run).read_text(encoding="utf-8")
    assert f"The first {SHOWN_ROWS} rows" in html
    assert f">{SHOWN_ROWS + 1} rows<" in html
    assert f">{1000 + SHOWN_ROWS - 1}<" in html
    assert f">{1000 + SHOWN_ROWS}<" not in html


def test_a_standalone_report_has_everything_inside(run, tmp_path):
    (tmp_path / "other").mkdir()
    build_report("other", root=tmp_path)
    fill(run)
    path = write_standalone(build_report(run))
    assert path.name == "report-standalone.html"
    html = path.read_text(encoding="utf-8")
    assert LINK.findall(html) == []
    assert "Other runs" not in html
    inside = re.findall(r"data:(?:image/png|text/csv|application/json);base64,([^\"]+)", html)
    beside = {file.read_bytes() for file in run.folder.iterdir()}
    assert len(inside) == 6  # a picture, two files of numbers, a table, two records
    assert {base64.b64decode(text) for text in inside} <= beside


def test_a_standalone_page_needs_its_pictures(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.png, which cannot be read"):
        standalone('<img src="absent.png">', tmp_path)


def test_the_report_shows_missing_exhibits_verdicts_and_the_papers_numbers(run):
    fill(run)
    html = build_report(run).read_text(encoding="utf-8")
    missing = len(load_exhibits()) - 2
    assert html.count("Not produced in this run.") == missing
    assert 'class="verdict no"' in html
    assert "[0.2, 0.3]" in html
    assert "0.3627" in html
    assert "L14.u2019" in html or ">2019<" in html  # golden numbers of A-fig-1
    ids = re.findall(r'<article class="exhibit" id="([^"]+)"', html)
    assert ids == list(load_exhibits())


def test_a_report_links_to_the_reports_beside_it(run, tmp_path):
    for name in ("with-report", "without-report", "to-come"):
        (tmp_path / name).mkdir()
    build_report("with-report", root=tmp_path)
    fill(run)
    html = build_report(run, together=["test", "to-come"]).read_text(encoding="utf-8")
    links = re.findall(r'href="\.\./([^"]+)/report\.html"', html)
    assert links == ["to-come", "with-report"]


def test_a_report_shows_what_its_preset_makes_and_what_is_there(tmp_path):
    (tmp_path / "miniature").mkdir()
    build_report("miniature", root=tmp_path)
    preset = load_preset("miniature")
    mine = [e.id for e in load_exhibits().values() if preset.runs(e.notebook)]
    html = build_report("miniature", root=tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'<article class="exhibit" id="([^"]+)"', html) == mine
    others = [e for e in load_exhibits().values() if not preset.runs(e.notebook)]
    for entry in others[:1]:
        table = Run("miniature", entry.notebook, {}, root=tmp_path)
        save = table.save_table if entry.kind == "table" else table.save_figure
        save(entry.id, *([TABLE] if entry.kind == "table" else [draw(), NUMBERS]), "Made by hand.")
        html = build_report("miniature", root=tmp_path).read_text(encoding="utf-8")
        assert f'<article class="exhibit" id="{entry.id}">' in html


def test_a_run_without_anything_still_has_a_report(tmp_path):
    (tmp_path / "empty").mkdir()
    html = build_report("empty", root=tmp_path).read_text(encoding="utf-8")
    assert "No claim was tested" in html
    with pytest.raises(ValueError, match="no run in"):
        build_report("absent", root=tmp_path)


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MMN_FIGURES", str(tmp_path))
    assert main(["report", "absent"]) == 2
    assert "no run in" in capsys.readouterr().err
    (tmp_path / "r").mkdir()
    (tmp_path / "s").mkdir()
    assert main(["report", "r", "s"]) == 0
    assert main(["report", "r", "--standalone"]) == 0
    assert (tmp_path / "r" / "report-standalone.html").is_file()
    for name, other in ("rs", "sr"):
        assert f'"../{other}/report.html"' in (tmp_path / name / "report.html").read_text()
