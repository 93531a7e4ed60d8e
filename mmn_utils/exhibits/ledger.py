"""The ledger of claims: what a paper states, what was measured, and the computed verdict.

``figures/<run>/claims.csv`` has a row for each claim; notebooks of one run may write it at the
same time.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.cache import locked
from mmn_utils.exhibits.entries import ALL_FILES, PAPERS, exhibits_of, figures_root
from mmn_utils.exhibits.formats import format_number, to_csv, write_text
from mmn_utils.exhibits.pages import forget_page
from mmn_utils.presets import check_run_name

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


def claims(run: Any, root: str | Path | None = None) -> pd.DataFrame:
    """Return the claims of a run, given itself or its name.

    Texts as str, numbers as float with NaN where none is.
    """
    folder = getattr(run, "folder", None) or Path(root or figures_root()) / run
    table = pd.DataFrame(_claim_rows(folder), columns=CLAIM_COLUMNS)
    for column in ("value", "ci_low", "ci_high", "n"):
        table[column] = pd.to_numeric(table[column].where(table[column] != "")).astype(float)
    return table


def enter(
    folder: Path,
    id: str,
    exhibit: str,
    *,
    claim: str,
    paper_value: str | float,
    value: float | None,
    ci: tuple[float, float] | None = None,
    n: int | None = None,
    holds: bool | None = None,
) -> str:
    """Enter one claim into a run's ledger, replacing one of the same id; return its verdict.

    What a paper states, and ``value`` with its interval ``ci`` over ``n`` cases. ``holds`` is the
    result of a comparison, or None for not tested. The id begins with the paper.
    """
    row = _claim_row(id, exhibit, claim, paper_value, value, ci, n, holds)
    with locked(folder):  # notebooks of one run may write claims at the same time
        _write_claims(folder, [*_claim_rows(folder, without={id}), row])
    return row["holds"]


def forget(run: str, notebook: str | Path, root: str | Path | None = None) -> None:
    """Remove a notebook's exhibits, claims and page from a run, so that none outlives its cell."""
    folder = Path(root or figures_root()) / check_run_name(run)
    if not folder.is_dir():
        return
    ids = {exhibit.id for exhibit in exhibits_of(notebook)}
    for id in ids:
        for suffix in ALL_FILES:
            (folder / f"{id}{suffix}").unlink(missing_ok=True)
    _strike(folder, ids)
    forget_page(folder, Path(notebook).stem)


def _strike(folder: Path, exhibits: set[str]) -> None:
    """Take the claims of some exhibits out of a run's ledger."""
    with locked(folder):
        rows = _claim_rows(folder)
        kept = [row for row in rows if row["exhibit"] not in exhibits]
        if len(kept) < len(rows):
            _write_claims(folder, kept)


def _claim_row(id, exhibit, claim, paper_value, value, ci, n, holds) -> dict[str, str]:
    """Return one row of the ledger as text; ValueError where something was typed, not computed."""
    paper = id.partition("-")[0]
    if paper not in PAPERS:
        raise ValueError(f"claim id {id!r} must begin with its paper: {', '.join(PAPERS)}")
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
