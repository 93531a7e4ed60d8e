"""Which conclusions a choice turns, of tables that are written by hand."""

from __future__ import annotations

from io import StringIO

import pandas as pd
import pytest

from mmn_utils.datasets.published import published_claim
from mmn_utils.exhibits import switches
from mmn_utils.exhibits.formats import to_csv
from mmn_utils.exhibits.judging import judge_claim, read_numbers
from mmn_utils.exhibits.texts import load_texts
from tests.exhibits.verdict_tables import rows_of, verdict, write_both, write_table


@pytest.fixture
def root(tmp_path):
    return write_both(tmp_path)


@pytest.fixture
def both(root):
    return [switches.read(name, root) for name in switches.there(root)]


def test_the_matrix_has_a_row_for_each_claim_and_a_column_for_each_setting(both):
    first = both[0].matrix
    assert first.index.tolist() == ["A-fig-1-x", "A-fig-2-x", "A-fig-3-x", "A-fig-4-x"]
    assert {column: first[column].tolist() for column in first} == {
        ("default", ""): ["yes", "no", "open", "yes"],
        ("rank_by", "sum"): ["yes", "yes", "yes", ""],  # the fourth does not concern it
        ("target", "probability"): ["yes", "open", "", ""],
        ("dtype", "bfloat16"): ["yes", "no", "open", ""],
    }


def test_a_claim_is_turned_where_both_verdicts_were_tested_and_differ(both):
    first, second = both
    assert first.turns == {
        "A-fig-1-x": [],
        "A-fig-2-x": [("rank_by", "sum", "yes"), ("target", "probability", "open")],
        "A-fig-3-x": [("rank_by", "sum", "yes")],
        "A-fig-4-x": [],
    }
    assert first.decided == ["A-fig-1-x", "A-fig-2-x", "A-fig-4-x"]
    assert first.tried == ["A-fig-1-x", "A-fig-2-x"]  # nothing judges the fourth again
    assert first.unturned == ["A-fig-1-x"]
    assert second.unturned == second.decided == ["B-table-1-x", "B-table-1-x-gate"]
    assert not any(second.turns.values())


def test_settings_are_counted_by_what_they_turn_and_reverse(both):
    counted = both[0].by_setting.set_index(["switch", "setting"])
    assert counted.T.to_dict("list") == {
        ("rank_by", "sum"): [3, 2, 1],
        ("target", "probability"): [2, 1, 0],
        ("dtype", "bfloat16"): [3, 0, 0],
    }
    assert both[0].most() == {"rank_by: sum": 2}
    assert both[1].most() == {}


def test_what_is_turned_is_told_in_words(both):
    table = switches.turned_table(both)
    assert table.values.tolist() == [
        ["A-fig-2-x", "What A-fig-2-x states.", "no",
         "rank_by: sum (yes); target: probability (open)"],
        ["A-fig-3-x", "What A-fig-3-x states.", "open", "rank_by: sum (yes)"],
    ]  # fmt: skip
    assert switches.reversed_rows(both) == [
        {"statement": "What A-fig-2-x states.", "before": "no", "holds": "yes",
         "by": "rank_by: sum"},
    ]  # fmt: skip
    assert both[1].statement("B-table-1-x-gate") == "What B-table-1-x-gate states (by the gate)."
    told = switches.told(both)
    assert (told["by_choices"], told["by_numerics"]) == (3, 0)
    assert set(told["absent"]) == {"first", "second"}
    assert told["absent"]["first"]["why"].tolist() == ["it has no other rows"]


def test_the_readme_says_how_many_statements_stand_and_which_do_not(root, tmp_path):
    said = switches.sentence(root)
    assert said.startswith(
        "Of 4 statements of the papers that hold, or do not, on `first` and `second`, **3 come out "
        "the same under every setting that concerns them**, of 4 settings of what the papers leave"
    )
    assert "all but: What A-fig-2-x states" in said
    assert said.count("\n") == 1
    assert "yet to be run" not in said  # what has no other rows needs no run
    assert switches.sentence(tmp_path / "none").startswith("`make switches` says")


def test_the_readme_counts_the_settings_that_nobody_has_run(root):
    missing = [("dtype", "int8"), ("threads", "two"), ("dtype", "bfloat16")]  # the last, elsewhere
    rows = [verdict(*pair, why=switches.NOT_RUN) for pair in missing]
    write_table(root, "second", [*rows_of("second")[:3], *rows])
    assert "of the numerics beneath (2 more are yet to be run), all but" in switches.sentence(root)


