"""Claims of both papers side by side over runs, of ledgers that are written by hand."""

from __future__ import annotations

import re

import pytest

from mmn_utils.exhibits import systems
from mmn_utils.exhibits.formats import to_markdown
from tests.exhibits.samples import entered

RUNS = ["first", "second", "third", "absent"]


@pytest.fixture
def root(tmp_path):
    """Three ledgers: two share three claims, the third tested none of them."""
    entered(tmp_path / "first", "A-fig-1-x", "A-fig-1", value="0.51234", holds="yes")
    entered(tmp_path / "first", "A-fig-2-x", "A-fig-2", value="0.1", holds="no",
            statement="Units | write *words*\nof it.", paper_value="p < .001")  # fmt: skip
    entered(tmp_path / "first", "B-table-1-x", "B-table-1", value="", holds="not tested")
    entered(tmp_path / "first", "C-real-x", "C-real")  # ours: left out
    entered(tmp_path / "second", "A-fig-1-x", "A-fig-1", value="3", holds="yes")
    entered(tmp_path / "second", "A-fig-2-x", "A-fig-2", value="0.9", holds="yes")
    entered(tmp_path / "second", "B-table-1-x", "B-table-1", value="", holds="open")
    entered(tmp_path / "second", "B-table-2-x", "B-table-2", value="-0.2", holds="open")
    entered(tmp_path / "third", "B-table-1-x", "B-table-1", value="", holds="not tested")
    return tmp_path


def test_claims_of_the_papers_are_listed_for_each_run_that_is_there(root):
    rows = systems.by_system(RUNS, root)
    assert systems.runs_there(RUNS, root) == ["first", "second", "third"]
    assert rows["run"].tolist() == ["first"] * 3 + ["second"] * 4 + ["third"]
    assert not rows["id"].str.startswith("C-").any()
    assert rows["value"].iloc[0] == 0.51234
    with pytest.raises(ValueError, match="none of the runs absent, gone has a ledger; make them"):
        systems.by_system(["absent", "gone"], root)


def test_the_table_has_a_row_for_each_claim_and_a_cell_for_each_run(root):
    table = systems.wide(systems.by_system(RUNS, root))
    assert table.columns.tolist() == ["id", "statement", "paper_value", "first", "second", "third"]
    cells = table.set_index("id")[["first", "second", "third"]].T.to_dict("list")
    assert cells == {
        "A-fig-1-x": ["yes (0.512)", "yes (3)", ""],
        "A-fig-2-x": ["no (0.1)", "yes (0.9)", ""],
        "B-table-1-x": ["–", "open", "–"],
        "B-table-2-x": ["", "open (-0.2)", ""],
    }


def test_the_table_is_markdown_whatever_a_statement_has(root):
    lines = to_markdown(systems.wide(systems.by_system(RUNS, root))).splitlines()
    assert len(lines) == 2 + 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {7}
    assert r"Units \| write \*words\*<br>of it." in lines[3]


def test_two_runs_agree_where_both_tested(root):
    rows = systems.by_system(RUNS, root)
    both = systems.agreement(rows, "first", "second")
    assert both[["id", "first", "second"]].values.tolist() == [
        ["A-fig-1-x", "yes", "yes"],
        ["A-fig-2-x", "no", "yes"],
    ]
    assert systems.agreement(rows, "first", "third").empty  # which tested nothing
    assert systems.agreement(rows, "first", "absent").columns.tolist() == [
        "id", "statement", "first", "absent",
    ]  # fmt: skip


def test_what_is_read_out_counts_verdicts_and_names_those_that_differ(root):
    told = systems.told(systems.by_system(RUNS, root), RUNS)
    assert told["there"] == ["first", "second", "third"]
    assert told["absent"] == ["absent"]
    assert told["counts"] == {
        "first": {"yes": 1, "no": 1, "not tested": 1},
        "second": {"yes": 2, "open": 2},
        "third": {"not tested": 1},
    }
    (first, other, both, same, unlike) = told["differ"][0]
    assert (first, other, both, same) == ("first", "second", 2, 1)
    assert unlike["id"].tolist() == ["A-fig-2-x"]
    assert unlike.iloc[0][["first", "second"]].tolist() == ["no", "yes"]
    assert len(told["differ"]) == 1  # the third has nothing in common with the first


def test_one_run_alone_differs_from_none(root):
    rows = systems.by_system(["second"], root)
    assert systems.told(rows, ["second"])["differ"] == []
    assert systems.wide(rows).columns.tolist() == ["id", "statement", "paper_value", "second"]
