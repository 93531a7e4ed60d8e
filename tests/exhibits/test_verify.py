"""Claims computed again from stored rows: those that ship, and rows that were tampered with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from mmn_utils.datasets.published import published_claims
from mmn_utils.exhibits.__main__ import main
from mmn_utils.exhibits.entries import NUMBERS_ALONE, SHIPPED, load_exhibits, shipped
from mmn_utils.exhibits.ledger import claims
from mmn_utils.exhibits.texts import load_texts
from mmn_utils.exhibits.verify import verify
from mmn_utils.presets import ROOT

FIGURES = ROOT / "figures"
NUMBERS = [run for run in NUMBERS_ALONE if (FIGURES / run).is_dir()]
KEPT = ("A-fig-4", "A-fig-6")


@pytest.mark.parametrize("run", [*shipped(FIGURES), *NUMBERS])
def test_every_claim_that_ships_follows_from_its_rows(run):
    count, lines = verify(run, FIGURES)
    assert lines == []
    assert count == len(claims(run, FIGURES)) > 0


def test_every_statement_is_tested_and_every_claim_has_its_statement():
    notebooks = {exhibit.notebook for exhibit in load_exhibits().values()}
    tested = {id for name in notebooks for text in load_texts(name).values() for id in text.claims}
    assert {id.removesuffix("-gate") for id in tested} == {claim.id for claim in published_claims()}


@pytest.fixture
def copy(tmp_path) -> Path:
    """Two exhibits of a shipped run with their claims, to be tampered with."""
    folder = tmp_path / SHIPPED[0]
    folder.mkdir()
    for id in KEPT:
        for suffix in (".json", ".numbers.csv"):
            shutil.copy(FIGURES / folder.name / f"{id}{suffix}", folder)
    ledger = pd.read_csv(FIGURES / folder.name / "claims.csv", dtype=str, keep_default_na=False)
    ledger[ledger["exhibit"].isin(KEPT)].to_csv(folder / "claims.csv", index=False)
    return folder


def test_another_row_is_another_value(copy):
    assert verify(copy.name, copy.parent)[1] == []
    path = copy / "A-fig-6.numbers.csv"
    rows = pd.read_csv(path, dtype=str)
    rows.loc[rows.index[-1], "top"] = "0.987"
    rows.to_csv(path, index=False)
    _, lines = verify(copy.name, copy.parent)
    assert any(line.startswith("A-fig-6-top: value is") for line in lines)


def test_a_typed_verdict_is_found(copy, monkeypatch, capsys):
    path = copy / "claims.csv"
    ledger = pd.read_csv(path, dtype=str, keep_default_na=False)
    row = ledger.index[ledger["id"] == "A-fig-6-top"][0]
    ledger.loc[row, "like_paper"] = "yes" if ledger.loc[row, "like_paper"] != "yes" else "no"
    ledger.to_csv(path, index=False)
    monkeypatch.setenv("MMN_FIGURES", str(copy.parent))
    assert main(["verify", copy.name]) == 1
    assert "A-fig-6-top: like_paper is" in capsys.readouterr().out


def test_a_claim_too_many_or_too_few_is_found(copy):
    path = copy / "claims.csv"
    ledger = pd.read_csv(path, dtype=str, keep_default_na=False)
    ledger.loc[0, "id"] = "A-fig-9-invented"
    ledger.to_csv(path, index=False)
    _, lines = verify(copy.name, copy.parent)
    assert "A-fig-9-invented: in claims.csv, not in the rows" in lines
    assert any(line.endswith("in the rows, not in claims.csv") for line in lines)


def test_a_run_without_claims_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no claims; make the run"):
        verify("absent", tmp_path)
