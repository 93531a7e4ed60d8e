"""Exhibits: figures and tables with their numbers, their claims and their origin.

``notebooks/exhibits.yaml`` is the one list of all exhibits. A notebook opens a ``Run``
and saves into it by exhibit id; everything lands in ``figures/<run>/``:

    <id>.png <id>.pdf            of a figure
    <id>.csv <id>.tex <id>.md    of a table
    <id>.numbers.csv             the plotted or tabulated numbers
    <id>.json                    caption and provenance
    claims.csv                   what the papers state and what was measured
    report.html                  all of it on one page

Bytes are deterministic: same numbers, same files. Only the JSON holds times.

    python -m mmn_utils.exhibits report RUN ...    rebuild figures/RUN/report.html
    python -m mmn_utils.exhibits readme            rewrite the README's table of exhibits
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mmn_utils.cache import atomic, locked
from mmn_utils.presets import (
    NOTEBOOKS,
    ROOT,
    check_run_name,
    data_path,
    load_preset,
    load_yaml,
)
from mmn_utils.provenance import provenance

if TYPE_CHECKING:  # who only looks exhibits up needs no matplotlib
    from matplotlib.figure import Figure

LIST = NOTEBOOKS / "exhibits.yaml"
FILES = {"figure": (".png", ".pdf"), "table": (".csv", ".tex", ".md")}
ALL_FILES = (*FILES["figure"], *FILES["table"], ".numbers.csv", ".json")
PAPERS = {
    "A": "Multimodal Neurons in Pretrained Text-Only Transformers",
    "B": "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers",
    "C": "Beyond the papers",
}
CLAIM_COLUMNS = [
    "id",
    "exhibit",
    "paper",
    "claim",
    "paper_value",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "holds",
]
VERDICTS = {True: "yes", False: "no", None: "not tested"}
EXHIBIT_ID = re.compile(r"([A-Z])-[A-Za-z0-9-]+")
# Presets of the same name whose runs come with the repository; the first that makes an
# exhibit shows it in the README.
SHIPPED = ("miniature", "miniature-llava", "miniature-instructblip", "miniature-mplug_owl2")
PNG_DPI = 160
README_BEGIN = "<!-- exhibits:begin -->"
README_END = "<!-- exhibits:end -->"


# --- the list --------------------------------------------------------------------------


@dataclass(frozen=True)
class Exhibit:
    """One entry of ``exhibits.yaml``.

    Attributes:
        id: paper, kind and number, such as ``A-fig-5``.
        kind: ``figure`` or ``table``.
        notebook: stem of the notebook that makes it.
        paper: ``A``, ``B``, or ``C`` for what neither paper has.
        title: a few words.
        claim: what the paper says with it, in our own words; one sentence.
    """

    id: str
    kind: str
    notebook: str
    paper: str
    title: str
    claim: str


def load_exhibits(path: str | Path | None = None) -> dict[str, Exhibit]:
    """Read the list of exhibits, keyed by id, in the order of the papers."""
    return _load_exhibits(Path(path or LIST))


@lru_cache(maxsize=8)
def _load_exhibits(path: Path) -> dict[str, Exhibit]:
    found: dict[str, Exhibit] = {}
    for entry in load_yaml(path):
        exhibit = _exhibit(entry, path)
        if exhibit.id in found:
            raise ValueError(f"{path}: exhibit {exhibit.id} is listed twice")
        found[exhibit.id] = exhibit
    return found


def _exhibit(entry: dict[str, Any], path: Path) -> Exhibit:
    try:
        exhibit = Exhibit(**entry)
    except TypeError as error:
        raise ValueError(f"{path}: {entry!r}: {error}") from None
    if not all(isinstance(value, str) and value.strip() for value in entry.values()):
        raise ValueError(f"{path}: every field of {entry.get('id')} must be text, and not empty")
    match = EXHIBIT_ID.fullmatch(exhibit.id)
    if not match or match[1] != exhibit.paper or exhibit.paper not in PAPERS:
        raise ValueError(f"{path}: id {exhibit.id!r} must begin with its paper, {exhibit.paper!r}")
    if exhibit.kind not in FILES:
        raise ValueError(f"{path}: kind of {exhibit.id} is {exhibit.kind!r}; figure or table?")
    return exhibit


def exhibits_of(notebook: str | Path, path: str | Path | None = None) -> list[Exhibit]:
    """Return the exhibits that a notebook makes."""
    stem = Path(notebook).stem
    return [exhibit for exhibit in load_exhibits(path).values() if exhibit.notebook == stem]


def made_exhibits(run: str, notebook: str | Path, root: str | Path | None = None) -> list[str]:
    """Return the ids of a notebook's exhibits that a run has."""
    folder = Path(root or figures_root()) / run
    return [
        exhibit.id for exhibit in exhibits_of(notebook) if (folder / f"{exhibit.id}.json").is_file()
    ]


