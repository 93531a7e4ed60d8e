"""What a ledger of claims says, in words and in counts: beside an exhibit, and for a whole run.

A claim has two verdicts (``ledger``). ``holds`` is the direction: whether what the paper states is
the case here. ``like_paper`` is the size: whether the paper's own figure fits what was measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mmn_utils.datasets.published import GATE
from mmn_utils.exhibits.entries import Exhibit, figures_root
from mmn_utils.exhibits.formats import format_number
from mmn_utils.exhibits.judging import UNPRINTED
from mmn_utils.exhibits.ledger import OUR_PAPER, VERDICTS, claims
from mmn_utils.measures.estimates import further_digits

NO_FIGURE = "paper prints no number"  # of a size: there is none to compare with
PAPERS_CLAIMS = "the papers’ claims"
GATE_ALONE = "the same with the gate alone"
OUR_CLAIMS = "our own"
DIRECTION = {
    "yes": "direction holds", "no": "direction does not hold", "open": "direction open",
    "not tested": "not tested",
}  # fmt: skip
SIZE = {"yes": "size agrees", "no": "size differs", "open": "size open"}


@dataclass(frozen=True)
class Found:
    """What was measured of a statement: texts, ready to be shown.

    ``holds`` and ``like`` are the two verdicts; ``like`` is empty where there is no size to
    compare. ``how`` says which reading it is, where there are two; ``paper`` what the paper has,
    with the ratio; ``agree`` how many redraws of the sample come to the same verdicts.
    """

    id: str
    how: str
    test: str
    value: str
    interval: str
    n: str
    holds: str
    like: str
    paper: str
    agree: str

    @property
    def direction_words(self) -> str:
        return DIRECTION[self.holds]

    @property
    def size_words(self) -> str:
        return SIZE[self.like]


@dataclass(frozen=True)
class Said:
    """A statement with where it stands, and what was found of it."""

    statement: str
    where: str
    ours: bool
    found: list[Found] = field(default_factory=list)


def ledger_of(run: str, root: str | Path | None = None) -> pd.DataFrame:
    """Return the claims of a run; ValueError where they were judged by an older version."""
    table = claims(run, root)
    if table["like_paper"].isna().any():
        path = Path(root or figures_root()) / run / "claims.csv"
        raise ValueError(f"{path} has no verdicts on sizes: make it again with 'make figures'")
    return table


def said(ledger: pd.DataFrame) -> list[Said]:
    """Return the statements of some claims in their order, each once, with all readings."""
    statements: dict[str, Said] = {}
    for row in ledger.to_dict("records"):
        name = row["id"].removesuffix(GATE)
        new = Said(row["statement"], row["where"], ours=row["paper"] == OUR_PAPER)
        statements.setdefault(name, new).found.append(_found(row))
    return list(statements.values())


def _found(row: dict[str, Any]) -> Found:
    like = row["like_paper"] if row["like_paper"] in SIZE else ""
    low, high = _ends(row["ci_low"], row["ci_high"])
    return Found(
        id=row["id"],
        how="with the gate alone" if row["id"].endswith(GATE) else "",
        test=row["test"],
        value=format_number(row["value"], 3),
        interval=f"[{low}, {high}]" if low and high else "",
        n=format_number(row["n"]),
        holds=row["holds"],
        like=like,
        paper="" if row["paper"] == OUR_PAPER else _paper(row),
        agree=_agree(row),
    )


def _ends(low: float, high: float) -> tuple[str, str]:
    """Write both ends of an interval, with as many digits as tell them apart."""

    def write(number: float, further: int) -> str:
        return format_number(number, 3 + further)

    further = further_digits(write, low, high)
    return write(low, further), write(high, further)


def _paper(row: dict[str, Any]) -> str:
    """Say what the paper has, with the ratio where there is one."""
    ratio = "" if math.isnan(row["ratio"]) else f" (ratio {row['ratio']:.2g})"
    return f"{row['paper_value']}{ratio}"


def _agree(row: dict[str, Any]) -> str:
    shares = {"direction": row["stability"], "size": row["like_stability"]}
    texts = [f"{what} {100 * of:.0f}\u00a0%" for what, of in shares.items() if not math.isnan(of)]
    return ", ".join(texts)


def kinds(ledger: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Part claims into the papers', those of them read with the gate alone, and ours.

    Only kinds that there are; a claim of a paper that is read in two ways counts once among the
    papers'.
    """
    ours, gate = ledger["paper"] == OUR_PAPER, ledger["id"].str.endswith(GATE)
    parts = {PAPERS_CLAIMS: ~ours & ~gate, GATE_ALONE: ~ours & gate, OUR_CLAIMS: ours}
    return {kind: ledger[chosen] for kind, chosen in parts.items() if chosen.any()}


def counts(ledger: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count claims by verdict: ``direction``, and ``size`` with those that print no figure."""
    sizes = ledger["like_paper"].replace(UNPRINTED, NO_FIGURE)
    return {
        "direction": {word: int((ledger["holds"] == word).sum()) for word in VERDICTS},
        "size": {word: int((sizes == word).sum()) for word in (*VERDICTS, NO_FIGURE)},
    }


def in_brief(ledger: pd.DataFrame) -> str:
    """Say how some claims came out: "direction holds in 2 of 3, 1 open; size agrees in 1 of 2"."""
    counted = counts(ledger)
    parts = [_directions(counted["direction"])]
    compared = {word: n for word, n in counted["size"].items() if word in SIZE}
    if sum(compared.values()):
        parts.append(_sizes(compared))
    return "; ".join(parts)


def _directions(counted: dict[str, int]) -> str:
    total, held = sum(counted.values()), counted["yes"]
    if total == 1:
        return next(DIRECTION[word] for word, n in counted.items() if n)
    many = {total: f"all {total}", 0: f"none of {total}"}
    parts = [f"direction holds in {many.get(held, f'{held} of {total}')}"]
    parts += [f"{counted[word]} {word}" for word in ("open", "not tested") if counted[word]]
    return ", ".join(parts)


def _sizes(compared: dict[str, int]) -> str:
    total = sum(compared.values())
    if total == 1:
        return next(SIZE[word] for word, n in compared.items() if n)
    agrees = f"size agrees in {compared['yes'] or 'none'} of {total}"
    return agrees + (f", open in {compared['open']}" if compared["open"] else "")


def came_out(
    exhibit: Exhibit, runs: Iterable[str], root: str | Path | None = None
) -> dict[str, str]:
    """Say how an exhibit's claims came out in each of some runs; none for one that has none.

    Of a paper's exhibit only the paper's claims are told of, of ours all; of one that a run
    left out, why.
    """
    told = {
        run: left_out(exhibit, run, root) or _came_out(exhibit, ledger_of(run, root))
        for run in runs
    }
    return {run: text for run, text in told.items() if text}


def left_out(exhibit: Exhibit, run: str, root: str | Path | None = None) -> str:
    """Say why a run left an exhibit out, as "left out: ...", "" where it did not."""
    path = Path(root or figures_root()) / run / f"{exhibit.id}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return f"left out: {record['left_out']}" if record.get("left_out") else ""


def _came_out(exhibit: Exhibit, ledger: pd.DataFrame) -> str:
    parts = kinds(ledger[ledger["exhibit"] == exhibit.id])
    if exhibit.paper != OUR_PAPER:
        parts.pop(OUR_CLAIMS, None)
    named = {GATE_ALONE: "with the gate alone ", PAPERS_CLAIMS: "", OUR_CLAIMS: ""}
    return " · ".join(f"{named[kind]}{in_brief(part)}" for kind, part in parts.items())
