"""What an ablation table says: curves, differences and captions by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.studies import losses

KS = [0, 2, 5]


def made_table() -> pd.DataFrame:
    """Two images; the top curve falls, then rises on one of them."""
    probability = {
        "top": ([0.8, 0.4, 0.2], [0.4, 0.1, 0.3]),
        "interpretable": ([0.8, 0.8, 0.4], [0.4] * 3),
        "random": ([0.8] * 3, [0.4] * 3),
    }
    said = ["a horse on grass", "a dog on grass", "grass"]
    return pd.DataFrame(
        [
            {
                "image": str(i),
                "condition": c,
                "k": k,
                "probability": p,
                "caption": said[row] if c == "top" else said[0],
            }
            for c, images in probability.items()
            for i, values in enumerate(images)
            for row, (k, p) in enumerate(zip(KS, values, strict=True))
        ]
    )


def test_ratios_are_to_the_whole_model_of_the_same_image():
    table = losses.add_ratios(made_table())
    top = table[table["condition"] == "top"]
    np.testing.assert_allclose(top["relative"], [1, 0.5, 0.25, 1, 0.25, 0.75])
    curve = losses.curves(table, "relative", of_units=50).set_index(["condition", "k"])
    assert curve.loc[("top", 5), "mean"] == pytest.approx(0.5)
    assert curve.loc[("top", 5), "n"] == 2
    assert curve.loc[("top", 5), "share of units"] == 0.1
    assert curve.loc[("random", 5), ["low", "mean", "high"]].tolist() == [1, 1, 1]
    assert losses.at(table, "top", 2, "relative").tolist() == [0.5, 0.25]


def test_probability_curves_hold_both_scales_side_by_side():
    table = losses.add_ratios(made_table())
    both = losses.probability_curves(table, of_units=50)
    assert both.columns[-1] == "share of units"
    for scale, value in (("relative", "relative"), ("absolute", "probability")):
        alone = losses.curves(table, value, of_units=50)
        for name in ("mean", "low", "high"):
            np.testing.assert_array_equal(both[f"{name} {scale}"], alone[name])


def test_means_and_gaps_at_one_count():
    table = losses.add_ratios(made_table())
    means = losses.means_at(table, 2, "relative")
    assert {name: mean.value for name, mean in means.items()} == {
        "top": 0.375, "interpretable": 1, "random": 1,
    }  # fmt: skip
    gaps = losses.gaps_at(table, 5, "relative")
    assert {name: gap.value for name, gap in gaps.items()} == {"top": 0.5, "interpretable": 0.25}
    assert gaps["top"].ci == pytest.approx((0.25, 0.75))  # of two images


def test_the_first_count_below_a_level():
    table = losses.add_ratios(made_table())  # top: 1, .375, .5 on average
    assert losses.first_below(table, "top", "relative", 0.5) == 2
    assert losses.first_below(table, "interpretable", "relative", 0.8) == 5
    assert losses.first_below(table, "random", "relative", 0.5) is None


def test_steps_down_count_where_the_mean_falls():
    table = losses.add_ratios(made_table())
    assert losses.steps_down(table, "interpretable", "relative").value == 0.5
    falling = losses.steps_down(table, "top", "relative")  # means 1, .375, .5
    assert falling.value == 0.5
    assert falling.low <= 0.5 <= falling.high


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """What BERTScore, which finds one half everywhere, is asked to compare."""
    pairs = []

    def score(new, old, encoder=None):
        pairs.extend((a, b, encoder) for a, b in zip(new, old, strict=True))
        return np.full(len(new), 0.5)

    monkeypatch.setattr(losses, "bertscore", score)
    return pairs


def test_similarity_scores_each_changed_pair_once(asked):
    table = losses.add_similarity(made_table(), "some/encoder")
    first = (["a horse on grass"], "some/encoder")
    assert asked == [("a dog on grass", *first), ("grass", *first)]
    assert table[table["condition"] == "random"]["bertscore"].eq(1).all()
    assert table[(table["condition"] == "top") & (table["k"] > 0)]["bertscore"].eq(0.5).all()


def test_unrelated_captions_are_those_of_other_images(asked):
    table = made_table()
    table.loc[(table["image"] == "1") & (table["k"] == 0), "caption"] = "a boat"
    assert losses.unrelated(table).tolist() == [0.5, 0.5]
    assert asked == [("a boat", ["a horse on grass"], None), ("a horse on grass", ["a boat"], None)]


def changed_table(top: dict[str, list[int]], random: dict[str, list[int]]) -> pd.DataFrame:
    """Three images with the counts at which their captions change."""
    rows = [
        {"image": image, "condition": condition, "k": k, "changed": k in some.get(image, ()),
         "within_rounding": k == 2, "noise": 1e-5 * k, "margin": k if k in some.get(image, ())
         else np.nan}
        for image in "cab"
        for condition, some in (("top", top), ("random", random))
        for k in KS
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_example_is_the_first_that_top_units_change_and_random_ones_do_not():
    early = changed_table({"c": [2, 5], "a": [2], "b": [2]}, {"c": [5]})
    assert losses.example(early) == ("a", 2)
    late = changed_table({"c": [2, 5], "b": [5]}, {"c": [5]})
    assert losses.example(late) == ("b", 5)
    assert losses.example(changed_table({}, {})) == ("c", None)


def test_changes_are_counted_with_those_within_rounding():
    found = losses.changes(changed_table({"c": [2, 5], "a": [5]}, {"b": [5]}))
    assert found == {
        "ablations": 12, "changed": 4, "within_rounding": 1, "noise": 5e-5, "margin": 5,
    }  # fmt: skip
    assert np.isnan(losses.changes(changed_table({}, {}))["margin"])


def test_captions_along_the_way_of_one_image():
    along = losses.captions_along(made_table(), "1")
    assert along["k"].tolist() == KS
    assert along["top"].tolist() == ["a horse on grass", "a dog on grass", "grass"]
    assert along["random"].tolist() == ["a horse on grass"] * 3


def test_what_stays_of_a_caption():
    stays = losses.what_stays(made_table(), "top", 2, {"0": "Horse", "1": "grass"})
    assert stays["noun"].tolist() == [False, True]
    assert stays["opening"].all()
    assert not losses.what_stays(made_table(), "top", 5, {"0": "x", "1": "x"})["opening"].any()


def test_the_table_of_captions_has_a_row_for_each_count(asked):
    table = losses.add_similarity(made_table())
    laid = losses.caption_table(table, ["1"], {"top": "top units", "random": "random units"}, 400)
    assert laid["ablated"].tolist() == KS
    assert laid["share"].tolist() == ["0 %", "0.5 %", "1.25 %"]
    assert laid["top units"].tolist()[-1] == "grass"
    assert laid["BERTScore, random units"].eq(1).all()
