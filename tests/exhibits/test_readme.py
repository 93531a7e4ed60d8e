"""What the README takes from the shipped runs."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from mmn_utils.exhibits import readme
from mmn_utils.exhibits.entries import MINIATURES, NUMBERS_ALONE, SHIPPED, load_exhibits
from mmn_utils.exhibits.readme import BLOCKS, marks, update_readme, verdict_counts
from mmn_utils.presets import ROOT
from tests.exhibits.samples import entered


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Ledgers of the runs that ship, made up."""
    monkeypatch.setattr(readme, "SHIPPED_FIGURES", tmp_path)
    for run in SHIPPED:
        exhibit = "A-fig-6" if run in (SHIPPED[0], "smol") else "B-table-3"
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
    assert re.findall(r"figures/([^/]+)/report.html#A-fig-6-1\b", lines[0]) == ["miniature", "smol"]
    told = re.findall(r"figures/([^/]+)/report.html#B-table-3-1\b", lines[1])
    assert told == [run for run in MINIATURES if run != "miniature"]


def test_a_papers_claim_never_stands_as_what_came_out(runs):
    rows = {line.split("`")[1]: line for line in readme.exhibits_table().splitlines()[2:]}
    assert list(rows) == list(load_exhibits())
    for id, exhibit in load_exhibits().items():
        said, claim, found = rows[id].partition(exhibit.claim.replace("|", r"\|"))
        assert claim, id
        if exhibit.paper != "C":
            assert said.endswith("<br>*Paper says:* ")
            assert found.startswith("<br>*Here:* ")
    told = "direction holds in 1 of 2; size agrees in 1 of 2 · with the gate alone direction open."
    for run in ("miniature", "smol"):
        assert f"`{run}`: {told}" in rows["A-fig-6"]
    for run in MINIATURES[1:]:
        assert f"`{run}`: direction holds in 1 of 2" in rows["B-table-3"]
    assert "*Here:* shown, not judged. |" in rows["A-fig-1"]


def test_of_photographs_that_are_not_ours_the_claims_are_counted(runs, tmp_path):
    run = NUMBERS_ALONE[0]
    entered(tmp_path / run, "A-fig-6-1", "A-fig-6", holds="yes", like_paper="no")
    line = next(line for line in readme.results().splitlines() if f"`{run}`" in line)
    assert line.startswith(f"| [`{run}`](figures/{run}/claims.csv) | 1 | 1 | 0 |")
    assert f"`{run}`" not in readme.exhibits_table()


def test_what_the_real_model_does_is_read_from_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "SHIPPED_FIGURES", tmp_path)
    assert readme.real_model() == "`make figures PRESET=smol` makes its run.\n"
    (tmp_path / "smol").mkdir()
    right = pd.DataFrame({"source": ["a", "a", "b", "b", "coco_val2017"],
                          "trained": [1, 1, 1, 0, 0], "untrained_projection": [0, 0, 0, 0, 1],
                          "untrained_encoder": [0, 1, 0, 0, 1]})  # fmt: skip
    shares = pd.DataFrame([
        {"image": image, "way": way, "reading": reading, "share": share + image / 100 - 0.005}
        for image in (0, 1) for reading, more in (("plain", 0.3), ("signed", 0))
        for way, share in {"picture": more + 0.02, "picture_random": more + 0.01,
                           "last_token": more + 0.25}.items()
    ])  # fmt: skip
    right.to_csv(tmp_path / "smol" / "C-real-quality.numbers.csv")
    shares.to_csv(tmp_path / "smol" / "C-real-decoding.numbers.csv")
    assert readme.real_model() == (
        "Of 4 photographs that no training saw, captions name the class of **75%**: 0% with an "
        "untrained projection, 25% with an untrained encoder; of 1 of COCO the first noun is right "
        "on 0%. Of the units that attribution ranks first at the image tokens **2.0%** write the "
        "caption's noun, 1.0% of random ones, and 25.0% of those that contribute most at the last "
        "token. [The report](figures/smol/report.html) asks why.\n"
    )


def test_the_readme_is_current():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert update_readme(text) == text, "run 'make readme'"
