"""The ledger of claims."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from mmn_utils.exhibits.ledger import CLAIM_COLUMNS, claims, enter
from mmn_utils.exhibits.saving import Run


def claim(run: Run, id: str, **changes):
    options = {"claim": "It holds.", "paper_value": 1, "value": 0.5, "n": 10, "holds": True}
    return enter(run.folder, id, "A-fig-1", **{**options, **changes})


def test_the_ledger_is_keyed_and_in_natural_order(run):
    for id in ("A-10", "A-2", "A-1", "A-2"):
        claim(run, id, ci=(0.25, 0.75))
    table = claims(run)
    assert list(table.columns) == CLAIM_COLUMNS
    assert table["id"].tolist() == ["A-1", "A-2", "A-10"]
    assert table["ci_low"].tolist() == [0.25] * 3
    claim(run, "A-2", value=None, n=None, holds=None)
    row = claims(run).set_index("id").loc["A-2"]
    assert row["holds"] == "not tested"
    assert np.isnan(row["value"])
    assert np.isnan(row["ci_low"])


def test_the_ledger_does_not_depend_on_the_order_of_writing(tmp_path):
    texts = []
    for order in (["A-1", "A-2", "A-3"], ["A-3", "A-1", "A-2"]):
        run = Run("test", "02_attribution", {}, root=tmp_path / order[0])
        for id in order:
            claim(run, id)
        texts.append((run.folder / "claims.csv").read_bytes())
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "changes",
    [{"holds": "yes"}, {"holds": 1}, {"ci": (0.7, 0.3)}, {"value": None}, {"value": float("nan")}],
)
def test_typed_or_impossible_claims_are_refused(run, changes):
    with pytest.raises(ValueError, match="claim A-1"):
        claim(run, "A-1", **changes)


def test_numpy_verdicts_count_and_the_id_names_the_paper(run):
    assert claim(run, "A-1", holds=np.bool_(True)) == "yes"
    assert claim(run, "A-1", holds=np.bool_(False)) == "no"
    with pytest.raises(ValueError, match="begin with its paper"):
        claim(run, "1")


def test_claims_from_many_notebooks_at_once_all_arrive(run):
    threads = [threading.Thread(target=claim, args=(run, f"A-{i}")) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims(run)) == 12
