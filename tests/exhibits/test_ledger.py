"""The ledger of claims."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from mmn_utils.exhibits.judging import Judged, Verdict
from mmn_utils.exhibits.ledger import CLAIM_COLUMNS, claims, enter, row_of
from mmn_utils.exhibits.saving import Run
from mmn_utils.measures.estimates import Estimate
from tests.exhibits.samples import PAPER, UNTESTED

FOUND = Judged(Estimate(0.25, 0.2, 0.3, 40), Verdict("yes", 0.99), Verdict("no", 1.0), 0.5)


def claim(run: Run, id: str, judged: Judged = FOUND, exhibit: str = "A-fig-1") -> None:
    enter(run.folder, exhibit, {id: row_of(id, exhibit, PAPER, "mean, above 0", judged)})


def test_the_ledger_is_in_natural_order_and_typed(run):
    for id in ("A-10", "A-2", "A-1"):
        claim(run, id, exhibit=f"A-fig-{id[2:]}")
    claim(run, "A-2", UNTESTED, exhibit="A-fig-2")
    table = claims(run)
    assert list(table.columns) == CLAIM_COLUMNS
    assert table["id"].tolist() == ["A-1", "A-2", "A-10"]
    first, second = table.iloc[0], table.iloc[1]
    assert (first["value"], first["ci_low"], first["n"], first["ratio"]) == (0.25, 0.2, 40, 0.5)
    assert (first["holds"], first["stability"]) == ("yes", 0.99)
    assert (first["like_paper"], first["like_stability"]) == ("no", 1.0)
    assert (first["statement"], first["where"]) == (PAPER.statement, PAPER.where)
    assert (second["holds"], second["like_paper"]) == ("not tested", "not tested")
    assert np.isnan(second["value"])
    assert np.isnan(second["stability"])


def test_an_exhibits_claims_replace_its_old_ones(run):
    claim(run, "A-1")
    claim(run, "A-2")
    assert claims(run)["id"].tolist() == ["A-2"]


def test_the_ledger_does_not_depend_on_the_order_of_writing(tmp_path, untold):
    texts = []
    for order in (["A-1", "A-2", "A-3"], ["A-3", "A-1", "A-2"]):
        run = Run("test", "02_attribution", {}, root=tmp_path / order[0], exhibits=untold)
        for id in order:
            claim(run, id, exhibit=id)
        texts.append((run.folder / "claims.csv").read_bytes())
    assert texts[0] == texts[1]


def test_an_id_names_its_paper_and_a_drawn_statement_is_marked():
    with pytest.raises(ValueError, match="begin with its paper"):
        row_of("1", "A-fig-1", PAPER, "t", FOUND)
    drawn = replace(PAPER, where="figure 6", shown="figure")
    assert row_of("A-1", "A-fig-6", drawn, "t", FOUND)["where"] == "figure 6 (figure only)"


def test_claims_from_many_notebooks_at_once_all_arrive(run):
    threads = [
        threading.Thread(target=claim, args=(run, f"A-{i}", FOUND, f"A-fig-{i}")) for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims(run)) == 12
