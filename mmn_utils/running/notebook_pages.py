"""An executed notebook as a page of its run, to be read without running anything.

    python -m mmn_utils.running.notebook_pages RUN ...    from the executed copies in build/RUN

The page lies in ``figures/<run>/notebooks``. A picture that is an exhibit is the exhibit's own
file; any other is written beside the page. The page holds no times, no counters and no bars of
progress, so the same results give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from nbconvert.exporters import TemplateExporter
from nbconvert.filters import ansi2html
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from mmn_utils.cache import BAR
from mmn_utils.commands import refusing
from mmn_utils.exhibits.entries import exhibits_of, figures_root, load_exhibits
from mmn_utils.exhibits.formats import compress_png, png_size, write_bytes, write_text
from mmn_utils.exhibits.pages import NOTEBOOKS, TEMPLATES, forget_page
from mmn_utils.exhibits.provenance import caveats, credits_of
from mmn_utils.presets import PRESETS, check_run_name, from_root, load_preset
from mmn_utils.running.prose import headings, markdown, python

OWN_TEMPLATES = Path(__file__).parent / "templates"
INJECTED = "injected-parameters"  # papermill's tag
LINKED = (".pdf", ".tex", ".numbers.csv")  # files of an exhibit that is shown


@dataclass
class Page:
    """What the template knows of a page beside its cells, and the pictures that it takes.

    ``pictures`` are those that are no exhibits, by the name of their file; ``exhibits`` are
    those that were shown so far.
    """

    name: str
    run: str
    folder: Path
    title: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    exhibits: set[str] = field(default_factory=set)

    @property
    def caveats(self) -> list[str]:
        """What is to be said of its numbers first, as the exhibits that it made record it."""
        return caveats(self._records())

    @property
    def credits(self) -> list[str]:
        """What is to be said of whose its pictures are, as those exhibits record it."""
        return credits_of(self._records())

    def _records(self) -> Iterator[dict[str, Any]]:
        paths = [self.folder / f"{one.id}.json" for one in exhibits_of(self.name)]
        there = [path for path in paths if path.is_file()]
        return (json.loads(path.read_text(encoding="utf-8")) for path in there)

    @property
    def neighbours(self) -> list[tuple[str, str]]:
        """The notebooks before and after it on the run's preset, each with its arrow."""
        if not (PRESETS / f"{self.run}.yaml").is_file():
            return []
        known = sorted({exhibit.notebook for exhibit in load_exhibits().values()})
        stems = load_preset(self.run).chosen(known)
        before = [(stem, "←") for stem in stems if stem < self.name][-1:]
        return before + [(stem, "→") for stem in stems if stem > self.name][:1]


def write_page(executed: Path, run: str, root: str | Path | None = None) -> Path:
    """Write an executed notebook as a page of its run; return the page's path.

    ValueError where it stopped in a cell: only what ran to its end becomes a page.
    """
    notebook = nbformat.read(executed, as_version=4)
    if any(output.output_type == "error" for cell in notebook.cells for output in _outputs(cell)):
        raise ValueError(f"{executed} stopped in a cell; run it again and then make its page")
    page = Page(executed.stem, run, Path(root or figures_root()) / run)
    html = render(notebook, page)
    forget_page(page.folder, page.name)
    place = page.folder / NOTEBOOKS
    for name, content in page.pictures.items():
        write_bytes(place / name, content)
    write_text(place / f"{page.name}.html", html)
    return place / f"{page.name}.html"


def render(notebook: NotebookNode, page: Page) -> str:
    """Return an executed notebook as HTML; pictures that are no exhibits go into ``page``."""
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    html = "".join(map(markdown, prose))
    page.title = next((text for _, text in headings(html, 1)), page.name)
    page.sections = headings(html, 2)
    exporter = TemplateExporter(
        file_extension=".html",
        template_name="page",
        extra_template_basedirs=[str(OWN_TEMPLATES)],
        extra_loaders=[jinja2.FileSystemLoader(TEMPLATES)],
        preprocessors=[CoalesceStreamsPreprocessor],
    )
    for name, filter in _filters(page).items():
        exporter.register_filter(name, filter)
    exporter.environment.globals["page"] = page
    exporter.environment.trim_blocks = exporter.environment.lstrip_blocks = True
    return exporter.from_notebook_node(notebook)[0]


