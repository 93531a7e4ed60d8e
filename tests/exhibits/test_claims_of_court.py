"""What the claims of the method court make of rows that are counted by hand."""

from __future__ import annotations

from io import StringIO

import pandas as pd
import pytest

from mmn_utils.datasets.published import published_claim
from mmn_utils.exhibits.formats import to_csv
from mmn_utils.exhibits.judging import Judged, judge_claim, read_numbers
from mmn_utils.exhibits.texts import load_texts

pytestmark = pytest.mark.usefixtures("few_redraws")
NOTEBOOK, MANY = "09_method_court", 30
TEXTS = load_texts(NOTEBOOK)
QUESTIONS = ("all", "image", "step")


def judged(exhibit: str, id: str, rows: pd.DataFrame, **facts) -> Judged:
    """Judge a claim by rows as they are once stored."""
    stored = read_numbers(StringIO(to_csv(rows)))
    facts = {"pictures": "scenes", "most_steps": 50, **facts}
    return judge_claim(TEXTS[exhibit].claims[id], published_claim(id), stored, facts)


def verdicts(measure: str, values: dict[str, float], place: dict[str, str]) -> pd.DataFrame:
    """Pictures by scores and questions: a number each, a little more or less each time."""
    roles = {"gradient": "gradient", "integrated_50": "integrated"}
    rows = [
        (
            f"p{i}",
            question,
            score,
            place.get(score, ""),
            roles.get(score, ""),
            value + 0.01 * (i % 2 - 0.5) * (j % 2),
        )
        for i in range(MANY)
        for question in QUESTIONS
        for j, (score, value) in enumerate(values.items())
    ]
    columns = ["image", "question", "score", "place", "role", measure]
    return pd.DataFrame(rows, columns=columns)


RANKS = {"gradient": 0.9, "integrated_50": 0.6, "attribution_sum": 0.7, "attribution_max": 0.3,
         "contribution_gated_none": 0.5, "contribution_gated_final": 0.5,
         "activation_step": 0.1}  # fmt: skip
PLACES = {"gradient": "best", "attribution_sum": "second"}


@pytest.mark.parametrize(
    ("id", "value", "holds"),
    [
        ("best-all", 0.2, "yes"),
        ("best-image", 0.2, "yes"),
        ("best-step", 0.2, "yes"),
        ("activation", 0.2, "yes"),
        ("sum", 0.4, "yes"),
        ("path", -0.3, "no"),
        ("step", 0.4, "yes"),
        ("norm", 0.0, "no"),
    ],
)
def test_scores_are_compared_by_their_rank_correlation(id, value, holds):
    found = judged("C-court", f"C-court-{id}", verdicts("rank", RANKS, PLACES))
    assert found.estimate.value == pytest.approx(value, abs=1e-6)
    assert found.estimate.n == MANY
    assert found.holds.word == holds


def test_a_question_is_judged_by_its_own_rows():
    rows = verdicts("rank", RANKS, PLACES)
    turned = rows["question"] == "step"
    rows.loc[turned, "place"] = rows.loc[turned, "place"].map(
        {"best": "second", "second": "best", "": ""}
    )
    assert judged("C-court", "C-court-best-step", rows).holds.word == "no"
    assert judged("C-court", "C-court-best-all", rows).holds.word == "yes"


def test_papers_are_compared_by_what_they_find_of_the_first():
    values = {"attribution_max": 0.6, "contribution_gated_none": 0.45, "gradient": 1.0}
    found = judged("C-court", "C-court-papers", verdicts("top_20", values, {}))
    assert found.estimate.value == pytest.approx(0.15, abs=1e-6)
    assert found.holds.word == "yes"


@pytest.mark.parametrize(("slope", "holds"), [(1.0, "yes"), (1.2, "no"), (0.8, "no")])
def test_a_size_is_right_within_a_tenth(slope, holds):
    rows = verdicts("slope", {"attribution_sum": 3.0, "gradient": slope}, {})
    found = judged("C-court", "C-court-slope", rows)
    assert found.estimate.value == pytest.approx(slope, abs=1e-6)
    assert found.holds.word == holds


@pytest.mark.parametrize(("exact", "holds"), [(0.2, "yes"), (0.35, "no")])
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_exact_order_bounds_where_it_leaves_less_than_the_closest(question, exact, holds):
    values = {"exact": exact, "gradient": 0.3, "contribution_gated_none": 0.6,
              "attribution_max": 0.4}  # fmt: skip
    rows = verdicts("left", values, {"exact": "exact", "gradient": "closest"})
    found = judged("C-court-curves", f"C-court-curves-bound-{question}", rows)
    assert found.estimate.value == pytest.approx(0.3 - exact, abs=1e-6)
    assert found.holds.word == holds
    papers = judged("C-court-curves", "C-court-curves-papers", rows)
    assert papers.estimate.value == pytest.approx(0.2, abs=1e-6)
    assert papers.holds.word == "yes"


def together(kept: float, additive: float, lost: float, total: float) -> pd.DataFrame:
    rows = []
    for i in range(MANY):
        image, little = f"p{i}", 0.01 * (i % 2 - 0.5)
        rows.append({"kind": "pairs", "image": image, "kept": kept + little,
                     "additive": additive + little})  # fmt: skip
        for question, k in (("all", 1), ("all", 50), ("step", 50)):
            share = lost if (question, k) == ("all", 50) else 1.5
            rows.append({"kind": "lists", "image": image, "question": question, "k": k,
                         "lost": share * (i + 1) + little, "alone": i + 1.0})  # fmt: skip
        for layer in range(3):
            direct, left = 2.0 + i % 3, total if layer < 2 else 1.0
            rows.append({"kind": "repair", "image": image, "layer": layer, "direct": direct,
                         "total": left * direct + little})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("kept", "additive", "lost", "total", "word"),
    [(0.9, 0.8, 0.7, 0.75, "yes"), (1.1, 0.2, 1.2, 1.3, "no")],
)
def test_units_together_and_what_is_given_back(kept, additive, lost, total, word):
    rows, facts = together(kept, additive, lost, total), {"layers": 3, "largest": 50}
    expected = {"less": 1 - kept, "pairs": additive, "lists": lost, "repair": 1 - total}
    for id, value in expected.items():
        found = judged("C-interactions", f"C-interactions-{id}", rows, **facts)
        assert found.estimate.value == pytest.approx(value, abs=0.01), id
        assert found.estimate.n == MANY
        assert found.holds.word == word, id
