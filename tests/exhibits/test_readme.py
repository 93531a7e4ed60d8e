"""What the README takes from the shipped runs."""

from __future__ import annotations

import pytest

from mmn_utils.exhibits import readme
from mmn_utils.exhibits.entries import SHIPPED, load_exhibits
from mmn_utils.exhibits.readme import BLOCKS, marks, update_readme, verdict_counts
from mmn_utils.presets import ROOT
from tests.exhibits.samples import entered


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Ledgers of the runs that ship, made up."""
    monkeypatch.setattr(readme, "SHIPPED_FIGURES", tmp_path)
    for run in SHIPPED:
        paper = "A" if run == SHIPPED[0] else "B"
        exhibit = {"A": "A-fig-6", "B": "B-table-3"}[paper]
        entered(tmp_path / run, f"{exhibit}-1", exhibit, holds="no", like_paper="no")
        entered(tmp_path / run, f"{exhibit}-2", exhibit, holds="yes", like_paper="yes")
        entered(tmp_path / run, f"{exhibit}-2-gate", exhibit, holds="open")
        entered(tmp_path / run, "C-1", exhibit, paper="C")


def test_update_readme_rewrites_between_the_marks_only(runs):
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


def test_the_verdicts_counted_are_those_of_the_papers_claims(runs):
    counts = verdict_counts()
    assert [run for run, _ in counts] == [run for run in SHIPPED for _ in range(2)]
    for (_, kind), counted in counts.items():
        gate = "gate" in kind
        assert sum(counted["direction"].values()) == sum(counted["size"].values()) == 2 - gate
        both = {"yes": 1 - gate, "no": 1 - gate}
        assert counted["direction"] == {**both, "open": gate, "not tested": 0}


def test_what_is_not_so_is_listed_with_its_runs(runs):
    said = readme.results().split("| run |")[0]
    lines = [line for line in said.splitlines() if line.startswith("* ")]
    assert [line.partition(" (Paper ")[2][0] for line in lines] == ["A", "B"]
    assert lines[0].count("report.html#") == 1
    assert all(f"figures/{run}/report.html#B-table-3-1" in lines[1] for run in SHIPPED[1:])


def test_a_papers_claim_never_stands_as_what_came_out(runs):
    rows = {line.split("`")[1]: line for line in readme.exhibits_table().splitlines()[2:]}
    assert list(rows) == list(load_exhibits())
    for id, exhibit in load_exhibits().items():
        said, claim, found = rows[id].partition(exhibit.claim.replace("|", r"\|"))
        assert claim, id
        if exhibit.paper != "C":
            assert said.endswith("<br>*Paper says:* ")
            assert found.startswith("<br>*Here:* ")
    told = (
        "*Here:* direction holds in 1 of 2; size agrees in 1 of 2 · "
        "with the gate alone direction open."
    )
    assert told in rows["A-fig-6"]
    for run in SHIPPED[1:]:
        assert f"`{run}`: direction holds in 1 of 2" in rows["B-table-3"]
    assert "*Here:* shown, not judged. |" in rows["A-fig-1"]


def test_the_readme_is_current():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert update_readme(text) == text, "run 'make readme'"
