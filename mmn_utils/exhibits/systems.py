"""Claims of the papers against systems: what each run that is there says of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mmn_utils.exhibits.entries import figures_root
from mmn_utils.exhibits.formats import format_number
from mmn_utils.exhibits.judging import NOT_TESTED
from mmn_utils.exhibits.ledger import OUR_PAPER, claims

SHORT = {NOT_TESTED: "–"}


def runs_there(runs: Sequence[str], root: str | Path | None = None) -> list[str]:
    """Keep those runs that have a ledger."""
    home = Path(root or figures_root())
    return [run for run in runs if (home / run / "claims.csv").is_file()]


def by_system(runs: Sequence[str], root: str | Path | None = None) -> pd.DataFrame:
    """List the papers' claims in the ledgers of runs.

    Columns id, statement, paper_value, run, holds, value, ci_low, ci_high, n; a row for each claim
    and run that has it, claims in the order of the first run that does.
    ``ValueError`` where none of the runs has a ledger.
    """
    there = runs_there(runs, root)
    if not there:
        raise ValueError(f"none of the runs {', '.join(runs)} has a ledger; make them first")
    parts = [claims(run, root).assign(run=run) for run in there]
    every = pd.concat(parts, ignore_index=True)
    every = every[~every["id"].str.startswith(f"{OUR_PAPER}-")]
    columns = ["id", "statement", "paper_value", "run", "holds", "value", "ci_low", "ci_high", "n"]
    return every[columns].reset_index(drop=True)


def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """Lay ``by_system`` out as the table: a row for each claim, verdict and value of each run."""
    cells = rows.assign(
        cell=[_cell(*pair) for pair in zip(rows["holds"], rows["value"], strict=True)]
    )
    order = list(dict.fromkeys(rows["id"]))
    table = cells.pivot(index="id", columns="run", values="cell").reindex(order)
    table = table[list(dict.fromkeys(rows["run"]))].fillna("")
    said = rows.drop_duplicates("id").set_index("id")[["statement", "paper_value"]]
    return said.join(table).reset_index()


def _cell(holds: str, value: float) -> str:
    """Write a verdict with the number that was measured, where one was."""
    number = format_number(value, 3)
    return SHORT.get(holds, f"{holds} ({number})" if number else holds)


def agreement(rows: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Compare two runs' verdicts on the claims that both tested: id, statement, first, second."""
    tested = rows[rows["holds"] != NOT_TESTED]
    both = tested.pivot(index="id", columns="run", values="holds")
    if not {first, second} <= set(both.columns):
        return pd.DataFrame(columns=["id", "statement", first, second])
    both = both[[first, second]].dropna()
    said = rows.drop_duplicates("id").set_index("id")["statement"]
    return both.join(said).reset_index()[["id", "statement", first, second]]


def told(rows: pd.DataFrame, runs: Sequence[str]) -> dict:
    """Return what can be read out: how often each run's claims hold, and where two runs differ.

    ``counts`` by run (tested, holds, no, open); ``differ`` lists, for each pair of the first run
    with a later one, how many claims both tested, how many verdicts agree, and those that do not.
    """
    there = [run for run in runs if run in set(rows["run"])]
    counts = {
        run: part["holds"].value_counts().to_dict() for run, part in rows.groupby("run", sort=False)
    }
    differ = []
    for other in there[1:]:
        both = agreement(rows, there[0], other)
        unlike = both[both[there[0]] != both[other]] if len(both) else both
        if len(both):
            differ.append((there[0], other, len(both), len(both) - len(unlike), unlike))
    absent = [run for run in runs if run not in there]
    return {"there": there, "absent": absent, "counts": counts, "differ": differ}
