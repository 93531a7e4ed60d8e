"""A notebook with the outputs that a run's page shows."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode, v4

from mmn_utils.exhibits.pages import NOTEBOOKS
from mmn_utils.running.notebook_pages import Page

INJECTED = "injected-parameters"


def with_outputs(notebook: Path, run: Path, others: Sequence[str]) -> str:
    """Return a notebook as JSON, with the outputs of its page in the folder of a run.

    A cell whose code is another than the page's has none, nor has a notebook without a page;
    the notebook says so. ``others`` are runs whose pages it leads to.
    """
    found = nbformat.read(notebook, as_version=4)
    page = run / NOTEBOOKS / f"{notebook.stem}.html"
    shown = _sections(page) if page.is_file() else {}
    credits = Page(notebook.stem, run.name, run).credits if shown else []
    cells = [_note(notebook.stem, run.name, others, bool(shown), credits)]
    for cell in found.cells:
        cells.append(cell)
        section = shown.get(f"cell-{cell.id}")
        if cell.cell_type != "code" or section is None:
            continue
        if _code(section) == cell.source:
            cell.outputs = [_output(section, run.name)]
        if "parameters" in cell.metadata.get("tags", []) and f"cell-{INJECTED}" in shown:
            cells.append(_injected(shown[f"cell-{INJECTED}"]))
    cells[0], cells[1] = cells[1], cells[0]  # the title comes first
    return nbformat.writes(v4.new_notebook(cells=cells, metadata=found.metadata))


def _sections(page: Path) -> dict[str, Tag]:
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    return {section["id"]: section for section in soup.select("section.code")}


def _code(section: Tag) -> str:
    return section.select_one("pre code").get_text()


def _injected(section: Tag) -> NotebookNode:
    tags = {"tags": ["hide-input"]}
    return v4.new_code_cell(_code(section), id=INJECTED, metadata=tags)


def _output(section: Tag, run: str) -> NotebookNode:
    """Return a cell's outputs as one piece of HTML, whose links begin at the site's notebooks."""
    outputs = section.select_one(".outputs")
    for name in ("src", "href"):
        for tag in outputs.find_all(attrs={name: True}):
            if not urlsplit(tag[name]).scheme and not tag[name].startswith("#"):
                tag[name] = posixpath.normpath(f"../figures/{run}/{NOTEBOOKS}/{tag[name]}")
    html = f'<div class="outputs">{outputs.decode_contents()}</div>'
    return v4.new_output("display_data", {"text/html": html})


def _note(
    stem: str, run: str, others: Sequence[str], shown: bool, credits: Sequence[str]
) -> NotebookNode:
    """Return a line that says which run is shown, where the others are, and whose its pictures."""
    if not shown:
        text = f"Shown without outputs: the run `{run}` has no page of it; `make figures` makes it."
    else:
        report = f'<a href="../figures/{run}/report.html">{run}</a>'
        links = [f'<a href="../figures/{o}/{NOTEBOOKS}/{stem}.html">{o}</a>' for o in others]
        also = f" The same on {', '.join(links)}." if links else ""
        text = " ".join([f"Executed on the run {report}.{also}", *credits])
    return v4.new_markdown_cell(text, id="which-run")
