"""The runs that come with the repository."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from mmn_utils.exhibits.entries import FILES, SHIPPED, figures_root, load_exhibits
from mmn_utils.exhibits.pages import BROWSER, STANDALONE, notebook_pages
from mmn_utils.exhibits.provenance import VERSIONS
from mmn_utils.presets import load_preset, notebook_path
from mmn_utils.running.prose import python
from tests.exhibits.rasters import MOST_DPI, raster_dpi

LARGEST_PAGE = 400_000  # bytes
PICTURE = r'<img src="([^"]+)"'

each_shipped_run = pytest.mark.parametrize("name", SHIPPED)


def is_standalone(path: Path) -> bool:
    """Say whether a file is one that git ignores: a page with all it needs."""
    return path.stem.endswith(STANDALONE)


@each_shipped_run
def test_a_committed_run_has_every_exhibit_and_a_current_report(name, monkeypatch):
    monkeypatch.delenv("MMN_FIGURES")
    folder = figures_root() / name
    if not (folder / "report.html").is_file():
        pytest.skip(f"figures/{name} is not there; make it with 'make figures'")
    for exhibit in load_exhibits().values():
        if not load_preset(name).runs(exhibit.notebook):
            continue
        for suffix in (*FILES[exhibit.kind], ".numbers.csv", ".json"):
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
    if not folder.is_dir():
        pytest.skip(f"figures/{name} is not there; make it with 'make figures'")
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
    if not pages:
        pytest.skip(f"figures/{name}/notebooks is not there; make it with 'make figures'")
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
    for page in [folder / "report.html", *notebook_pages(folder)]:
        html = page.read_text("utf-8")
        assert len(html.encode()) < LARGEST_PAGE, page
        # the browser's still has its picture inside, as no exhibit is it
        assert html.count("base64") <= (page.stem == "07_neuron_browser")
        assert "site-packages" not in html, f"{page} shows a warning"
        for link in re.findall(r'(?:src|href)="(?!https:|data:|#)([^"#]+)', html):
            assert (page.parent / link).is_file(), f"{page} leads to {link}"
        ids = set(re.findall(r'\bid="([^"]+)"', html))
        assert set(re.findall(r'href="#([^"]+)"', html)) <= ids


@each_shipped_run
def test_no_picture_in_a_committed_pdf_is_finer_than_print_needs(name, monkeypatch):
    monkeypatch.delenv("MMN_FIGURES")
    for pdf in sorted((figures_root() / name).glob("*.pdf")):
        assert max(raster_dpi(pdf), default=0) <= MOST_DPI, pdf.name