def figures_root() -> Path:
    """Return the folder of all runs: ``figures``, or what ``MMN_FIGURES`` names."""
    return Path(os.environ.get("MMN_FIGURES") or ROOT / "figures")


def golden(exhibit: str) -> pd.DataFrame | None:
    """Return the paper's own numbers for an exhibit, or None where it prints none."""
    path = data_path("golden", f"{exhibit}.csv")
    return pd.read_csv(path, keep_default_na=False) if path.is_file() else None


# --- a run -----------------------------------------------------------------------------


class Run:
    """The exhibits of one preset, as one notebook adds to them."""

    def __init__(
        self,
        name: str,
        notebook: str | Path,
        parameters: Mapping[str, Any],
        model: Any = None,
        data: Any = None,
        seed: int = 0,
        root: str | Path | None = None,
        exhibits: str | Path | None = None,
    ):
        """Open the run ``name`` for ``notebook``.

        ``parameters`` are recorded as they are; ``model`` and ``data`` by their name and
        revision (``provenance.describe``). ``exhibits`` names another list of exhibits.
        """
        self.name = check_run_name(name)
        self.notebook = Path(notebook).stem
        self.parameters = dict(parameters)
        self.model, self.data, self.seed = model, data, seed
        self.folder = Path(root or figures_root()) / name
        self._list = exhibits
        self._begun = time.monotonic()
        self._provenance()  # what cannot be recorded is an error now, not after the work

    def save_figure(
        self,
        id: str,
        fig: Figure,
        numbers: pd.DataFrame,
        caption: str,
        paper: pd.DataFrame | None = None,
    ) -> Path:
        """Write a figure as PNG and PDF, its plotted numbers and its origin; return the PNG."""
        self._check(id, "figure", caption)
        png = self.folder / f"{id}.png"
        write_figure(fig, png)
        self._write_rest(id, numbers, caption, paper)
        return png

    def save_table(
        self,
        id: str,
        table: pd.DataFrame,
        caption: str,
        numbers: pd.DataFrame | None = None,
        paper: pd.DataFrame | None = None,
    ) -> Path:
        """Write a table as CSV, LaTeX and Markdown, its numbers and its origin; return the CSV.

        ``numbers`` are what the table was made from, by default the table itself.
        """
        self._check(id, "table", caption)
        texts = {
            ".csv": to_csv(table),
            ".md": to_markdown(table),
            ".tex": to_latex(table, caption, id),
        }
        for suffix, text in texts.items():
            write_text(self.folder / f"{id}{suffix}", text)
        self._write_rest(id, table if numbers is None else numbers, caption, paper)
        return self.folder / f"{id}.csv"

    def claim(
        self,
        id: str,
        exhibit: str,
        paper: str = "A",
        *,
        claim: str,
        paper_value: str | float,
        value: float | None,
        ci: tuple[float, float] | None = None,
        n: int | None = None,
        holds: bool | None = None,
    ) -> str:
        """Enter what a paper states, what was measured, and the computed verdict; return it.

        ``value`` with its interval ``ci`` over ``n`` cases; ``holds`` is a comparison's
        result, or None for not tested. A claim of the same id is replaced.
        """
        self._check(exhibit)
        row = _claim_row(id, exhibit, paper, claim, paper_value, value, ci, n, holds)
        with locked(self.folder):  # notebooks of one run may write claims at the same time
            _write_claims(self.folder, [*_claim_rows(self.folder, without={id}), row])
        return row["holds"]

    def _check(self, id: str, kind: str | None = None, caption: str | None = None) -> None:
        known = load_exhibits(self._list)
        if id not in known:
            raise ValueError(f"exhibit {id!r} is not in exhibits.yaml: {', '.join(known)}")
        exhibit = known[id]
        if exhibit.notebook != self.notebook:
            raise ValueError(f"{id} belongs to {exhibit.notebook}, not to {self.notebook}")
        if kind not in (None, exhibit.kind):
            raise ValueError(f"{id} is a {exhibit.kind}; save it with save_{exhibit.kind}")
        if caption is not None and not caption.strip():
            raise ValueError(f"{id} needs a caption")

    def _provenance(self) -> dict[str, Any]:
        origin = provenance(
            self.notebook,
            self.parameters,
            model=self.model,
            data=self.data,
            seed=self.seed,
            begun=self._begun,
        )
        to_json(origin)
        return origin

    def _write_rest(
        self, id: str, numbers: pd.DataFrame, caption: str, paper: pd.DataFrame | None
    ) -> None:
        write_text(self.folder / f"{id}.numbers.csv", to_csv(numbers))
        record = {
            "id": id,
            "run": self.name,
            "caption": " ".join(caption.split()),
            "paper": None if paper is None else _records(paper),
            **self._provenance(),
        }
        write_text(self.folder / f"{id}.json", to_json(record))