def _filters(page: Page):
    return {
        "prose": markdown,
        "code": python,
        "anchor": _anchor,
        "shown": lambda output: _output(output, page),
    }


def _outputs(cell: NotebookNode) -> list[NotebookNode]:
    return cell.get("outputs", [])


def _anchor(cell: NotebookNode) -> str:
    """Return a cell's address; papermill names the one that it adds at random."""
    added = INJECTED in cell.metadata.get("tags", [])
    return f"cell-{INJECTED if added else cell.id}"


def _output(output: NotebookNode, page: Page) -> str:
    if output.output_type == "stream":
        text = BAR.sub("", output.text).rstrip()
        shown = f'<pre class="output stream {output.name}">{ansi2html(text)}</pre>'
        return shown if text else ""
    data = output.data
    exhibit = data.get("text/plain", "")
    if "image/png" in data:
        body = _picture(base64.b64decode(data["image/png"]), exhibit, page)
    elif "text/html" in data:
        body = f'<div class="scroll">{_without_style(data["text/html"])}</div>'
    elif "text/markdown" in data:
        body = markdown(data["text/markdown"])
    else:
        body = f'<pre class="scroll">{escape(exhibit)}</pre>'
    return f'<div class="output"{_address(exhibit, page)}>\n{body}{_origin(exhibit, page)}</div>'


def _address(exhibit: str, page: Page) -> str:
    """Return the attribute by which the report finds an exhibit, where it is shown first."""
    if exhibit not in load_exhibits() or exhibit in page.exhibits:
        return ""
    page.exhibits.add(exhibit)
    return f' id="{exhibit}"'


def _without_style(html: str) -> str:
    """Return a table without the look that pandas gives it: it has the page's."""
    return re.sub(r"<style.*?</style>\s*", "", html, flags=re.DOTALL)


def _picture(content: bytes, exhibit: str, page: Page) -> str:
    """Return what shows a picture: the exhibit's own file, or one that is now the page's."""
    own = page.folder / f"{exhibit}.png"
    if exhibit in load_exhibits() and own.is_file() and own.read_bytes() == content:
        source, what = f"../{own.name}", load_exhibits()[exhibit].title
    else:
        what = f"Picture {len(page.pictures) + 1} of {page.name}"
        source = f"{page.name}-{len(page.pictures) + 1}.png"
        page.pictures[source] = compress_png(content)
    width, height = png_size(content)
    size = f'width="{width}" height="{height}" loading="lazy"'
    return f'<figure><img src="{source}" {size} alt="{escape(what)}"></figure>\n'


def _origin(exhibit: str, page: Page) -> str:
    """Return links from an exhibit that is shown to the report and to its files."""
    if exhibit not in load_exhibits() or not (page.folder / f"{exhibit}.json").is_file():
        return ""
    links = [f'<a href="../report.html#{exhibit}">{exhibit} in the report</a>']
    links += [
        f'<a href="../{exhibit}{suffix}">{suffix[1:]}</a>'
        for suffix in LINKED
        if (page.folder / f"{exhibit}{suffix}").is_file()
    ]
    return f'<p class="origin" data-beside>{", ".join(links)}</p>\n'


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages of some runs' executed notebooks again."""
    parser = argparse.ArgumentParser(
        prog="python -m mmn_utils.running.notebook_pages", description=main.__doc__
    )
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--output-root", default="build", help="where executed copies are")
    chosen = parser.parse_args(arguments)
    for run in map(check_run_name, chosen.runs):
        copies = sorted((from_root(chosen.output_root) / run / "notebooks").glob("*.ipynb"))
        if not copies:
            raise ValueError(f"no executed notebook of {run}; run some with 'make figures'")
        for executed in copies:
            print(os.path.relpath(write_page(executed, run)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
