"""What the claims of notebook 05 make of rows that are counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets.published import published_claim
from mmn_utils.exhibits.judging import Judged, judge_claim
from mmn_utils.exhibits.texts import load_texts

pytestmark = pytest.mark.usefixtures("few_redraws")
MANY = 40
NOISE = np.random.default_rng(0).normal(scale=0.02, size=(5, MANY))
METHODS = ("contribution", "activation", "attribution", "contribution_gate", "activation_gate")


def judged(exhibit: str, id: str, rows: pd.DataFrame, system: str = "LLaVA", **facts) -> Judged:
    claim = load_texts("05_llava_contribution_scoring")[exhibit].claims[id]
    return judge_claim(claim, published_claim(id, system), rows, facts)


def by_method(*means: float) -> pd.DataFrame:
    """Rows of images around a mean of each method; NaN for a method that the system lacks."""
    columns = {name: mean + noise for name, mean, noise in zip(METHODS, means, NOISE, strict=True)}
    return pd.DataFrame(columns).assign(metric="bertscore")


@pytest.mark.parametrize(
    ("means", "value", "holds"),
    [
        ((0.5, 0.1, 0.2), 0.3, "yes"),
        ((0.5, 0.3, 0.2), 0.2, "yes"),  # the better one is chosen, whichever it is
        ((0.2, 0.1, 0.5), -0.3, "no"),
        ((0.3, 0.3, 0.1), 0.0, "no"),  # beyond one of them is not beyond both
    ],
)
@pytest.mark.parametrize("exhibit", ["B-table-2", "B-table-3"])
def test_contribution_has_to_be_ahead_of_both_others(exhibit, means, value, holds):
    id = {"B-table-2": "B-table-2-writes", "B-table-3": "B-table-3-bertscore"}[exhibit]
    found = judged(exhibit, id, by_method(*means, np.nan, np.nan))
    assert found.estimate.value == pytest.approx(value, abs=0.01)
    assert found.estimate.n == MANY
    assert found.holds.word in ((holds, "open") if value == 0 else (holds,))
    gate = judged(exhibit, f"{id}-gate", by_method(*means, np.nan, np.nan))
    assert gate.holds.word == "not tested"  # a system without gates has nothing there
    ours, base, other = means
    gate = judged(exhibit, f"{id}-gate", by_method(9, 9, other, ours, base))
    assert gate.estimate.value == pytest.approx(value, abs=0.01)


def test_a_metric_that_was_not_measured_is_not_tested():
    found = judged("B-table-3", "B-table-3-bleurt", by_method(0.5, 0.1, 0.2, 0.5, 0.1))
    assert found.holds.word == "not tested"


def shared(contribution: float, attribution: float, over: int) -> pd.DataFrame:
    """Concepts of which the first ``over`` share that much by contribution, the rest nothing."""
    share = np.where(np.arange(MANY) < over, contribution, 0.0)
    other = attribution + NOISE[0] / 2
    rows = {"contribution": share, "attribution": other, "contribution_unrelated": 0.01}
    rows |= {"contribution_gate": np.nan, "contribution_gate_unrelated": np.nan}
    table = pd.DataFrame(rows).assign(n=5, k=100)
    return pd.concat([table, table.assign(n=2, contribution=1.0, attribution=1.0)])


@pytest.mark.parametrize(
    ("over", "holds", "all_of_them", "most_of_them"),
    [(40, "yes", "yes", "yes"), (35, "yes", "no", "yes"), (8, "no", "no", "no")],
)
def test_the_papers_bound_is_counted_over_concepts(over, holds, all_of_them, most_of_them):
    facts = {"at": 5, "k": 100, "over": 0.2, "under": 0.1}
    rows = shared(0.3, 0.05, over)
    found = judged("B-fig-4", "B-fig-4-share", rows, **facts)
    assert found.estimate.value == pytest.approx(over / MANY)
    assert (found.holds.word, found.like.word) == (holds, all_of_them)
    others = judged("B-fig-4", "B-fig-4-share", rows, "InstructBLIP", **facts)
    assert others.like.word == most_of_them
    assert judged("B-fig-4", "B-fig-4-share-gate", rows, **facts).holds.word == "not tested"


def test_the_other_method_stays_below_its_bound():
    facts = {"at": 5, "k": 100, "under": 0.1}
    for level, holds in ((0.03, "yes"), (0.4, "no")):
        found = judged("B-fig-4", "B-fig-4-others", shared(0.3, level, MANY), **facts)
        assert found.estimate.value == pytest.approx(level, abs=0.01)
        assert (found.holds.word, found.like.word) == (holds, "")


@pytest.mark.parametrize(
    ("random", "holds"), [(0.0, "yes"), (0.05, "yes"), (0.7, "no"), (-0.3, "no")]
)
def test_next_to_nothing_is_near_zero_on_either_side(random, holds):
    related = 2 + NOISE[0]
    rows = pd.DataFrame({"m": 10, "related": related, "random": random * related + NOISE[1]})
    found = judged("B-table-4", "B-table-4-random", rows, m=10)
    assert found.estimate.value == pytest.approx(random, abs=0.01)
    assert found.holds.word == holds


def test_a_fall_by_construction_is_measured_and_not_tested():
    first = 3 + NOISE[0]
    for kept, like in ((0.657, ("yes", "open")), (0.3, ("no",))):
        rows = pd.DataFrame({"m": 10, "first": first, "related": kept * first + NOISE[1]})
        found = judged("B-table-4", "B-table-4-falls", rows, first=1, m=10)
        assert found.estimate.value == pytest.approx(kept, abs=0.03)
        assert found.holds.word == "not tested"
        assert found.like.word in like


def test_neurons_are_their_own_concepts_beyond_chance():
    rows = pd.DataFrame({"own": [1.0, 0.5] * (MANY // 2), "chance": 0.5})
    found = judged("B-fig-5", "B-fig-5-own", rows)
    assert (found.estimate.value, found.holds.word, found.like.word) == (0.75, "yes", "no")
    found = judged("B-fig-5", "B-fig-5-own", rows.assign(own=rows["chance"]))
    assert found.holds.word == "no"


def test_cost_is_a_ratio_of_means():
    for less, holds in ((0.4, "yes"), (1.3, "no")):
        many = 100 + 100 * NOISE[0]
        counts = {"contribution_operations": less * many, "attribution_operations": many}
        rows = pd.DataFrame(counts)
        found = judged("B-table-cost", "B-table-cost-operations", rows)
        assert found.estimate.value == pytest.approx(less)
        assert found.holds.word == holds
