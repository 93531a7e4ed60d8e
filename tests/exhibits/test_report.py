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
from tests.exhibits.samples import NUMBERS, TABLE, draw, entered, fill

EXHIBIT = re.compile(r'<article class="exhibit(?: wide)?" id="([^"]+)"')
LISTED = re.compile(r"<li><code>([^<]+)</code>")
LINK = re.compile(r'(?:src|href)="(?!#|data:|https://arxiv.org/)([^"]+)"')


def test_the_report_shows_what_lies_beside_it_and_needs_nothing_else(filled):
    path = build_report(filled)
    html = path.read_text(encoding="utf-8")
    assert '<img src="A-fig-1.png" width="480" height="320"' in html
    links = LINK.findall(html)
    assert set(links) == {file.name for file in filled.folder.iterdir()} - {path.name}
    for word in ("base64", "Other runs", "Executed:", "<script", "@import", "url("):
        assert word not in html
    assert "<b>signs</b>" not in html
    assert "&lt;b&gt;signs&lt;/b&gt; &amp; 3 units." in html


def test_a_report_links_to_the_notebooks_that_have_pages(filled):
    (filled.folder / "notebooks").mkdir()
    for name in ("02_attribution", "02_attribution-standalone"):
        (filled.folder / "notebooks" / f"{name}.html").touch()
    html = build_report(filled).read_text(encoding="utf-8")
    assert html.count('href="notebooks/02_attribution.html"') == 1  # where parameters stand
    for id in ("A-fig-1", "A-table-1"):
        assert html.count(f'href="notebooks/02_attribution.html#{id}"') == 1
    assert "standalone" not in html


def test_a_report_links_to_the_browser_where_there_is_one(filled):
    assert "browser.html" not in build_report(filled).read_text(encoding="utf-8")
    (filled.folder / "browser.html").touch()
    html = build_report(filled).read_text(encoding="utf-8")
    assert html.count('href="browser.html"') == 1
    assert "browser.html" not in standalone(html, filled.folder)


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
    assert len(inside) == 8  # a picture, two of numbers, a table, two records, claims, versions
    assert "PDF" not in html
    assert {base64.b64decode(text) for text in inside} <= beside


def test_a_standalone_page_needs_its_pictures(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.png, which cannot be read"):
        standalone('<img src="absent.png">', tmp_path)


def test_the_report_shows_missing_exhibits_verdicts_and_the_papers_numbers(filled):
    html = build_report(filled).read_text(encoding="utf-8")
    missing = html.partition("Not produced in this run")[2].partition("</section>")[0]
    listed = re.findall(r"<li><code>([^<]+)</code>", missing)
    assert listed == [id for id in load_exhibits() if id not in ("A-fig-1", "A-table-1")]
    assert "0.3627" in html
    assert "L14.u2019" in html or ">2019<" in html  # golden numbers of A-fig-1
    assert EXHIBIT.findall(html) == ["A-fig-1", "A-table-1"]


def exhibit_of(html: str, id: str) -> str:
    """Return the text of an exhibit on a page."""
    article = html.partition(f'<article class="exhibit" id="{id}">')[2].partition("</article>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", article).split())


def test_an_exhibit_begins_with_what_the_paper_says_and_what_came_out(filled):
    entered(filled.folder, "A-2", "A-fig-1", holds="open", stability="0.7", like_paper="not tested")
    entered(
        filled.folder, "A-2-gate", "A-fig-1", like_paper="yes", ratio="0.94", paper_value="80 %"
    )
    entered(filled.folder, "C-3", "A-fig-1", paper="C", where="ours", statement="It is so.")
    html = build_report(filled).read_text(encoding="utf-8")
    text = exhibit_of(html, "A-fig-1")
    assert (
        "Paper says: Half of the units are interpretable. section 2.2 Here: direction does not hold"
        " 0.25 [0.2, 0.3] n = 40 size differs · paper: 50 % (ratio 0.5)"
        " share, near .5. Redraws agree: direction 100 %, size 97 %." in text
    )
    assert text.count("The statement of A-2.") == 1, "a claim read in two ways is one statement"
    assert "Here: direction open 0.5 n = 40" in text
    gate = "Here, with the gate alone: direction holds 0.5 n = 40 size agrees"
    assert f"{gate} · paper: 80 % (ratio 0.94)" in text
    assert "Expected: It is so. Here: direction holds" in text
    assert "Paper says: Words decoded from an image" in exhibit_of(html, "A-table-1")
    assert "Here: shown, not judged." in exhibit_of(html, "A-table-1")


