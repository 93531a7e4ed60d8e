"""Sweeps over images: what the cache keeps is what single sweeps give; curves by hand."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.datasets import Photograph
from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.models.base import Sizes
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.decoding import interpretable
from mmn_utils.neurons.table import Neuron, unique_neurons
from mmn_utils.neurons.targets import Target, objective, teacher_forced
from mmn_utils.studies import ablation
from mmn_utils.studies.ablation import ablation_rows
from mmn_utils.studies.subjects import Subjects
from tests.tiny import tiny_images, tiny_limber

KS = [0, 2, 5]


@pytest.fixture(scope="module")
def system():
    return tiny_limber()


@pytest.fixture
def subjects(tmp_path) -> Subjects:
    photographs, targets = [], []
    for i, image in enumerate(tiny_images(3, seed=5)):
        path = tmp_path / f"{i}.png"
        image.save(path)
        photographs.append(Photograph(str(i), path))
        targets.append(Target(str(i), "noun", 290 + i, (7, 9)[:i]))
    return Subjects(photographs, [None] * 3, [[target] for target in targets])


@pytest.fixture
def every_unit_reads(monkeypatch):
    """A random system writes no words; let three of four units count as interpretable."""

    def readable(model):
        return (
            np.arange(model.sizes.layers * model.sizes.units).reshape(model.sizes.layers, -1) % 4
            > 0
        )

    monkeypatch.setattr(ablation, "interpretable_units", readable)
    return readable


def test_counts_are_the_papers_own_for_gpt_j():
    gptj = SimpleNamespace(sizes=Sizes(28, 16384, 4096, 50258))
    assert ablation.scaled_counts(gptj) == list(ablation.PAPER_COUNTS)


def test_counts_are_shares_rounded_up_and_once_each():
    small = SimpleNamespace(sizes=Sizes(6, 1024, 256, 1220))
    assert ablation.scaled_counts(small) == [0, 1, 2, 3, 6, 11, 22, 43, 86]
    tiny = SimpleNamespace(sizes=Sizes(2, 64, 16, 100))
    assert ablation.scaled_counts(tiny) == [0, 1, 2]
    with pytest.raises(ValueError, match="-1"):
        ablation.scaled_counts(small, [-1])


def test_interpretable_units_are_those_of_decoding(system):
    units = [Neuron(layer, unit) for layer in range(3) for unit in range(0, 128, 9)]
    found = ablation.interpretable_units(system)
    assert found.shape == (3, 128)
    assert [bool(found[n.layer, n.unit]) for n in units] == list(
        interpretable(system, units).values()
    )


def test_a_row_is_what_ablating_alone_gives(system, subjects, every_unit_reads):
    table = ablation.ablation_table(
        system, subjects, KS, max_new_tokens=3, batch_size=2, progress=False
    )
    assert list(table.columns) == ablation.COLUMNS
    assert table.groupby(["condition", "k"]).size().eq(3).all()
    assert len(table) == 3 * 3 * len(KS)
    image, goal = subjects.photographs[1].open(), subjects.targets[1]
    ranked = unique_neurons(attribution(system, [image], [goal], k=20))
    readable = every_unit_reads(system)
    expected = {
        "top": ranked[:5],
        "interpretable": [n for n in ranked if readable[n.layer, n.unit]][:5],
    }
    for condition, neurons in expected.items():
        prompt = teacher_forced(system, system.prompt([image]), [goal.prefix])
        with ablate(system, Ablation(tuple(neurons))):
            logits, _ = system.forward(prompt)
        probability = objective(logits, [goal], "probability").item()
        row = table[(table["image"] == "1") & (table["condition"] == condition) & (table["k"] == 5)]
        assert row["probability"].item() == pytest.approx(probability, rel=1e-4)
    whole = table[table["k"] == 0]
    assert not whole["changed"].any()
    assert whole.groupby("image")["caption"].nunique().eq(1).all()


def test_random_units_do_not_depend_on_the_other_images(
    system, subjects, every_unit_reads, monkeypatch, tmp_path
):
    options = {"max_new_tokens": 2, "progress": False}
    every = ablation.ablation_table(system, subjects, KS, **options)
    monkeypatch.setenv("MMN_CACHE", str(tmp_path / "other"))
    one = ablation.ablation_table(system, subjects.select(["2"]), KS, **options)
    same = every[every["image"] == "2"].reset_index(drop=True)
    np.testing.assert_allclose(same["probability"], one["probability"], rtol=1e-4)


def test_means_stand_in_for_zero_where_asked(system, subjects, every_unit_reads):
    options = {"max_new_tokens": 2, "progress": False}
    zero = ablation.ablation_table(system, subjects, KS, **options)
    mean = ablation.ablation_table(system, subjects, KS, value="mean", **options)
    ablated = zero["k"] > 0
    assert (zero["probability"] != mean["probability"])[ablated].any()
    np.testing.assert_allclose(
        zero["probability"][~ablated], mean["probability"][~ablated], rtol=1e-5
    )


def test_ranking_goes_as_deep_as_it_takes(system, subjects, monkeypatch):
    few = np.zeros((3, 128), bool)
    few[:, ::16] = True  # 24 of 384
    monkeypatch.setattr(ablation, "interpretable_units", lambda model: few)
    table = ablation.ablation_table(
        system, subjects.select(["0"]), [0, 20], max_new_tokens=1, progress=False
    )
    assert len(table) == 6
    with pytest.raises(ValueError, match="24 interpretable units among all 384"):
        ablation.ablation_table(
            system, subjects.select(["0"]), [0, 25], max_new_tokens=1, progress=False
        )
    with pytest.raises(ValueError, match="begin with 0"):
        ablation.ablation_table(system, subjects, [5], progress=False)


# --- what is made of the table -------------------------------------------------------------


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
    table = ablation.add_ratios(made_table())
    top = table[table["condition"] == "top"]
    np.testing.assert_allclose(top["relative"], [1, 0.5, 0.25, 1, 0.25, 0.75])
    curve = ablation.curves(table, "relative", of_units=50).set_index(["condition", "k"])
    assert curve.loc[("top", 5), "mean"] == pytest.approx(0.5)
    assert curve.loc[("top", 5), "n"] == 2
    assert curve.loc[("top", 5), "share of units"] == 0.1
    assert curve.loc[("random", 5), ["low", "mean", "high"]].tolist() == [1, 1, 1]
    assert ablation.at(table, "top", 2, "relative").tolist() == [0.5, 0.25]


def test_probability_curves_hold_both_scales_side_by_side():
    table = ablation.add_ratios(made_table())
    both = ablation.probability_curves(table, of_units=50)
    assert both.columns[-1] == "share of units"
    for scale, value in (("relative", "relative"), ("absolute", "probability")):
        alone = ablation.curves(table, value, of_units=50)
        for name in ("mean", "low", "high"):
            np.testing.assert_array_equal(both[f"{name} {scale}"], alone[name])


def test_means_and_gaps_at_one_count():
    table = ablation.add_ratios(made_table())
    means = ablation.means_at(table, 2, "relative")
    assert {name: mean.value for name, mean in means.items()} == {
        "top": 0.375, "interpretable": 1, "random": 1,
    }  # fmt: skip
    gaps = ablation.gaps_at(table, 5, "relative")
    assert {name: gap.value for name, gap in gaps.items()} == {"top": 0.5, "interpretable": 0.25}
    assert gaps["top"].ci == pytest.approx((0.25, 0.75))  # of two images


def test_the_first_count_below_a_level():
    table = ablation.add_ratios(made_table())  # top: 1, .375, .5 on average
    assert ablation.first_below(table, "top", "relative", 0.5) == 2
    assert ablation.first_below(table, "interpretable", "relative", 0.8) == 5
    assert ablation.first_below(table, "random", "relative", 0.5) is None


def test_steps_down_count_where_the_mean_falls():
    table = ablation.add_ratios(made_table())
    assert ablation.steps_down(table, "interpretable", "relative").value == 0.5
    falling = ablation.steps_down(table, "top", "relative")  # means 1, .375, .5
    assert falling.value == 0.5
    assert falling.low <= 0.5 <= falling.high


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """What BERTScore, which finds one half everywhere, is asked to compare."""
    pairs = []

    def score(new, old, encoder=None):
        pairs.extend((a, b, encoder) for a, b in zip(new, old, strict=True))
        return np.full(len(new), 0.5)

    monkeypatch.setattr(ablation, "bertscore", score)
    return pairs


def test_similarity_scores_each_changed_pair_once(asked):
    table = ablation.add_similarity(made_table(), "some/encoder")
    first = (["a horse on grass"], "some/encoder")
    assert asked == [("a dog on grass", *first), ("grass", *first)]
    assert table[table["condition"] == "random"]["bertscore"].eq(1).all()
    assert table[(table["condition"] == "top") & (table["k"] > 0)]["bertscore"].eq(0.5).all()


def test_unrelated_captions_are_those_of_other_images(asked):
    table = made_table()
    table.loc[(table["image"] == "1") & (table["k"] == 0), "caption"] = "a boat"
    assert ablation.unrelated(table).tolist() == [0.5, 0.5]
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
    assert ablation.example(early) == ("a", 2)
    late = changed_table({"c": [2, 5], "b": [5]}, {"c": [5]})
    assert ablation.example(late) == ("b", 5)
    assert ablation.example(changed_table({}, {})) == ("c", None)


def test_changes_are_counted_with_those_within_rounding():
    found = ablation.changes(changed_table({"c": [2, 5], "a": [5]}, {"b": [5]}))
    assert found == {
        "ablations": 12, "changed": 4, "within_rounding": 1, "noise": 5e-5, "margin": 5,
    }  # fmt: skip
    assert np.isnan(ablation.changes(changed_table({}, {}))["margin"])


def test_captions_along_the_way_of_one_image():
    along = ablation.captions_along(made_table(), "1")
    assert along["k"].tolist() == KS
    assert along["top"].tolist() == ["a horse on grass", "a dog on grass", "grass"]
    assert along["random"].tolist() == ["a horse on grass"] * 3


def test_what_stays_of_a_caption():
    stays = ablation.what_stays(made_table(), "top", 2, {"0": "Horse", "1": "grass"})
    assert stays["noun"].tolist() == [False, True]
    assert stays["opening"].all()
    assert not ablation.what_stays(made_table(), "top", 5, {"0": "x", "1": "x"})["opening"].any()


def test_the_table_of_captions_has_a_row_for_each_count(asked):
    table = ablation.add_similarity(made_table())
    laid = ablation.caption_table(table, ["1"], {"top": "top units", "random": "random units"}, 400)
    assert laid["ablated"].tolist() == KS
    assert laid["share"].tolist() == ["0 %", "0.5 %", "1.25 %"]
    assert laid["top units"].tolist()[-1] == "grass"
    assert laid["BERTScore, random units"].eq(1).all()


def rows_of(labels, rows, condition):
    mine = labels[labels.condition == condition]
    return {k: rows[row] for k, row in zip(mine.k, mine.row, strict=True)}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_conditions_are_nested_and_random_ones_lie_in_the_same_layers(seed):
    rng = np.random.default_rng(seed)
    ranked = [Neuron(int(i) // 50, int(i) % 50) for i in rng.permutation(200)[:60]]
    words = {n: bool(rng.random() < 0.5) for n in ranked}
    ks = [0, 2, 5, 10]
    rows, labels = ablation_rows(ranked, words, ks, 50, rng)
    assert len(rows) == 3 * 3 + 1
    assert len(labels) == 12
    by = {c: rows_of(labels, rows, c) for c in ("top", "interpretable", "random")}
    for condition in by.values():
        assert condition[0] == []
        for small, large in pairwise(ks[1:]):
            assert condition[large][:small] == condition[small]
    assert by["top"][10] == ranked[:10]
    assert by["interpretable"][10] == [n for n in ranked if words[n]][:10]
    for k in ks:
        layers = [sorted(n.layer for n in by[c][k]) for c in ("top", "random")]
        assert layers[0] == layers[1]
        assert len(set(by["random"][k])) == k
    assert not set(by["random"][10]) & set(ranked[:10])
    assert labels[labels.k == 0].row.nunique() == 1


def test_a_ranking_too_short_is_said():
    ranked = [Neuron(0, u) for u in range(8)]
    with pytest.raises(ValueError, match="8 ranked"):
        ablation_rows(ranked, {}, [0, 9], 64, np.random.default_rng(0))
    with pytest.raises(ValueError, match="1 interpretable"):
        ablation_rows(ranked, {ranked[0]: True}, [2], 64, np.random.default_rng(0))
