"""The ledger of claims: what a paper states, what was measured, and the computed verdicts.

``figures/<run>/claims.csv`` has a row for each claim; notebooks of one run may write it at the
same time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from mmn_utils.cache import locked
from mmn_utils.datasets.published import OURS, PublishedClaim, published_claim
from mmn_utils.exhibits.entries import ALL_FILES, PAPERS, exhibits_of, figures_root
from mmn_utils.exhibits.formats import format_number, to_csv, write_text
from mmn_utils.exhibits.judging import (
    NO,
    NOT_TESTED,
    OPEN,
    UNTESTED,
    YES,
    Judged,
    facts_of,
    judge_claim,
)
from mmn_utils.exhibits.pages import forget_page
from mmn_utils.exhibits.provenance import circumstances_path
from mmn_utils.exhibits.texts import Claim, render
from mmn_utils.presets import check_run_name

CLAIM_COLUMNS = [
    "id",
    "exhibit",
    "paper",
    "statement",
    "where",
    "test",
    "paper_value",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "holds",
    "stability",
    "like_paper",
    "like_stability",
    "ratio",
]
NUMERIC = ["value", "ci_low", "ci_high", "n", "stability", "like_stability", "ratio"]
VERDICTS = (YES, NO, OPEN, NOT_TESTED)
OUR_PAPER = "C"  # the key of what no paper has


def claims(run: Any, root: str | Path | None = None) -> pd.DataFrame:
    """Return the claims of a run, given itself or its name.

    Texts as str, numbers as float with NaN where none is.
    """
    folder = getattr(run, "folder", None) or Path(root or figures_root()) / run
    table = pd.DataFrame(_claim_rows(folder), columns=CLAIM_COLUMNS)
    for column in NUMERIC:
        table[column] = pd.to_numeric(table[column].where(table[column] != "")).astype(float)
    return table


def enter(folder: Path, exhibit: str, rows: Mapping[str, Mapping[str, str]]) -> None:
    """Enter an exhibit's claims (``row_of``, by id) into a run's ledger, in place of its old ones.

    The id begins with the paper.
    """
    with locked(folder):  # notebooks of one run may write claims at the same time
        kept = [row for row in _claim_rows(folder) if row["exhibit"] != exhibit]
        _write_claims(folder, [*kept, *rows.values()])


@dataclass(frozen=True)
class Entry:
    """A claim as it was judged: its row of the ledger, and the facts that it used."""

    judged: Judged
    row: dict[str, str]
    facts: dict[str, Any]


def judge_all(
    exhibit: str,
    claims: Mapping[str, Claim],
    numbers: pd.DataFrame,
    known: Mapping[str, Any],
    seed: int,
    system: str | None,
    without: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Entry]:
    """Judge an exhibit's claims by its rows, as ``judging.read_numbers`` gives them.

    ``known`` are all facts that there are, and ``system`` the one of the paper's that stands
    beside (``published_claim``). A claim that needs something ``without`` which the run is, is
    not tested, for the reason that stands there.
    """
    found = {}
    for id, claim in claims.items():
        paper = published_claim(id, system)
        if reason := without.get(claim.needs):
            row = row_of(id, exhibit, paper, f"not tested: {reason}", UNTESTED)
            found[id] = Entry(UNTESTED, row, {})
            continue
        facts = facts_of(claim, numbers.columns, known)
        judged = judge_claim(claim, paper, numbers, facts, seed)
        row = row_of(id, exhibit, paper, render(claim.test, facts, id), judged)
        found[id] = Entry(judged, row, facts)
    return found


def row_of(
    id: str, exhibit: str, paper: PublishedClaim, test: str, judged: Judged
) -> dict[str, str]:
    """Return a claim's row of the ledger as text; ValueError where its id names no paper."""
    key = id.partition("-")[0]
    if key not in PAPERS:
        raise ValueError(f"claim id {id!r} must begin with its paper: {', '.join(PAPERS)}")
    found = judged.estimate
    cells = {
        "id": id,
        "exhibit": exhibit,
        "paper": OUR_PAPER if paper.where == OURS else key,
        "statement": paper.statement,
        "where": f"{paper.where} (figure only)" if paper.shown == "figure" else paper.where,
        "test": " ".join(test.split()),
        "paper_value": paper.printed,
        "value": found and found.value,
        "ci_low": found and found.low,
        "ci_high": found and found.high,
        "n": found and found.n,
        "holds": judged.holds.word,
        "stability": judged.holds.stability,
        "like_paper": judged.like.word,
        "like_stability": judged.like.stability,
        "ratio": judged.ratio,
    }
    return {name: format_number(cells[name]) for name in CLAIM_COLUMNS}


def forget(run: str, notebook: str | Path, root: str | Path | None = None) -> None:
    """Remove a notebook's exhibits, claims and page from a run, so that none outlives its cell."""
    folder = Path(root or figures_root()) / check_run_name(run)
    if not folder.is_dir():
        return
    ids = {exhibit.id for exhibit in exhibits_of(notebook)}
    for id in ids:
        forget_exhibit(folder, id)
    _strike(folder, ids)
    forget_page(folder, Path(notebook).stem)


def forget_exhibit(folder: Path, id: str) -> None:
    """Remove an exhibit's files from the run in ``folder``, but not its claims."""
    for suffix in ALL_FILES:
        (folder / f"{id}{suffix}").unlink(missing_ok=True)
    circumstances_path(folder.name, id).unlink(missing_ok=True)


def _strike(folder: Path, exhibits: set[str]) -> None:
    """Take the claims of some exhibits out of a run's ledger."""
    with locked(folder):
        rows = _claim_rows(folder)
        kept = [row for row in rows if row["exhibit"] not in exhibits]
        if len(kept) < len(rows):
            _write_claims(folder, kept)


def _claim_rows(folder: Path) -> list[dict[str, str]]:
    path = folder / "claims.csv"
    if not path.is_file():
        return []
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def _write_claims(folder: Path, rows: list[dict[str, str]]) -> None:
    rows = sorted(rows, key=lambda row: _natural(row["id"]))
    write_text(folder / "claims.csv", to_csv(pd.DataFrame(rows, columns=CLAIM_COLUMNS)))


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key by which ``A-2`` comes before ``A-10``."""
    parts = re.split(r"(\d+)", text)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
