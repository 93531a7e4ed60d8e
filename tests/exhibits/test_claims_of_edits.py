"""What the claims on edits and on the atlas make of rows that are counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets.published import published_claim
from mmn_utils.exhibits.judging import Judged, judge_claim
from mmn_utils.exhibits.texts import load_texts

pytestmark = pytest.mark.usefixtures("few_redraws")
MANY = 40


def judged(exhibit: str, id: str, rows: pd.DataFrame, notebook: str = "06_editing") -> Judged:
    claim = load_texts(notebook)[exhibit].claims[id]
    return judge_claim(claim, published_claim(id), rows, {})


def perturbed(top: float, random: float) -> pd.DataFrame:
    """Two nouns an image, of which so large a share of captions changes and loses the noun."""
    rows = []
    for i in range(MANY):
        for noun in range(2):
            for condition, share in (("multimodal", top), ("random", random)):
                hit = float((2 * i + noun) % 20 < 20 * share)
                rows.append((str(i), str(noun), condition, hit, 1 - hit))
    return pd.DataFrame(rows, columns=["image", "target", "condition", "changed", "kept"])


@pytest.mark.parametrize(
    ("top", "random", "verdicts"),
    [
        (0.6, 0.2, {"changed": ("yes", "no"), "removed": ("yes", ""), "random": ("no", "no")}),
        (0.2, 0.2, {"changed": ("no", "no"), "removed": ("no", ""), "random": ("no", "no")}),
        (1.0, 0.0, {"changed": ("yes", "yes"), "removed": ("yes", "")}),
    ],
)
def test_noise_is_judged_against_random_neurons(top, random, verdicts):
    rows = perturbed(top, random)
    for name, expected in verdicts.items():
        found = judged("B-table-5", f"B-table-5-{name}", rows)
        assert (found.holds.word, found.like.word) == expected, name
        assert found.estimate.n == MANY
        assert found.estimate.value == pytest.approx(1 - random if name == "random" else top)


def test_no_impact_takes_an_interval_that_says_so():
    few = perturbed(0.5, 0.0).iloc[:40]  # ten images say little of one caption in twenty
    assert judged("B-table-5", "B-table-5-random", few).holds.word == "no"
    many = pd.concat([perturbed(0.5, 0.0).assign(image=lambda t, k=k: t["image"] + f"-{k}")
                      for k in range(5)])  # fmt: skip
    found = judged("B-table-5", "B-table-5-random", many)
    assert (found.estimate.value, found.estimate.n) == (1, 5 * MANY)
    assert (found.holds.word, found.like.word) == ("yes", "yes")


def tried(shares: dict[str, float], role: str, column: str) -> pd.DataFrame:
    """Images of one role, on which each way succeeds in so many."""
    rows = [
        (str(i), way, role, float(i < MANY * share))
        for way, share in shares.items()
        for i in range(MANY)
    ]
    return pd.DataFrame(rows, columns=["image", "way", "role", column])


@pytest.mark.parametrize(
    ("id", "role", "column", "share", "holds", "like"),
    [
        ("B-table-7-generality", "same", "swapped", 0.9, "yes", "no"),
        ("B-table-7-generality", "same", "swapped", 0.3, "no", "no"),
        ("B-table-7-locality", "other", "unchanged", 0.8, "no", "no"),  # most is not "not affected"
        ("B-table-7-rest", "same", "exact", 0.95, "yes", "no"),
        ("B-table-7-rest", "edited", "exact", 0.1, "no", "yes"),  # one of four is shown
    ],
)
def test_each_measure_has_images_of_its_own(id, role, column, share, holds, like):
    other = "other" if role != "other" else "same"
    rows = pd.concat([tried({"x": share}, role, column), tried({"x": 1 - share}, other, column)])
    found = judged("B-table-7", id, rows.assign(kept=1.0))
    assert found.estimate.value == pytest.approx(share)
    assert found.estimate.n == MANY
    assert (found.holds.word, found.like.word) == (holds, like)


def test_an_image_with_several_edits_counts_once():
    rows = pd.DataFrame({"image": list("aab"), "swapped": [1.0, 0.0, 1.0], "steps": [0, 1e-7, 0]})
    assert judged("B-table-6", "B-table-6-swapped", rows).estimate.value == 0.75
    closed = judged("B-table-6", "C-edit-closed-form", rows)
    assert (closed.estimate.value, closed.estimate.n, closed.holds.word) == (1e-7, 3, "yes")
    empty = judged("B-table-6", "C-edit-closed-form", rows.assign(steps=np.nan))
    assert empty.holds.word == "not tested"


@pytest.mark.parametrize(
    ("id", "role", "column", "first", "second"),
    [
        ("C-edit-evaluation-adam", "other", "unchanged", "algorithm_1", "adam"),
        ("C-edit-evaluation-whole-model", "same", "swapped", "whole_model", "algorithm_1"),
    ],
)
def test_ways_are_compared_in_pairs(id, role, column, first, second):
    shares = dict.fromkeys(("algorithm_1", "adam", "squared_norm", "whole_model"), 0.1)
    for better, holds in ((0.6, "yes"), (0.1, "no")):
        rows = tried({**shares, first: better}, role, column)
        elsewhere = rows.assign(role="edited", image="x" + rows["image"])
        found = judged("C-edit-evaluation", id, pd.concat([rows, elsewhere]))
        assert found.estimate.value == pytest.approx(better - 0.1)
        assert (found.estimate.n, found.holds.word) == (MANY, holds)
        assert second != first


def test_pictures_of_an_atlas_are_compared_with_the_others_of_their_layers():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"image": range(MANY), "interpretable_others": 0.4, "negative_others": 0.5})
    rows["interpretable"] = 0.45 + 0.01 * rng.standard_normal(MANY)
    rows["negative"] = 0.48 + 0.01 * rng.standard_normal(MANY)
    for what, gap in (("interpretable", 0.05), ("negative", -0.02)):
        found = judged("C-table-atlas", f"C-table-atlas-{what}", rows, "07_neuron_browser")
        assert found.estimate.value == pytest.approx(gap, abs=0.01)
        assert found.holds.word == "yes"
        names = {what: f"{what}_others", f"{what}_others": what}
        turned = judged(
            "C-table-atlas", f"C-table-atlas-{what}", rows.rename(columns=names),
            "07_neuron_browser",
        )  # fmt: skip
        assert turned.holds.word == "no"
