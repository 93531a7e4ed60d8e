"""Compute every claim of a run again, from the rows that lie beside its exhibits.

Nothing but the run's folder, the texts of the notebooks and ``data/golden`` is read: whoever has
the repository can see that a verdict follows from the rows, without a model.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from mmn_utils.exhibits.entries import figures_root, load_exhibits
from mmn_utils.exhibits.judging import read_numbers
from mmn_utils.exhibits.leaving import untested_rows
from mmn_utils.exhibits.ledger import NUMERIC, claims, judge_all
from mmn_utils.exhibits.texts import load_texts

TOLERANCE = 1e-4  # relative, of a stored number: five digits, and other processors' last ones


def verify(run: str, root: str | Path | None = None) -> tuple[int, list[str]]:
    """Judge all claims of a run anew; return how many there are, and what differs, a line each.

    ValueError where there is no such run, or none of its exhibits has a claim.
    """
    folder = Path(root or figures_root()) / run
    stored = {row["id"]: row for row in claims(run, root).fillna("").to_dict("records")}
    if not stored:
        raise ValueError(f"{folder} has no claims; make the run first: make figures PRESET={run}")
    again: dict[str, dict[str, str]] = {}
    for exhibit in load_exhibits().values():
        if (folder / f"{exhibit.id}.json").is_file():
            again.update(_judge_again(folder, exhibit.id, exhibit.notebook))
    lines = [f"{id}: in the rows, not in claims.csv" for id in again.keys() - stored.keys()]
    lines += [f"{id}: in claims.csv, not in the rows" for id in stored.keys() - again.keys()]
    for id in stored.keys() & again.keys():
        lines += [f"{id}: {line}" for line in _differences(stored[id], again[id])]
    return len(stored), sorted(lines)


def _judge_again(folder: Path, exhibit: str, notebook: str) -> dict[str, dict[str, str]]:
    """Return the ledger's rows of one exhibit, as its stored rows give them."""
    text = load_texts(notebook).get(exhibit)
    if text is None or not text.claims:
        return {}
    record = json.loads((folder / f"{exhibit}.json").read_text(encoding="utf-8"))
    system = record["parameters"].get("paper_model")
    if record.get("left_out"):
        return untested_rows(exhibit, text.claims, record["left_out"], system)
    numbers = read_numbers(folder / f"{exhibit}.numbers.csv")
    known = record["facts"], record["seed"], system, record.get("without", {})
    found = judge_all(exhibit, text.claims, numbers, *known)
    return {id: entry.row for id, entry in found.items()}


def _differences(stored: dict, again: dict[str, str]) -> list[str]:
    """Say in which columns two rows of a ledger differ."""
    lines = []
    for name, new in again.items():
        old = stored[name]
        if name in NUMERIC:
            same = _close(old, float(new)) if new != "" and old != "" else old == new
        else:
            same = old == new
        if not same:
            lines.append(f"{name} is {old!r}, computed again {new!r}")
    return lines


def _close(old: float, new: float) -> bool:
    return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE / 100)