def test_overlaps_are_laid_out_by_setting(both):
    table = switches.overlap_table(both)
    assert table["switch"].tolist() == ["rank_by: sum", "dtype: bfloat16", "dtype: bfloat16"]
    assert table["top 20"].tolist() == ["61.0% [50.0%, 70.0%]"] * 3
    rows = switches.overlap_rows(both)
    assert rows["k"].tolist() == [20, 100] * 3
    assert rows["ci_high"].tolist() == [0.7] * 6


def test_the_setting_that_leaves_least_is_named_for_each_preset_and_kind(both):
    rows = both[0].rows
    rows.loc[(rows["switch"] == "rank_by") & (rows["claim"] == "overlap-20"), "value"] = 0.2
    assert switches.least_overlaps(both) == [
        {"preset": "first", "kind": "choice", "setting": "rank_by: sum", "share": 0.2, "alike": ""},
        {"preset": "first", "kind": "numerics", "setting": "dtype: bfloat16", "share": 0.61,
         "alike": ""},
        {"preset": "second", "kind": "numerics", "setting": "dtype: bfloat16", "share": 0.61,
         "alike": ""},
    ]  # fmt: skip


@pytest.mark.parametrize(("low", "alike"), [(0.7, "dtype: float16"), (0.71, "")])
def test_settings_whose_intervals_meet_are_named_with_the_one_that_leaves_least(both, low, alike):
    table = both[1].rows
    other = table[table["claim"].str.startswith("overlap")].assign(setting="float16", value=0.8)
    rows = pd.concat([table, other.assign(ci_low=low, ci_high=0.9)], ignore_index=True)
    (found,) = switches.least_overlaps([switches.Verdicts("second", rows)])
    assert (found["setting"], found["alike"]) == ("dtype: bfloat16", alike)


@pytest.mark.parametrize(
    ("claim", "value", "n"),
    [
        # of two decided claims of the first, one of the second's, all stay in bfloat16
        ("C-switches-numerics", 1.0, 3),
        # by choices one of two is turned by 1, the rest by 0; the gate's has no numerics
        ("C-switches-choices", 1 / 3, 3),
    ],
)
def test_our_claims_are_computed_from_the_rows_beneath_the_figure(both, claim, value, n):
    rows = read_numbers(StringIO(to_csv(switches.numbers(both))))
    tested = load_texts("10_switches")["C-switches"].claims[claim]
    found = judge_claim(tested, published_claim(claim), rows, {"both_kinds": True})
    assert found.estimate.value == pytest.approx(value, abs=1e-4)
    assert found.estimate.n == n


def test_where_no_numerics_were_judged_they_are_not_compared(both):
    rows = switches.numbers(both)
    rows = read_numbers(StringIO(to_csv(rows[rows["kind"] != "numerics"])))
    for id, claim in load_texts("10_switches")["C-switches"].claims.items():
        found = judge_claim(claim, published_claim(id), rows, {"both_kinds": False})
        assert found.holds.word == "not tested", id


def test_the_rows_beneath_the_figure_tell_choices_from_numerics(both):
    rows = switches.numbers(both)
    assert rows.groupby("kind").size().to_dict() == {"choice": 7, "default": 6, "numerics": 4}
    turned = rows.loc[rows["turned"] == 1, "claim"].tolist()
    assert turned == ["A-fig-2-x", "A-fig-3-x", "A-fig-2-x"]
    assert not rows["claim"].isin(["B-table-2-x"]).any()  # never tested


def test_a_table_that_cannot_be_judged_by_is_refused(tmp_path):
    rows = rows_of("first")
    with pytest.raises(ValueError, match=r"first.csv is not there; make it with 'make switches"):
        switches.read("first", tmp_path)
    cases = {
        "'perhaps' is no verdict": [*rows, verdict("a", "b", "A-fig-1-x", holds="perhaps")],
        "rank_by sum A-fig-1-x is there twice": [*rows, verdict("rank_by", "sum", "A-fig-1-x")],
        "A-fig-9-x was not judged by default": [*rows, verdict("a", "b", "A-fig-9-x", holds="no")],
        "no rows of the switch 'default'": rows[4:],
    }
    for message, some in cases.items():
        write_table(tmp_path, "first", some)
        with pytest.raises(ValueError, match=message):
            switches.read("first", tmp_path)
    pd.DataFrame({"claim": ["A"]}).to_csv(tmp_path / "first.csv", index=False)
    with pytest.raises(ValueError, match="has the columns"):
        switches.read("first", tmp_path)
