"""The report of a run: every exhibit on one page, with the pictures that lie beside it.

Everything is read from the run's folder and from ``data/golden``; nothing is computed
here. The page holds no times, so the same run gives the same bytes.
"""

from __future__ import annotations

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
from mmn_utils.exhibits.ledger import VERDICTS, claims
from mmn_utils.exhibits.pages import BROWSER, TEMPLATES, notebook_pages
from mmn_utils.presets import PRESETS, load_preset

TEMPLATE = "report.html.j2"
MANY_ROWS = 12  # longer tables of numbers are folded
SHOWN_ROWS = 60  # and of still longer ones the first are shown


@dataclass(frozen=True)
class Cell:
    text: str
    number: bool


@dataclass(frozen=True)
class Table:
    """A table ready to be shown; ``rows`` hold ``Cell``, the first of ``total`` rows."""

    columns: list[Cell]
    rows: list[list[Cell]]
    total: int

    @property
    def long(self) -> bool:
        return len(self.rows) > MANY_ROWS


@dataclass(frozen=True)
class Shown:
    """An exhibit as the page shows it; one that the run lacks has only its entry."""

    entry: Exhibit
    record: dict[str, Any] | None = None
    size: tuple[int, int] = (0, 0)
    files: tuple[str, ...] = ()
    table: Table | None = None
    numbers: Table | None = None
    paper: Table | None = None
    claims: list[dict[str, str]] = field(default_factory=list)


def render(folder: Path, beside: Sequence[str] = ()) -> str:
    """Return the HTML of the run in ``folder``, with links to the runs ``beside`` it.

    ValueError where there is no such run.
    """
    if not folder.is_dir():
        raise ValueError(f"no run in {folder}; make one with 'make figures'")
    ledger = _claims(folder)
    shown = [_show(folder, entry, ledger) for entry in _entries(folder)]
    made = [exhibit.record for exhibit in shown if exhibit.record]
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            run=folder.name,
            beside=list(beside),
            browser=BROWSER if (folder / BROWSER).is_file() else None,
            notebooks=sorted(path.stem for path in notebook_pages(folder)),
            papers=_by_paper(shown),
            claims=ledger,
            verdicts=_count_verdicts(ledger),
            made=len(made),
            total=len(shown),
            origin=made[0] if made else None,
        )
    )


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


def _claims(folder: Path) -> list[dict[str, str]]:
    rows = claims(folder.name, folder.parent).to_dict("records")
    return [
        {
            **row,
            **{name: format_number(row[name], 4) for name in ("value", "ci_low", "ci_high", "n")},
        }
        for row in rows
    ]


def _count_verdicts(ledger: list[dict[str, str]]) -> dict[str, int]:
    return {
        verdict: sum(row["holds"] == verdict for row in ledger) for verdict in VERDICTS.values()
    }


def _by_paper(shown: list[Shown]) -> list[tuple[str, str, list[Shown]]]:
    groups = [
        (key, title, [exhibit for exhibit in shown if exhibit.entry.paper == key])
        for key, title in PAPERS.items()
    ]
    return [group for group in groups if group[2]]


def _show(folder: Path, entry: Exhibit, ledger: list[dict[str, str]]) -> Shown:
    path = folder / f"{entry.id}.json"
    paper = published(entry.id)
    printed = None if paper is None else _table(paper)
    if not path.is_file():
        return Shown(entry, paper=printed)
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["paper"] is not None:
        printed = _table(pd.DataFrame(record["paper"]["rows"], columns=record["paper"]["columns"]))
    picture = folder / f"{entry.id}.png"
    return Shown(
        entry,
        record,
        size=png_size(picture.read_bytes()) if entry.kind == "figure" else (0, 0),
        files=tuple(end for end in ALL_FILES if (folder / f"{entry.id}{end}").is_file()),
        table=_read(folder / f"{entry.id}.csv") if entry.kind == "table" else None,
        numbers=_read(folder / f"{entry.id}.numbers.csv", SHOWN_ROWS),
        paper=printed,
        claims=[row for row in ledger if row["exhibit"] == entry.id],
    )


def _read(path: Path, most: int | None = None) -> Table:
    return _table(pd.read_csv(path, dtype=str, keep_default_na=False), most)


def _table(frame: pd.DataFrame, most: int | None = None) -> Table:
    total, frame = len(frame), frame.head(most or len(frame)).map(format_number)
    numeric = [_is_numeric(frame[column]) for column in frame.columns]
    columns = [Cell(str(name), number) for name, number in zip(frame.columns, numeric, strict=True)]
    rows = [
        [
            Cell(_short(text) if number else text, number)
            for text, number in zip(row, numeric, strict=True)
        ]
        for row in frame.itertuples(index=False)
    ]
    return Table(columns, rows, total)


def _is_numeric(texts: pd.Series) -> bool:
    return bool(len(texts)) and pd.to_numeric(texts, errors="coerce").notna().all()


def _short(text: str) -> str:
    """Cut a number's text to four significant digits; whole numbers stay whole."""
    return text if text.lstrip("-").isdigit() else format_number(float(text), 4)


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
