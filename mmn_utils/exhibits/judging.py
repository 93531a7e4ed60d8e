"""Claims, judged by the rows beneath an exhibit: the direction, the size, and how stable both are.

A claim's texts (``texts.Claim``) name the test: which rows, which estimate, which rule. The paper's
side stands in ``data/golden/claims.csv``. Everything here is a function of the two and of the
exhibit's rows, so a verdict can be computed again from what a run has stored.

    holds        the direction: the rule of the claim, over the estimate and its interval
    like_paper   the size: whether the paper's own figure lies in the interval, or its interval
                 overlaps, where the figure is of a few cases; for "all", "none", "no impact"
                 whether that is what was measured; for a bound, whether it is kept

Beside each stands its stability: the share of ``REDRAWS`` redraws of the cases, with replacement,
that come to the same verdict. Below ``STABLE`` it is open; but where "all" is claimed, one case
that was seen to fail is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.datasets.published import PublishedClaim
from mmn_utils.exhibits.texts import Claim, compiled, names_in_expression, names_in_text, render
from mmn_utils.measures import estimates
from mmn_utils.measures.estimates import Estimate

REDRAWS = 200
STABLE = 0.9
NEGLIGIBLE = 0.05  # the papers call what is smaller "negligible", and a ratio to it says nothing
YES, NO, OPEN, NOT_TESTED, UNPRINTED = "yes", "no", "open", "not tested", ""


@dataclass(frozen=True)
class Verdict:
    """What a claim's rule says, and the share of redraws that say the same; None where untested."""

    word: str
    stability: float | None = None


@dataclass(frozen=True)
class Judged:
    """A claim as it came out.

    ``ratio`` is the estimate over the paper's figure, where both have one sign and the figure is
    not ``NEGLIGIBLE``.
    """

    estimate: Estimate | None
    holds: Verdict
    like: Verdict
    ratio: float | None = None


UNTESTED = Judged(None, Verdict(NOT_TESTED), Verdict(NOT_TESTED))


@dataclass(frozen=True)
class Distance(Estimate):
    """Kolmogorov and Smirnov's D, with the ``p`` of their test."""

    p: float