def forget(run: str, notebook: str | Path, root: str | Path | None = None) -> None:
    """Remove a notebook's exhibits and claims from a run, so that none outlives its cell."""
    folder = Path(root or figures_root()) / check_run_name(run)
    if not folder.is_dir():
        return
    ids = {exhibit.id for exhibit in exhibits_of(notebook)}
    for id in ids:
        for suffix in ALL_FILES:
            (folder / f"{id}{suffix}").unlink(missing_ok=True)
    with locked(folder):
        rows = _claim_rows(folder)
        kept = [row for row in rows if row["exhibit"] not in ids]
        if len(kept) < len(rows):
            _write_claims(folder, kept)


# --- claims ----------------------------------------------------------------------------


def claims(run: Run | str, root: str | Path | None = None) -> pd.DataFrame:
    """Return the claims of a run: texts as str, numbers as float with NaN where none is."""
    folder = run.folder if isinstance(run, Run) else Path(root or figures_root()) / run
    table = pd.DataFrame(_claim_rows(folder), columns=CLAIM_COLUMNS)
    for column in ("value", "ci_low", "ci_high", "n"):
        table[column] = pd.to_numeric(table[column].where(table[column] != "")).astype(float)
    return table


def _claim_row(id, exhibit, paper, claim, paper_value, value, ci, n, holds) -> dict[str, str]:
    """Return one row of the ledger as text; ValueError where something was typed, not computed."""
    if not id.startswith(f"{paper}-"):
        raise ValueError(f"claim id {id!r} must begin with its paper: {paper}-…")
    if not (holds is None or isinstance(holds, bool | np.bool_)):
        raise ValueError(f"claim {id}: holds = {holds!r} must be a computed truth value or None")
    if ci is not None and not ci[0] <= ci[1]:
        raise ValueError(f"claim {id}: the interval {ci!r} must be (low, high)")
    if holds is not None and (value is None or not math.isfinite(value)):
        raise ValueError(f"claim {id}: a verdict needs a finite value, got {value!r}")
    low, high = ci if ci is not None else (None, None)
    verdict = VERDICTS[None if holds is None else bool(holds)]
    cells = [id, exhibit, paper, " ".join(claim.split()), paper_value, value, low, high, n, verdict]
    return dict(zip(CLAIM_COLUMNS, map(format_number, cells), strict=True))


def _claim_rows(folder: Path, without: set[str] | frozenset[str] = frozenset()) -> list[dict]:
    path = folder / "claims.csv"
    if not path.is_file():
        return []
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return [row for row in table.to_dict("records") if row["id"] not in without]


def _write_claims(folder: Path, rows: list[dict[str, str]]) -> None:
    rows = sorted(rows, key=lambda row: _natural(row["id"]))
    write_text(folder / "claims.csv", to_csv(pd.DataFrame(rows, columns=CLAIM_COLUMNS)))


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key by which ``A-2`` comes before ``A-10``."""
    parts = re.split(r"(\d+)", text)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


# --- writers ---------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write text atomically, UTF-8, with bare newlines on every system."""
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_figure(fig: Figure, png: Path) -> None:
    """Write a figure as PNG and, beside it, as PDF, without dates and version marks."""
    with atomic(png) as temporary:
        fig.savefig(temporary, dpi=PNG_DPI, metadata={"Software": None})
    fig.set_layout_engine("none")  # laid out by now; doing it again for the PDF costs as much
    dates = dict.fromkeys(("Creator", "Producer", "CreationDate"))
    with atomic(png.with_suffix(".pdf")) as temporary:
        fig.savefig(temporary, metadata=dates)


def to_json(record: Mapping[str, Any]) -> str:
    """Return readable JSON; ValueError for what JSON cannot hold."""
    try:
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False, default=_item)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot be recorded as JSON: {error}; give plain values") from error
    return text + "\n"


