"""The report of a run, and the command line."""

from __future__ import annotations

import re

import pytest

from mmn_utils.exhibits.__main__ import main
from mmn_utils.exhibits.entries import load_exhibits
from mmn_utils.exhibits.report import build_report
from mmn_utils.exhibits.saving import Run
from mmn_utils.presets import load_preset
from tests.exhibits.samples import NUMBERS, TABLE, draw, fill


def test_the_report_is_one_page_that_needs_nothing_else(run):
    fill(run)
    html = build_report(run).read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 1
    outside = re.findall(r'(?:src|href)="(?!#|data:)([^"]+)"', html)
    assert all(link.endswith(".json") or link.startswith("https://arxiv.org/") for link in outside)
    assert "Other runs" not in html
    assert "<script" not in html
    assert "@import" not in html
    assert "<b>signs</b>" not in html
    assert "&lt;b&gt;signs&lt;/b&gt; &amp; 3 units." in html


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
    for name, other in ("rs", "sr"):
        assert f'"../{other}/report.html"' in (tmp_path / name / "report.html").read_text()
