"""The report of a run: every exhibit on one page, with the pictures that lie beside it.

Beside each stand what the papers say with it and, from the ledger, what came out here. Everything
is read from the run's folder and from ``data/golden``; nothing is computed here. The page holds no
times and needs no script, so the same run gives the same bytes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from mmn_utils.datasets.published import published
from mmn_utils.exhibits.entries import ALL_FILES, PAPERS, Exhibit, figures_root, load_exhibits
from mmn_utils.exhibits.formats import format_number, png_size, write_text
from mmn_utils.exhibits.ledger import VERDICTS
from mmn_utils.exhibits.pages import BROWSER, TEMPLATES, notebook_pages
from mmn_utils.exhibits.provenance import VERSIONS, caveats, credits_of
from mmn_utils.exhibits.verdicts import (
    NO_FIGURE,
    OUR_CLAIMS,
    Said,
    counts,
    kinds,
    ledger_of,
    said,
)
from mmn_utils.presets import PRESETS, load_preset

TEMPLATE = "report.html.j2"
SHORT = 24  # letters
HALF = 64  # letters that a line has beside an exhibit's words
TALL = 0.7  # height over width above which a picture would be small there
SHOWN_ROWS = 24  # of the numbers beneath an exhibit; all of them are in the file
NAMES = {".pdf": "PDF", ".png": "PNG", ".tex": "LaTeX", ".md": "Markdown", ".json": "record",
         ".numbers.csv": "numbers", ".csv": "CSV"}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    text: str
    number: bool

    @property
    def kind(self) -> str:
        """How it is laid out: a number, a short text that stays on its line, or any other."""
        return "number" if self.number else "short" if len(self.text) <= SHORT else ""


@dataclass(frozen=True)
class Table:
    """A table ready to be shown; ``rows`` hold ``Cell``, the first of ``total`` rows."""

    columns: list[Cell]
    rows: list[list[Cell]]
    total: int

    @property
    def letters(self) -> int:
        """How wide it is: the letters of a line, where no column needs more than ``SHORT``."""
        lines = [self.columns, *self.rows]
        return sum(
            max(min(len(cell.text), SHORT) for cell in some) + 2
            for some in zip(*lines, strict=True)
        )


@dataclass(frozen=True)
class Shown:
    """An exhibit as the page shows it; one that the run lacks has only its entry."""

    entry: Exhibit
    record: dict[str, Any] | None = None
    size: tuple[int, int] = (0, 0)
    files: dict[str, str] = field(default_factory=dict)  # by name
    table: Table | None = None
    numbers: Table | None = None
    paper: Table | None = None
    said: list[Said] = field(default_factory=list)

    @property
    def wide(self) -> bool:
        """Whether it needs the whole page: half cuts its table, or makes its print too small."""
        wide = self.table is not None and self.table.letters > HALF
        return wide or self.size[1] > TALL * self.size[0]

    @property
    def left_out(self) -> str:
        """Why the run left it out, "" where it did not."""
        return (self.record or {}).get("left_out", "")


@dataclass(frozen=True)
class Origin:
    """What the exhibits of one notebook have in common."""

    notebook: str
    exhibits: list[str]
    record: dict[str, Any]


def render(folder: Path, beside: Sequence[str] = ()) -> str:
    """Return the HTML of the run in ``folder``, with links to the runs ``beside`` it.

    ValueError where there is no such run.
    """
    if not folder.is_dir():
        raise ValueError(f"no run in {folder}; make one with 'make figures'")
    ledger = ledger_of(folder.name, folder.parent)
    entries = _entries(folder)
    made = [entry for entry in entries if (folder / f"{entry.id}.json").is_file()]
    shown = [_show(folder, entry, ledger) for entry in made]
    known = {
        "run": folder.name,
        "beside": list(beside),
        "browser": BROWSER if (folder / BROWSER).is_file() else None,
        "notebooks": [path.stem for path in notebook_pages(folder)],
        "papers": _by_paper(shown),
        "left_out": [exhibit.entry for exhibit in shown if exhibit.left_out],
        "missing": [entry for entry in entries if entry not in made],
        "said": said(ledger),
        "counts": {kind: counts(part) for kind, part in kinds(ledger).items()},
        "verdicts": VERDICTS,
        "ours": OUR_CLAIMS,
        "no_figure": NO_FIGURE,
        "origins": _origins(shown),
        "caveats": caveats(exhibit.record for exhibit in shown),
        "credits": credits_of(exhibit.record for exhibit in shown),
        "versions": _read(folder / VERSIONS) if (folder / VERSIONS).is_file() else None,
        "total": len(entries),
    }
    return _environment().get_template(TEMPLATE).render(known)


def _entries(folder: Path) -> list[Exhibit]:
    """List the exhibits that belong on the page: what the run's preset makes, and what is there.

    All of them for a run that is called like no preset.
    """
    every = list(load_exhibits().values())
    if not (PRESETS / f"{folder.name}.yaml").is_file():
        return every
    preset = load_preset(folder.name)
    there = {path.stem for path in folder.glob("*.json")}
    return [entry for entry in every if preset.runs(entry.notebook) or entry.id in there]


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _by_paper(shown: list[Shown]) -> list[tuple[str, str, list[Shown]]]:
    groups = [
        (key, title, [exhibit for exhibit in shown if exhibit.entry.paper == key])
        for key, title in PAPERS.items()
    ]
    return [group for group in groups if group[2]]


def _origins(shown: list[Shown]) -> list[Origin]:
    """Gather the exhibits by the notebook that made them, in the notebooks' order."""
    by_notebook: dict[str, Origin] = {}
    for exhibit in sorted(shown, key=lambda one: one.record["notebook"]):
        name = exhibit.record["notebook"]
        origin = by_notebook.setdefault(name, Origin(name, [], exhibit.record))
        origin.exhibits.append(exhibit.entry.id)
    return list(by_notebook.values())