def _distance(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Distance:
    found, p = estimates.ks_of(first, second, seed)
    return Distance(found.value, found.low, found.high, found.n, p)


def _largest(values: np.ndarray, seed: int = 0) -> Estimate:
    """Return the largest value; one number of all cases, which has no interval."""
    return Estimate(float(np.max(values)), math.nan, math.nan, len(values))


# What an expression of a claim may call: columns in, one estimate out.
MEASURES: dict[str, Callable[..., Estimate]] = {
    "mean": estimates.mean_of,
    "share": estimates.share_of,
    "difference": estimates.difference_of,
    "ratio": estimates.ratio_of,
    "distance": _distance,
    "falls": estimates.falls_of,
    "way": estimates.share_of_gap,
    "largest": _largest,
}
MEASURED = ("value", "low", "high", "n", "p")  # what a rule knows of the estimate


def facts_of(claim: Claim, columns: Iterable[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the facts that a claim's texts and expressions use, of all that is known.

    ``columns`` are those of the exhibit's rows, which an expression finds first. ValueError names
    a fact that is missing.
    """
    in_expressions = {name for rule in claim.rules for name in names_in_expression(rule)}
    taken = {*columns, *MEASURES, *MEASURED, *claim.estimates, "table"}
    wanted = names_in_text(claim.test) | names_in_text(claim.rows) | (in_expressions - taken)
    pivoted = claim.wide != ()  # its columns are values of the rows
    missing = sorted(name for name in wanted if name not in known)
    if missing and not (pivoted and set(missing) <= in_expressions):
        raise ValueError(f"{claim.id}: {', '.join(missing)} is no column and no fact; hand it over")
    return {name: known[name] for name in sorted(wanted) if name in known}


def judge_claim(
    claim: Claim,
    paper: PublishedClaim,
    numbers: pd.DataFrame,
    facts: Mapping[str, Any],
    seed: int = 0,
) -> Judged:
    """Judge a claim by an exhibit's rows, as ``read_numbers`` gives them.

    ``facts`` as from ``facts_of``. A claim without a row to test it on is "not tested".
    """
    columns = cases_of(claim, numbers, facts)
    count = len(next(iter(columns.values()), ()))
    if not count:
        return UNTESTED
    test = _Test(claim, paper, facts, seed)
    estimate, holds, like = test(columns)
    rng = np.random.default_rng(seed)
    redraws = rng.integers(0, count, size=(REDRAWS, count)) if count > 1 else ()
    again = [test({name: c[rows] for name, c in columns.items()})[1:] for rows in redraws]
    return Judged(
        estimate,
        _verdict(holds, [one for one, _ in again]),
        _verdict(like, [one for _, one in again], refuted=paper.reading == "all" and like == NO),
        _ratio(estimate.value, paper.value),
    )


class _Test:
    """A claim's expressions, compiled once for the sample and all its redraws."""

    def __init__(self, claim: Claim, paper: PublishedClaim, facts: Mapping[str, Any], seed: int):
        self.paper, self.facts, self.where = paper, facts, claim.id
        self.value = compiled(claim.value, claim.id)
        self.further = {name: compiled(rule, claim.id) for name, rule in claim.estimates.items()}
        self.rule = compiled(claim.holds, claim.id)
        self.measures = {name: _seeded(measure, seed) for name, measure in MEASURES.items()}

    def __call__(self, columns: Mapping[str, np.ndarray]) -> tuple[Estimate, str, str]:
        known = {**self.facts, **columns, **self.measures}
        estimate = self.value(**known)
        if not isinstance(estimate, Estimate):
            raise ValueError(f"{self.where}: value = {estimate!r} is no measure of the rows")
        further = {name: rule(**known) for name, rule in self.further.items()}
        measured = {name: getattr(estimate, name, None) for name in MEASURED}
        if not math.isfinite(estimate.value):
            return estimate, NOT_TESTED, NOT_TESTED
        held = self.rule(**{**self.facts, **further, **measured})
        if not (held is None or isinstance(held, bool | np.bool_)):
            raise ValueError(f"{self.where}: holds = {held!r} must be true, false or none")
        word = NOT_TESTED if held is None else YES if held else NO
        return estimate, word, _like(estimate, self.paper)


def _seeded(measure: Callable[..., Estimate], seed: int) -> Callable[..., Estimate]:
    return lambda *columns: measure(*columns, seed=seed)


def _like(estimate: Estimate, paper: PublishedClaim) -> str:
    """Say whether an estimate is as large as the paper's figure, by the figure's reading."""
    if paper.value is None:
        return UNPRINTED
    if paper.reading == "exact":
        if not math.isfinite(estimate.low):
            return OPEN
        low, high = (paper.value if end is None else end for end in (paper.low, paper.high))
        return YES if low <= estimate.high and estimate.low <= high else NO
    found = {
        "all": math.isclose(estimate.value, paper.value, abs_tol=1e-9),
        "above": estimate.value > paper.value,
        "below": estimate.value < paper.value,
    }
    return YES if found[paper.reading] else NO


def _verdict(word: str, again: list[str], refuted: bool = False) -> Verdict:
    """Return a verdict with its stability; one case alone decides nothing, unless it refutes."""
    if word in (NOT_TESTED, UNPRINTED):
        return Verdict(word)
    if not again:
        return Verdict(word if refuted else OPEN)
    stability = sum(other == word for other in again) / len(again)
    return Verdict(word if refuted or stability >= STABLE else OPEN, stability)


def _ratio(value: float, figure: float | None) -> float | None:
    """Return how many times the paper's figure was measured; None where that says nothing."""
    if figure is None or abs(figure) < NEGLIGIBLE or not math.isfinite(value):
        return None
    return value / figure if value / figure > 0 else None


# --- the rows ----------------------------------------------------------------------------


def cases_of(
    claim: Claim, numbers: pd.DataFrame, facts: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the columns that a claim's estimates are over, one entry a case.

    The rows that it names, averaged within a case, or laid out wide, where it asks for that; a
    case that lacks a value of a column in use is left out. Laid out wide, the whole block (cases,
    columns) is called ``table``. Nothing where there are no such rows.
    """
    rows = numbers
    if claim.rows:
        query = render(claim.rows, facts, claim.id)
        try:
            rows = numbers.query(query, engine="python")
        except Exception as error:
            raise ValueError(f"{claim.id}: rows = {query!r}: {error}") from error
    if rows.empty:
        return {}
    try:
        if claim.wide:
            index, columns, values = claim.wide
            rows = rows.pivot_table(values, index, columns, sort=False, dropna=False)
        elif claim.case:
            rows = rows.groupby(claim.case, sort=False).mean(numeric_only=True)
    except KeyError as error:
        raise ValueError(f"{claim.id}: the rows have no column {error}") from error
    used = {name for rule in claim.estimated for name in names_in_expression(rule)}
    block = rows if "table" in used else rows[[name for name in rows if str(name) in used]]
    absent = used - {*map(str, rows.columns), *MEASURES, *facts, "table"}
    if absent:
        raise ValueError(f"{claim.id}: {', '.join(sorted(absent))} is no column of the rows")
    try:
        block = block.astype(float).dropna()
    except ValueError as error:
        raise ValueError(f"{claim.id}: a column in use holds no numbers: {error}") from error
    found = {str(name): block[name].to_numpy() for name in block if str(name) in used}
    return {**found, "table": block.to_numpy()} if "table" in used else found


def read_numbers(path: Any) -> pd.DataFrame:
    """Read an exhibit's rows as they are stored: yes and no are 1 and 0, an empty cell is NaN."""
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    for name in table.columns:
        if set(table[name].dropna()) <= {"yes", "no"} and table[name].notna().any():
            table[name] = table[name].map({"yes": 1.0, "no": 0.0})
    return table
