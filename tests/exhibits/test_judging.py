"""Claims judged by rows: the right rows, the direction, the size, and how stable both are."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmn_utils.datasets.published import PublishedClaim
from mmn_utils.exhibits.formats import to_csv
from mmn_utils.exhibits.judging import cases_of, facts_of, judge_claim, read_numbers
from mmn_utils.exhibits.texts import Claim
from mmn_utils.measures import estimates

PAPER = PublishedClaim("A-x", "", "s", "section 1", "text", "50 %", 0.5, "exact")
CLAIM = Claim("A-x", test="t", value="mean(x)", holds="low > 0")


def rows_of(x: np.ndarray, **more) -> pd.DataFrame:
    return pd.DataFrame({"image": [f"{i:04d}" for i in range(len(x))], "x": x, **more})


def spread(mean: float, sd: float, n: int) -> np.ndarray:
    """Return n values with exactly this mean and deviation."""
    values = np.random.default_rng(n).normal(size=n)
    return mean + sd * (values - values.mean()) / values.std(ddof=1)


def test_the_estimate_is_the_measures_own():
    x = spread(0.3, 0.4, 100)
    judged = judge_claim(CLAIM, PAPER, rows_of(x), {}, seed=3)
    assert judged.estimate == estimates.mean_of(x, seed=3)
    assert judged.ratio == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("distance", "word"), [(6.0, "yes"), (2.2, "open"), (-6.0, "no"), (1.7, "open"), (0.0, "no")]
)
def test_a_direction_is_open_where_a_redraw_would_often_say_otherwise(distance, word):
    # the mean lies so many of its standard errors above zero
    judged = judge_claim(CLAIM, PAPER, rows_of(spread(distance / 10, 1.0, 100)), {})
    assert judged.holds.word == word
    assert (judged.holds.stability >= 0.9) == (word != "open")


def test_stability_is_the_share_of_redraws_that_say_the_same():
    from scipy import stats  # its own bootstrap, of other random numbers

    x = spread(0.25, 1.0, 100)
    judged = judge_claim(CLAIM, PAPER, rows_of(x), {})
    rng = np.random.default_rng(7)
    again = stats.ttest_1samp(rng.choice(x, (4000, 100)), 0, axis=1).confidence_interval().low > 0
    # three standard errors of a share over 200 redraws, and t for the house's interval
    assert judged.holds.stability == pytest.approx(np.mean(again), abs=0.11)


@pytest.mark.parametrize(
    ("reading", "figure", "x", "word"),
    [
        ("exact", 0.5, spread(0.5, 0.1, 50), "yes"),
        ("exact", 0.5, spread(0.6, 0.1, 50), "no"),
        ("all", 1.0, np.ones(50), "yes"),
        ("all", 1.0, np.r_[np.ones(49), 0.5], "no"),  # one that fails refutes "all"
        ("all", 1.0, np.r_[np.ones(40), np.zeros(10)], "no"),
        ("all", 0.0, np.zeros(50), "yes"),
        ("above", 0.4, spread(0.6, 0.1, 50), "yes"),
        ("above", 0.7, spread(0.6, 0.1, 50), "no"),
        ("below", 0.7, spread(0.6, 0.1, 50), "yes"),
    ],
)
def test_the_size_follows_the_reading_of_the_papers_figure(reading, figure, x, word):
    paper = replace(PAPER, reading=reading, value=figure)
    assert judge_claim(CLAIM, paper, rows_of(x), {}).like.word == word


@pytest.mark.parametrize(("low", "high", "word"), [(0.4, 0.6, "yes"), (0.4, 0.5, "no")])
def test_a_figure_of_a_few_cases_has_an_interval_of_its_own(low, high, word):
    paper = replace(PAPER, reading="exact", value=0.45, low=low, high=high)
    assert judge_claim(CLAIM, paper, rows_of(spread(0.8, 0.1, 50)), {}).like.word == "no"
    assert judge_claim(CLAIM, paper, rows_of(spread(0.56, 0.1, 50)), {}).like.word == word


@pytest.mark.parametrize(
    ("figure", "ratio"), [(0.15, 2.0), (-0.15, None), (0.005, None), (0.0, None)]
)
def test_a_ratio_is_of_figures_with_one_sign_that_are_not_negligible(figure, ratio):
    paper = replace(PAPER, value=figure)
    assert judge_claim(CLAIM, paper, rows_of(spread(0.3, 0.4, 100)), {}).ratio == (
        ratio and pytest.approx(ratio)
    )


def test_a_paper_without_a_figure_has_no_size():
    judged = judge_claim(CLAIM, replace(PAPER, value=None, reading=""), rows_of(np.ones(9)), {})
    assert (judged.like.word, judged.like.stability, judged.ratio) == ("", None, None)


def test_one_case_decides_nothing_and_none_is_not_tested():
    one = judge_claim(replace(CLAIM, holds="value > 0"), PAPER, rows_of(np.ones(1)), {})
    assert one.holds.word == "open"
    none = judge_claim(CLAIM, PAPER, rows_of(np.full(4, np.nan)), {})
    assert (none.estimate, none.holds.word, none.like.word) == (None, "not tested", "not tested")
    rule = judge_claim(replace(CLAIM, holds="none"), PAPER, rows_of(np.ones(4)), {})
    assert rule.holds.word == "not tested"


def test_rows_are_chosen_averaged_within_a_case_and_laid_out_wide():
    long = pd.DataFrame(
        [(f"{i:02d}", k, i + k + half) for i in range(3) for k in (0, 5) for half in (0.0, 1.0)],
        columns=["image", "k", "x"],
    )
    chosen = cases_of(replace(CLAIM, rows="k == {{ most }}"), long, {"most": 5})
    assert chosen["x"].tolist() == [5, 6, 6, 7, 7, 8]
    averaged = cases_of(replace(CLAIM, rows="k == 5", case="image"), long, {})
    assert averaged["x"].tolist() == [5.5, 6.5, 7.5]
    wide = replace(CLAIM, wide=("image", "k", "x"), value="falls(table)")
    assert cases_of(replace(wide, rows="k == 9"), long, {}) == {}
    assert cases_of(wide, long, {})["table"].tolist() == [[0.5, 5.5], [1.5, 6.5], [2.5, 7.5]]
    named = pd.DataFrame({"image": [1, 1, 2, 2], "c": ["a", "b"] * 2, "x": [1.0, 2.0, 3.0, 4.0]})
    two = replace(CLAIM, wide=("image", "c", "x"), value="difference(b, a)")
    found = cases_of(two, named, {})
    assert {name: column.tolist() for name, column in found.items()} == {"a": [1, 3], "b": [2, 4]}


def test_a_case_that_lacks_a_value_in_use_is_left_out():
    rows = rows_of(np.arange(4.0), y=[1.0, np.nan, 1.0, 1.0], z=[np.nan] * 4)
    claim = replace(CLAIM, value="difference(x, y)")
    assert judge_claim(claim, PAPER, rows, {}).estimate.n == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "mean(y)"}, "A-x: y is no column"),
        ({"rows": "y == 1"}, "A-x: rows = 'y == 1'"),
        ({"value": "mean(image)"}, "holds no numbers"),
        ({"value": "x.mean()"}, "no measure of the rows"),
        ({"holds": "value"}, "must be true, false or none"),
        ({"case": "y"}, "no column 'y'"),
    ],
)
def test_what_cannot_be_judged_is_named(change, message):
    rows = rows_of(np.arange(4.0)).assign(image=["a", "b", "c", "d"])
    with pytest.raises(ValueError, match=message):
        judge_claim(replace(CLAIM, **change), PAPER, rows, {})


def test_only_the_facts_in_use_are_picked_and_a_missing_one_is_named():
    claim = replace(CLAIM, test="over {{ n }}", rows="x > {{ least }}", holds="low > floor")
    known = {"n": 3, "least": 0, "floor": 1, "model": object()}
    assert facts_of(claim, ["image", "x"], known) == {"n": 3, "least": 0, "floor": 1}
    with pytest.raises(ValueError, match="A-x: least is no column and no fact"):
        facts_of(claim, ["image", "x"], {"n": 3, "floor": 1})


@given(st.lists(st.booleans(), min_size=1), st.floats(-10, 10))
def test_stored_rows_are_read_as_numbers(flags, number):
    stored = to_csv(pd.DataFrame({"flag": flags, "x": [number] * len(flags), "none": np.nan}))
    read = read_numbers(io.StringIO(stored))
    assert read["flag"].tolist() == [float(flag) for flag in flags]
    assert read["x"].to_numpy() == pytest.approx(number, rel=1e-4, abs=1e-12)
    assert read["none"].isna().all()