def test_the_contents_show_both_verdicts(filled):
    entered(filled.folder, "A-2", "A-fig-1", holds="yes", like_paper="not tested")
    entered(filled.folder, "A-3", "A-fig-1", holds="not tested", like_paper="open")
    html = build_report(filled).read_text(encoding="utf-8")
    marks = html.partition('title="A-fig-1: ')[2].partition("</li>")[0]
    assert re.findall(r'<span title="([^"]*)">(.*?)</span>', marks) == [
        ("direction does not hold, size differs", '<i class="no"></i><b class="no"></b>'),
        ("direction holds", '<i class="yes"></i>'),
        ("not tested, size open", '<i class="not-tested"></i><b class="open"></b>'),
    ]


def test_what_half_a_page_would_cut_or_shrink_has_all_of_it(filled):
    wide = pd.DataFrame({f"column {i}": ["a text of some length"] for i in range(3)})
    filled.save_table("A-table-S1", wide, "A wide table.")
    fig = draw()
    fig.set_size_inches(3, 3)
    filled.save_figure("A-fig-2", fig, NUMBERS, "A tall picture.")
    html = build_report(filled).read_text(encoding="utf-8")
    shown = re.findall(r'<article class="exhibit( wide)?" id="([^"]+)"', html)
    assert [id for wide, id in shown if wide] == ["A-fig-2", "A-table-S1"]
    assert [id for wide, id in shown if not wide] == ["A-fig-1", "A-table-1"]


def test_the_papers_claims_are_counted_alone(filled):
    entered(filled.folder, "A-2-gate", "A-fig-1", like_paper="yes")
    entered(filled.folder, "C-3", "A-fig-1", paper="C", where="ours")
    html = build_report(filled).read_text(encoding="utf-8")
    counted = html.partition('<table class="counted">')[2].partition("</table>")[0]
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in counted.split("<tr>")[2:]]
    numbers = [[int(cell) for cell in row if cell.isdigit()] for row in rows]
    # yes, no, open, not tested; of sizes also those of which no figure is printed
    assert numbers == [[0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0]]


def test_a_run_that_was_judged_otherwise_has_to_be_made_again(filled):
    path = filled.folder / "claims.csv"
    table = pd.read_csv(path, dtype=str).drop(columns=["like_paper"])
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match="no verdicts on sizes: make it again"):
        build_report(filled)


def test_parameters_stand_once_for_each_notebook(filled):
    html = build_report(filled).read_text(encoding="utf-8")
    assert html.count("<dt>preset</dt><dd>ci</dd>") == 1
    assert html.count("<dl") == 1
    assert ">02_attribution</th>" in html, "versions, by notebook"


def test_no_column_gets_a_name_that_it_does_not_have(run):
    table = pd.DataFrame({"": ["random"], "score": [0.5]})
    run.save_table("A-table-1", table, "A table.")
    html = build_report(run).read_text(encoding="utf-8")
    assert "Unnamed" not in html
    assert '<th></th><th class="number">score</th>' in html


def test_a_report_links_to_the_reports_beside_it(run, tmp_path):
    for name in ("with-report", "without-report", "to-come"):
        (tmp_path / name).mkdir()
    build_report("with-report", root=tmp_path)
    fill(run)
    html = build_report(run, together=["test", "to-come"]).read_text(encoding="utf-8")
    links = re.findall(r'href="\.\./([^"]+)/report\.html"', html)
    assert links == ["to-come", "with-report"]


def test_a_report_shows_what_its_preset_makes_and_what_is_there(tmp_path, untold):
    (tmp_path / "miniature").mkdir()
    build_report("miniature", root=tmp_path)
    preset = load_preset("miniature")
    mine = [e.id for e in load_exhibits().values() if preset.runs(e.notebook)]
    html = build_report("miniature", root=tmp_path).read_text(encoding="utf-8")
    assert LISTED.findall(html) == mine
    others = [e for e in load_exhibits().values() if not preset.runs(e.notebook)]
    for entry in others[:1]:
        table = Run("miniature", entry.notebook, {}, root=tmp_path, exhibits=untold)
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
