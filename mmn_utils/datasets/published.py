"""What the papers print: the numbers of their exhibits and their claims, from ``data/golden``."""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from mmn_utils.presets import data_path

SYSTEMS = ("LLaVA", "InstructBLIP", "mPLUG-Owl2")  # paper B's
READINGS = ("exact", "all", "above", "below")
NUMBERS = ("value", "low", "high")
SHOWN = ("text", "table", "figure")
OURS = "ours"  # where a claim stands that neither paper makes
# The same claim, measured with the gate alone as the activation of a gated MLP.
GATE = "-gate"
_ID = re.compile(r"[ABC](-[A-Za-z0-9]+)+")
_PLACE = re.compile(
    r"abstract|section (S\.)?\d+(\.\d+)*|appendix [A-C](\.\d+)?|(figure|table) (S\.)?\d+"
)


@dataclass(frozen=True)
class PublishedClaim:
    """What a paper states, and where.

    ``statement`` is one sentence in our words; ``where`` its places, as in "section 3.3;
    figure 6", or "ours"; ``shown`` "text", "table", or "figure" where a figure alone shows it;
    ``printed`` the figure as it stands there, or what stands in place of one. ``value`` is that
    figure as a number like the one that is measured here, None where none is printed.
    ``reading`` says what agrees with it: "exact" an interval that covers it, "all" a value
    that equals it, "above" and "below" a value beyond it; "" where there is none. ``low`` and
    ``high`` are the 95 % interval of an exact figure that is a mean or a share of a few cases,
    by the paper's own count of them: Wilson's, or Student's t.
    ``system`` is "" unless the figure differs between paper B's systems.
    """

    id: str
    system: str
    statement: str
    where: str
    shown: str
    printed: str
    value: float | None
    reading: str
    low: float | None = None
    high: float | None = None


def published(exhibit: str) -> pd.DataFrame | None:
    """Return the paper's own numbers for an exhibit, or None where it prints none."""
    path = data_path("golden", f"{exhibit}.csv")
    return pd.read_csv(path, keep_default_na=False) if path.is_file() else None


def published_claim(id: str, system: str | None = None) -> PublishedClaim:
    """Return what the paper states under a claim's id, with or without the suffix ``-gate``.

    ``system`` chooses among paper B's where the figure differs between them, and is not looked
    at elsewhere. ValueError where no claim has the id, and where one of the systems is needed
    and ``system`` is none of them.
    """
    name = id.removesuffix(GATE)
    found = {claim.system: claim for claim in published_claims() if claim.id == name}
    if not found:
        near = difflib.get_close_matches(name, {claim.id for claim in published_claims()}, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"no claim {id!r} in data/golden/claims.csv: enter it there{hint}")
    if "" in found:
        return found[""]
    if system not in found:
        known = ", ".join(found)
        raise ValueError(f"claim {id} depends on the system: choose {known}, not {system!r}")
    return found[system]


@functools.cache
def published_claims() -> tuple[PublishedClaim, ...]:
    """Return all claims of both papers and ours, in the order of the file."""
    return read_claims(data_path("golden", "claims.csv"))


def read_claims(path: Path) -> tuple[PublishedClaim, ...]:
    """Read a file of claims; ValueError names the row that is not as it has to be."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    columns = [field.name for field in fields(PublishedClaim)]
    if list(table) != columns:
        raise ValueError(f"{path}: columns {', '.join(table)} must be {', '.join(columns)}")
    claims = tuple(_claim(row) for row in table.to_dict("records"))
    _check_systems(claims)
    return claims


def _claim(row: dict[str, str]) -> PublishedClaim:
    """Return one row as a claim, or raise ValueError with all that is wrong with it."""
    wrong = [text for text, is_wrong in _faults(row).items() if is_wrong]
    if wrong:
        name = " ".join(filter(None, (row["id"], row["system"])))
        raise ValueError(f"claim {name!r}: {'; '.join(wrong)}")
    numbers = {name: float(row[name]) if row[name] else None for name in NUMBERS}
    return PublishedClaim(**{**row, **numbers})


def _faults(row: dict[str, str]) -> dict[str, bool]:
    """Say of each demand on a row whether it fails."""
    number, reading, where, shown = (row[key] for key in ("value", "reading", "where", "shown"))
    value = _number(number)
    ours = where == OURS
    return {
        "the id must begin with its paper, as in A-fig-6-top": not _ID.fullmatch(row["id"]),
        f"the id must not end in {GATE}": row["id"].endswith(GATE),
        f"the system must be one of {', '.join(SYSTEMS)}": row["system"] not in ("", *SYSTEMS),
        "the statement must be one line that ends in a full stop": not re.fullmatch(
            r"\S.*\.", row["statement"]
        ),
        f"where = {where!r} must name sections, figures or tables, or be {OURS!r}": not (
            ours or all(_PLACE.fullmatch(place) for place in where.split("; "))
        ),
        f"shown = {shown!r} must be one of {', '.join(SHOWN)}": shown not in SHOWN and not ours,
        f"what is {OURS} is shown nowhere and has no value": ours and bool(shown or number),
        "printed must say what stands there": not row["printed"].strip(),
        f"the value {number!r} must be a finite number": bool(number) and value is None,
        f"reading = {reading!r} must be one of {', '.join(READINGS)}": bool(reading)
        and reading not in READINGS,
        "a value needs a reading, and a reading a value": bool(number) != bool(reading),
        "an interval has two ends, around an exact value": not _is_interval(row),
        "read as all, a value must be 0 or 1": reading == "all" and value not in (0, 1),
        "no cell may begin or end in a blank": any(cell != cell.strip() for cell in row.values()),
    }


def _is_interval(row: dict[str, str]) -> bool:
    """Say whether low and high are both empty, or lie around the value of an exact reading."""
    low, value, high = (_number(row[name]) for name in ("low", "value", "high"))
    if not row["low"] and not row["high"]:
        return True
    return None not in (low, value, high) and low <= value <= high and row["reading"] == "exact"


def _number(text: str) -> float | None:
    """Return a finite number, or None where the text is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _check_systems(claims: tuple[PublishedClaim, ...]) -> None:
    """Raise ValueError unless each id has one row, or one for each of the systems."""
    for (id, system), count in Counter((claim.id, claim.system) for claim in claims).items():
        if count > 1:
            raise ValueError(f"claim {id!r} {system} stands {count} times in the file")
    for id in {claim.id for claim in claims}:
        systems = {claim.system for claim in claims if claim.id == id}
        if systems not in ({""}, set(SYSTEMS)):
            raise ValueError(f"claim {id!r} must have one row, or one for each system")