def _item(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__}")


def _records(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table as columns and rows of text, as the report prints it."""
    rows = [[format_number(cell) for cell in row] for row in table.itertuples(index=False)]
    return {"columns": [str(column) for column in table.columns], "rows": rows}


def format_number(cell: Any, digits: int = 6) -> str:
    """Return a cell's text: floats with some digits, ints whole, None and NaN empty."""
    if cell is None or (isinstance(cell, float | np.floating) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else "no"
    if isinstance(cell, float | np.floating):
        # -0.0 and 0.0 are one number, and must not be two files
        return f"{float(cell) + 0.0:.{digits}g}"
    return str(cell)


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV, floats to six significant digits."""
    out = StringIO()
    table.map(format_number).to_csv(out, index=False, lineterminator="\n")
    return out.getvalue()


def to_markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown, floats to four significant digits, numbers to the right."""
    ruler = ["---:" if _is_number(table[column]) else "---" for column in table.columns]
    lines = [_markdown_row(table.columns), "| " + " | ".join(ruler) + " |"]
    lines += [_markdown_row(row) for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def _markdown_row(cells) -> str:
    texts = (format_number(cell, 4).replace("|", r"\|").replace("\n", "<br>") for cell in cells)
    return "| " + " | ".join(texts) + " |"


def to_latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """Return a table as a LaTeX ``table`` for booktabs, floats to four significant digits."""
    columns = "".join("r" if _is_number(table[column]) else "l" for column in table.columns)
    body = [_latex_row(row) for row in table.itertuples(index=False)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_escape(' '.join(caption.split()))}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_row(table.columns),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells) -> str:
    return " & ".join(latex_escape(format_number(cell, 4)) for cell in cells) + r" \\"


def latex_escape(text: str) -> str:
    """Return text with LaTeX's special characters made plain."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\n": " ",
        **{sign: "\\" + sign for sign in "&%$#_{}"},
    }
    return "".join(special.get(sign, sign) for sign in text)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


# --- report and README -----------------------------------------------------------------


def build_report(
    run: Run | str, root: str | Path | None = None, together: Sequence[str] = ()
) -> Path:
    """Write ``report.html`` of a run, one self-contained page; return its path.

    It links to the reports of other runs beside it: those that are there, and those of
    the runs ``together`` with which it is built.
    """
    from mmn_utils.report import render  # here, since the report reads this module

    folder = run.folder if isinstance(run, Run) else Path(root or figures_root()) / run
    path = folder / "report.html"
    beside = {other.parent.name for other in folder.parent.glob("*/report.html")}
    write_text(path, render(folder, sorted((beside | set(together)) - {folder.name})))
    return path


def readme_table() -> str:
    """Return the README's table of exhibits, as Markdown."""
    lines = ["| exhibit | what it shows | notebook |", "| --- | --- | --- |"]
    presets = [load_preset(name) for name in SHIPPED]
    for exhibit in load_exhibits().values():
        suffix = ".png" if exhibit.kind == "figure" else ".md"
        run = next((p.name for p in presets if p.runs(exhibit.notebook)), SHIPPED[0])
        link = f"[`{exhibit.id}`](figures/{run}/{exhibit.id}{suffix})"
        notebook = f"[{exhibit.notebook}](notebooks/{exhibit.notebook}.ipynb)"
        claim = exhibit.claim.replace("|", r"\|")
        title = exhibit.title if exhibit.title.endswith("?") else f"{exhibit.title}."
        lines.append(f"| {link} | **{title}** {claim} | {notebook} |")
    return "\n".join(lines) + "\n"


def update_readme(text: str) -> str:
    """Return the README's text with the table of exhibits rewritten between its marks."""
    before, begin, rest = text.partition(README_BEGIN)
    _, end, after = rest.partition(README_END)
    if not (begin and end):
        raise ValueError(f"the README must have the two lines {README_BEGIN!r} and {README_END!r}")
    return f"{before}{begin}\n\n{readme_table()}\n{end}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Rebuild the reports of some runs or the README's table of exhibits."""
    parser = argparse.ArgumentParser(prog="python -m mmn_utils.exhibits", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="write figures/RUN/report.html")
    report.add_argument("runs", nargs="+", metavar="RUN")
    commands.add_parser("readme", help="rewrite the table of exhibits in README.md")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "report":
            for run in map(check_run_name, chosen.runs):
                print(build_report(run, together=chosen.runs))
        else:
            readme = ROOT / "README.md"
            write_text(readme, update_readme(readme.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
