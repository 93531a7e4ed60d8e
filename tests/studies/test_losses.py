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


def test_probability_curves_hold_both_scales_side_by_side():
    table = losses.add_ratios(made_table())
    both = losses.probability_curves(table, of_units=50)
    assert both.columns[-1] == "share of units"
    for scale, value in (("relative", "relative"), ("absolute", "probability")):
        alone = losses.curves(table, value, of_units=50)
        for name in ("mean", "low", "high"):
            np.testing.assert_array_equal(both[f"{name} {scale}"], alone[name])


def test_rows_have_a_column_for_each_condition():
    table = losses.add_ratios(made_table())
    found = losses.by_condition(table.iloc[::-1], "relative", absolute="probability")
    assert list(found) == [
        "image", "k", "top", "interpretable", "random",
        "absolute_top", "absolute_interpretable", "absolute_random",
    ]  # fmt: skip
    assert found["image"].tolist() == ["1"] * 3 + ["0"] * 3  # in the order of the table
    assert found["k"].tolist() == KS * 2
    assert found["top"].tolist() == [1, 0.25, pytest.approx(0.75), 1, 0.5, 0.25]
    assert found["absolute_top"].tolist() == [0.4, 0.1, 0.3, 0.8, 0.4, 0.2]


def test_means_at_one_count():
    means = losses.means_at(losses.add_ratios(made_table()), 2, "relative")
    assert {name: mean.value for name, mean in means.items()} == {
        "top": 0.375, "interpretable": 1, "random": 1,
    }  # fmt: skip


def test_the_first_count_below_a_level():
    table = losses.add_ratios(made_table())  # top: 1, .375, .5 on average
    assert losses.first_below(table, "top", "relative", 0.5) == 2
    assert losses.first_below(table, "interpretable", "relative", 0.8) == 5
    assert losses.first_below(table, "random", "relative", 0.5) is None


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


def changed_table(
    top: dict[str, list[int]], random: dict[str, list[int]], rounding: int | None = None
) -> pd.DataFrame:
    """Three images with the counts at which their captions change, at one by rounding alone."""
    rows = [
        {"image": image, "condition": condition, "k": k, "changed": k in some.get(image, ()),
         "within_rounding": k == rounding, "noise": 1e-5 * k,
         "margin": k if k in some.get(image, ()) else np.nan}
        for image in "cab"
        for condition, some in (("top", top), ("random", random))
        for k in KS
    ]  # fmt: skip
    return pd.DataFrame(rows)


RIGHT = {"c": True, "a": True, "b": False}


def test_the_example_is_the_first_that_top_units_change_and_random_ones_do_not():
    early = changed_table({"c": [2, 5], "a": [2], "b": [2]}, {"c": [5]})
    assert losses.example(early, RIGHT) == losses.Example("a", 2, True)
    late = changed_table({"c": [2, 5], "a": [5]}, {"c": [5]})
    assert losses.example(late, RIGHT) == losses.Example("a", 5, True)
    assert losses.example(changed_table({}, {}), RIGHT) == losses.Example("c", None, True)
    rounded = changed_table({"c": [2], "a": [5]}, {}, rounding=2)
    assert losses.example(rounded, RIGHT) == losses.Example("a", 5, True)


def test_the_example_is_captioned_right_where_one_is():
    table = changed_table({"b": [2], "a": [5]}, {})
    assert losses.example(table, RIGHT) == losses.Example("a", 5, True)
    wrong = dict.fromkeys("cab", False)
    assert losses.example(table, wrong) == losses.Example("b", 2, False)
    some = changed_table({"b": [2]}, {})
    assert losses.example(some, RIGHT) == losses.Example("b", 2, False)
    assert losses.example(changed_table({}, {}), {**wrong, "a": True}).image == "a"


def test_shares_of_changed_captions_leave_rounding_out():
    table = changed_table({"c": [2, 5], "a": [5]}, {"b": [2]}, rounding=2)
    table = pd.concat([table, table[table["condition"] == "top"].assign(condition="interpretable")])
    assert {name: share.value for name, share in losses.changed_at(table, 5).items()} == {
        "top": pytest.approx(2 / 3), "interpretable": pytest.approx(2 / 3), "random": 0,
    }  # fmt: skip
    assert all(share.value == 0 for share in losses.changed_at(table, 2).values())


def test_changes_are_counted_with_those_within_rounding():
    found = losses.changes(changed_table({"c": [2, 5], "a": [5]}, {"b": [5]}, rounding=2))
    assert found == {
        "ablations": 12, "changed": 4, "within_rounding": 1, "noise": 5e-5, "margin": 5,
    }  # fmt: skip
    assert np.isnan(losses.changes(changed_table({}, {}))["margin"])


def test_captions_along_the_way_of_one_image():
    along = losses.captions_along(made_table(), "1")
    assert along["k"].tolist() == KS
    assert along["top"].tolist() == ["a horse on grass", "a dog on grass", "grass"]
    assert along["random"].tolist() == ["a horse on grass"] * 3


def test_endings_say_what_is_left_of_each_caption():
    table = made_table().assign(within_rounding=False)
    table["changed"] = (table["condition"] == "top") & (table["k"] > 0)
    found = losses.endings(table, 2, {"0": "Horse", "1": "grass"})
    assert found["image"].tolist() == ["0", "1"]
    assert found["caption"].tolist() == ["a horse on grass"] * 2
    assert found["top"].tolist() == ["a dog on grass"] * 2
    assert found["top_noun"].tolist() == [False, True]
    assert found["random_noun"].tolist() == [True, True]
    assert found["top_same"].tolist() == [False, False]
    assert found["random_same"].tolist() == [True, True]
    assert found["top_opening"].tolist() == [True, True]
    assert not losses.endings(table, 5, {"0": "x", "1": "x"})["top_opening"].any()
    table["within_rounding"] = table["image"] == "1"
    assert losses.endings(table, 2, {"0": "a", "1": "a"})["top_same"].tolist() == [False, True]


def test_openings_are_alike_as_often_as_pairs_of_captions_share_their_first_word():
    ends = pd.DataFrame({"caption": ["A horse", "a dog.", "an apple", "a cat"]})
    assert losses.openings_alike(ends) == 3 * 2 / (4 * 3)
    assert np.isnan(losses.openings_alike(ends.head(1)))


def test_the_table_of_captions_has_a_row_for_each_count(asked):
    table = losses.add_similarity(made_table())
    laid = losses.caption_table(table, ["1"], {"top": "top units", "random": "random units"}, 400)
    assert laid["ablated"].tolist() == KS
    assert laid["share"].tolist() == ["0 %", "0.5 %", "1.25 %"]
    assert laid["top units"].tolist()[-1] == "grass"
    assert laid["BERTScore, random units"].eq(1).all()
