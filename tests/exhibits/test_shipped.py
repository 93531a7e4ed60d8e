"""The runs that come with the repository."""

from __future__ import annotations

import re

import pytest

from mmn_utils.exhibits.entries import FILES, SHIPPED, figures_root, load_exhibits
from mmn_utils.presets import load_preset
from tests.exhibits.rasters import MOST_DPI, raster_dpi

each_shipped_run = pytest.mark.parametrize("name", SHIPPED)


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
             for suffix in (*FILES[exhibit.kind], ".numbers.csv", ".json")}  # fmt: skip
    known |= {"claims.csv", "report.html"}
    assert {path.name for path in folder.iterdir()} <= known


@each_shipped_run
def test_no_picture_in_a_committed_pdf_is_finer_than_print_needs(name, monkeypatch):
    monkeypatch.delenv("MMN_FIGURES")
    for pdf in sorted((figures_root() / name).glob("*.pdf")):
        assert max(raster_dpi(pdf), default=0) <= MOST_DPI, pdf.name
