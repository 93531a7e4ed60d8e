"""Tables of verdicts that are written by hand: two claims of paper A's, three of paper B's."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mmn_utils.exhibits.formats import to_csv
from mmn_utils.exhibits.switches import COLUMNS

DEFAULTS = {
    "first": {"A-fig-1-x": "yes", "A-fig-2-x": "no", "A-fig-3-x": "open", "A-fig-4-x": "yes"},
    "second": {"B-table-1-x": "yes", "B-table-1-x-gate": "no", "B-table-2-x": "not tested"},
}
SETTINGS = {
    "first": {
        ("rank_by", "sum"): {"A-fig-1-x": "yes", "A-fig-2-x": "yes", "A-fig-3-x": "yes"},
        ("target", "probability"): {"A-fig-1-x": "yes", "A-fig-2-x": "open"},
        ("dtype", "bfloat16"): {"A-fig-1-x": "yes", "A-fig-2-x": "no", "A-fig-3-x": "open"},
    },
    "second": {
        ("activation", "gate"): {"B-table-1-x": "yes", "B-table-1-x-gate": "no"},
        ("dtype", "bfloat16"): {"B-table-1-x": "yes", "B-table-2-x": "not tested"},
    },
}


def verdict(switch: str = "default", setting: str = "", claim: str = "", **cells: str) -> dict:
    """Lay out one row of a table, all texts."""
    row = dict.fromkeys(COLUMNS, "") | {"switch": switch, "setting": setting, "claim": claim}
    return row | cells


def write_table(folder: Path, preset: str, rows: list[dict]) -> Path:
    """Write rows as the table of a preset; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{preset}.csv"
    path.write_text(to_csv(pd.DataFrame(rows)), encoding="utf-8")
    return path


def rows_of(preset: str) -> list[dict]:
    """List the rows of one of the two presets."""
    rows = [
        verdict(claim=claim, holds=holds, value="0.5", n="9", statement=f"What {claim} states.")
        for claim, holds in DEFAULTS[preset].items()
    ]
    for (switch, setting), found in SETTINGS[preset].items():
        rows += [verdict(switch, setting, id, holds=holds, n="9") for id, holds in found.items()]
        if switch in ("rank_by", "dtype"):
            share = {"value": "0.61", "ci_low": "0.5", "ci_high": "0.7", "n": "9"}
            rows += [verdict(switch, setting, f"overlap-{k}", **share) for k in (20, 100)]
    return [*rows, verdict("vocabulary", "all rows", why="it has no other rows")]


def write_both(folder: Path) -> Path:
    """Write the tables ``first`` and ``second``; return their folder."""
    for preset in DEFAULTS:
        write_table(folder, preset, rows_of(preset))
    return folder
