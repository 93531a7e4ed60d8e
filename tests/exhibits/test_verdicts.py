"""What a ledger says, in words and in counts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mmn_utils.exhibits.entries import load_exhibits
from mmn_utils.exhibits.verdicts import came_out, counts, in_brief, kinds, ledger_of, said
from tests.exhibits.samples import entered


@pytest.fixture
def ledger(tmp_path: Path):
    """A function that makes a ledger of claims of A-fig-6, of (direction, size, more cells)."""

    def make(*rows: tuple) -> pd.DataFrame:
        (tmp_path / "run" / "claims.csv").unlink(missing_ok=True)
        for place, (holds, like, *more) in enumerate(rows):
            cells = {"holds": holds, "like_paper": like, **(more[0] if more else {})}
            id = cells.pop("id", f"A-fig-6-{place}")
            entered(tmp_path / "run", id, "A-fig-6", **cells)
        return ledger_of("run", tmp_path)

    return make


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([("yes", "")], "direction holds"),
        ([("no", "yes")], "direction does not hold; size agrees"),
        ([("open", "open")], "direction open; size open"),
        ([("not tested", "not tested")], "not tested"),
        ([("yes", "yes"), ("yes", "no")], "direction holds in all 2; size agrees in 1 of 2"),
        ([("yes", ""), ("no", ""), ("no", "no")], "direction holds in 1 of 3; size differs"),
        ([("yes", ""), ("yes", ""), ("no", "")], "direction holds in 2 of 3"),
        ([("no", "no"), ("no", "open")],
         "direction holds in none of 2; size agrees in none of 2, open in 1"),
        ([("no", ""), ("open", ""), ("not tested", "not tested")],
         "direction holds in none of 3, 1 open, 1 not tested"),
    ],
)  # fmt: skip
def test_claims_in_brief(ledger, rows, text):
    assert in_brief(ledger(*rows)) == text


def test_sizes_that_no_paper_prints_are_counted_apart(ledger):
    counted = counts(ledger(("yes", ""), ("open", "yes"), ("not tested", "not tested")))
    assert counted["direction"] == {"yes": 1, "no": 0, "open": 1, "not tested": 1}
    assert counted["size"] == {**counted["direction"], "open": 0, "paper prints no number": 1}


def test_a_ratio_is_told_where_there_is_one(ledger):
    rows = ledger(
        ("yes", "no", {"ratio": "", "paper_value": ".5"}),
        ("yes", "no", {"ratio": "0.936", "paper_value": "80 %"}),
        ("yes", "", {"paper_value": "curve only"}),
    )
    assert [one.found[0].paper for one in said(rows)] == [".5", "80 % (ratio 0.94)", "curve only"]


def test_a_claim_read_in_two_ways_counts_once(ledger):
    rows = ledger(
        ("no", ""), ("yes", "", {"id": "A-fig-6-0-gate"}), ("yes", "", {"id": "C-1", "paper": "C"})
    )
    assert {kind: list(part["id"]) for kind, part in kinds(rows).items()} == {
        "the papers’ claims": ["A-fig-6-0"],
        "the same with the gate alone": ["A-fig-6-0-gate"],
        "our own": ["C-1"],
    }
    (first, ours) = said(rows)
    assert [found.holds for found in first.found] == ["no", "yes"]
    assert ours.ours


def test_how_an_exhibit_came_out_is_told_of_the_papers_claims(ledger, tmp_path):
    ledger(
        ("no", ""), ("yes", "", {"id": "A-fig-6-0-gate"}), ("yes", "", {"id": "C-1", "paper": "C"})
    )
    exhibits = load_exhibits()
    told = came_out(exhibits["A-fig-6"], ["run"], tmp_path)
    assert told == {"run": "direction does not hold · with the gate alone direction holds"}
    assert came_out(exhibits["A-fig-5"], ["run"], tmp_path) == {}