def _show(folder: Path, entry: Exhibit, ledger: pd.DataFrame) -> Shown:
    record = json.loads((folder / f"{entry.id}.json").read_text(encoding="utf-8"))
    told = said(ledger[ledger["exhibit"] == entry.id])
    if record.get("left_out"):
        files = {NAMES[".json"]: f"{entry.id}.json"}
        return Shown(entry, record, files=files, paper=_paper(entry, record), said=told)
    picture, numbers = folder / f"{entry.id}.png", folder / f"{entry.id}.numbers.csv"
    files = [end for end in ALL_FILES if (folder / f"{entry.id}{end}").is_file()]
    return Shown(
        entry,
        record,
        size=png_size(picture.read_bytes()) if entry.kind == "figure" else (0, 0),
        files={NAMES[end]: f"{entry.id}{end}" for end in files},
        table=_read(folder / f"{entry.id}.csv") if entry.kind == "table" else None,
        numbers=_read(numbers, SHOWN_ROWS),
        paper=_paper(entry, record),
        said=told,
    )


def _paper(entry: Exhibit, record: dict[str, Any]) -> Table | None:
    """Return the paper's own numbers: those that the run recorded, or those of the exhibit."""
    if record["paper"] is not None:
        printed = record["paper"]
        return _table(pd.DataFrame(printed["rows"], columns=printed["columns"]))
    printed = published(entry.id)
    return None if printed is None else _table(printed)


def _read(path: Path, most: int | None = None) -> Table:
    """Read a CSV with its columns named as they are: pandas would name a blank one itself."""
    with path.open(newline="", encoding="utf-8") as file:
        columns, *rows = csv.reader(file)
    return _table(pd.DataFrame(rows, columns=columns), most)


def _table(frame: pd.DataFrame, most: int | None = None) -> Table:
    total, frame = len(frame), frame.head(most or len(frame)).map(format_number)
    numeric = [_is_numeric(frame.iloc[:, place]) for place in range(frame.shape[1])]
    columns = [Cell(str(name), number) for name, number in zip(frame.columns, numeric, strict=True)]
    rows = [
        [
            Cell(_short(text) if number else text, number)
            for text, number in zip(row, numeric, strict=True)
        ]
        for row in frame.itertuples(index=False, name=None)
    ]
    return Table(columns, rows, total)


def _is_numeric(texts: pd.Series) -> bool:
    """Whether all of a column's texts are numbers, but for blanks."""
    filled = texts[texts != ""]
    return bool(len(filled)) and pd.to_numeric(filled, errors="coerce").notna().all()


def _short(text: str) -> str:
    """Cut a number's text to four significant digits; whole numbers stay whole."""
    return text if not text or text.lstrip("-").isdigit() else format_number(float(text), 4)


def build_report(run: Any, root: str | Path | None = None, together: Sequence[str] = ()) -> Path:
    """Write ``report.html`` of a run; return its path.

    It links to the reports of other runs beside it: those that are there, and those of
    the runs ``together`` with which it is built.
    """
    folder = getattr(run, "folder", None) or Path(root or figures_root()) / run
    path = folder / "report.html"
    beside = {other.parent.name for other in folder.parent.glob("*/report.html")}
    write_text(path, render(folder, sorted((beside | set(together)) - {folder.name})))
    return path
