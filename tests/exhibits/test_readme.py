"""What the README takes from the shipped runs."""

from __future__ import annotations

import pytest

from mmn_utils.exhibits.entries import SHIPPED
from mmn_utils.exhibits.ledger import claims
from mmn_utils.exhibits.readme import BLOCKS, marks, update_readme, verdict_counts
from mmn_utils.presets import ROOT


def test_update_readme_rewrites_between_the_marks_only():
    parts = ["\n".join([marks(block)[0], "what was there", marks(block)[1]]) for block in BLOCKS]
    text = "\n\n".join(["# Title", *parts, "end\n"])
    new = update_readme(text)
    assert new.startswith("# Title\n")
    assert new.endswith("\n\nend\n")
    assert "what was there" not in new
    assert "A-table-S3" in new
    assert update_readme(new) == new
    with pytest.raises(ValueError, match="two lines"):
        update_readme("# no marks")


def test_the_verdicts_counted_are_those_of_the_papers_claims():
    counts = verdict_counts()
    assert list(counts.index) == list(SHIPPED)
    for run in SHIPPED:
        ledger = claims(run, ROOT / "figures")
        assert counts.loc[run].sum() == (ledger["paper"] != "C").sum() > 0
        assert counts.loc[run, "no"] == ((ledger["paper"] != "C") & (ledger["holds"] == "no")).sum()


def test_the_readme_is_current():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert update_readme(text) == text, "run 'make readme'"
