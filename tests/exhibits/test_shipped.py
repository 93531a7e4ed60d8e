"""The runs that come with the repository."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import nbformat
import pytest

from mmn_utils.datasets.stamps import Credits
from mmn_utils.exhibits.entries import FILES, SHIPPED, figures_root, load_exhibits, shipped
from mmn_utils.exhibits.pages import BROWSER, STANDALONE, notebook_pages
from mmn_utils.exhibits.provenance import VERSIONS
from mmn_utils.exhibits.verdicts import left_out
from mmn_utils.presets import ROOT, load_preset, notebook_path
from mmn_utils.running.prose import python
from tests.exhibits.rasters import MOST_DPI, raster_dpi

LARGEST_PAGE = 400_000  # bytes
LARGEST_ON_A_REPORT = 18_000  # bytes that an exhibit takes there, all in all
PICTURE = r'<img src="([^"]+)"'

each_shipped_run = pytest.mark.parametrize("name", shipped(ROOT / "figures"))


def is_standalone(path: Path) -> bool:
    """Say whether a file is one that git ignores: a page with all it needs."""
    return path.stem.endswith(STANDALONE)


def test_every_shipped_run_is_there():
    absent = sorted(set(SHIPPED) - set(shipped(ROOT / "figures")))
    assert not absent, f"make them with: make figures PRESET={' '.join(absent)!r}"


@each_shipped_run
def test_a_committed_run_has_every_exhibit_and_a_current_report(name, monkeypatch):
    monkeypatch.delenv("MMN_FIGURES")
    folder = figures_root() / name
    for exhibit in load_exhibits().values():
        if not load_preset(name).runs(exhibit.notebook):
            continue
        made = (*FILES[exhibit.kind], ".numbers.csv", ".json")
        for suffix in (".json",) if left_out(exhibit, name, folder.parent) else made:
            assert (folder / f"{exhibit.id}{suffix}").is_file(), exhibit.id + suffix
    from mmn_utils.exhibits.report import render

    html = (folder / "report.html").read_text(encoding="utf-8")
    beside = re.findall(r'href="\.\./([^"]+)/report\.html"', html)
    assert render(folder, beside) == html
    assert all((folder.parent / other / "report.html").is_file() for other in beside)


@each_shipped_run
def test_nothing_in_a_committed_run_is_an_orphan(name, monkeypatch):
    monkeypatch.delenv("MMN_FIGURES")
    folder = figures_root() / name
    known = {id + suffix for id, exhibit in load_exhibits().items()
             for suffix in (*FILES[exhibit.kind], ".csv", ".numbers.csv", ".json")}  # fmt: skip
    known |= {"claims.csv", VERSIONS, "report.html", BROWSER, "notebooks"}
    assert {path.name for path in folder.iterdir() if not is_standalone(path)} <= known
    pages = notebook_pages(folder)
    shown = {source for page in pages for source in re.findall(PICTURE, page.read_text("utf-8"))}
    known = {page.name for page in pages} | {name for name in shown if "/" not in name}
    there = (folder / "notebooks").glob("*")
    assert {path.name for path in there if not is_standalone(path)} == known


@each_shipped_run
def test_each_notebook_of_a_committed_run_has_a_page_of_its_present_code(name, monkeypatch):
    monkeypatch.delenv("MMN_FIGURES")
    pages = {page.stem: page for page in notebook_pages(figures_root() / name)}
    notebooks = {exhibit.notebook for exhibit in load_exhibits().values()}
    assert set(pages) == set(load_preset(name).chosen(sorted(notebooks)))
    for stem, page in pages.items():
        html = page.read_text("utf-8")
        for cell in nbformat.read(notebook_path(stem), as_version=4).cells:
            if cell.cell_type == "code":
                shown = (
                    f'id="cell-{cell.id}">\n<div class="source"><pre><code>{python(cell.source)}<'
                )
                assert shown in html, f"{stem} was changed since it ran: 'make figures'"


@each_shipped_run
def test_pages_of_a_committed_run_are_small_and_lead_to_what_is_there(name, monkeypatch):
    monkeypatch.delenv("MMN_FIGURES")
    folder = figures_root() / name
    exhibits = sum(load_preset(name).runs(one.notebook) for one in load_exhibits().values())
    report = folder / "report.html"
    for page in [report, *notebook_pages(folder)]:
        html = page.read_text("utf-8")
        largest = LARGEST_ON_A_REPORT * exhibits if page == report else LARGEST_PAGE
        assert len(html.encode()) < largest, page
        # the browser's still has its picture inside, as no exhibit is it
        assert html.count("base64") <= (page.stem == "07_neuron_browser")
        assert "site-packages" not in html, f"{page} shows a warning"
        for link in re.findall(r'(?:src|href)="(?!https:|data:|#)([^"#]+)', html):
            assert (page.parent / link).is_file(), f"{page} leads to {link}"
        ids = set(re.findall(r'\bid="([^"]+)"', html))
        assert set(re.findall(r'href="#([^"]+)"', html)) <= ids


@each_shipped_run
def test_pages_of_a_committed_run_say_whose_its_pictures_are(name, monkeypatch):
    monkeypatch.delenv("MMN_FIGURES")
    folder = figures_root() / name
    theirs = load_preset(name).settings.get("dataset") == "stamps"
    for page in [folder / "report.html", *notebook_pages(folder)]:
        text = unescape(page.read_text("utf-8"))
        assert text.count(Credits().notice) == theirs, page


@each_shipped_run
def test_no_picture_in_a_committed_pdf_is_finer_than_print_needs(name, monkeypatch):
    monkeypatch.delenv("MMN_FIGURES")
    for pdf in sorted((figures_root() / name).glob("*.pdf")):
        assert max(raster_dpi(pdf), default=0) <= MOST_DPI, pdf.name
