"""What sets of neurons share, against plain sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.measures.estimates import mean_of
from mmn_utils.neurons.table import neuron_table
from mmn_utils.studies.concepts.invariance import (
    chance,
    cross_image_invariance,
    shared_neurons,
    unrelated_images,
)


def random_table(seed: int, images: list[str], noun="horse", units: int = 30, layers: int = 2):
    """Score all units of two layers at random, some with two patches."""
    rng = np.random.default_rng(seed)
    count = layers * units
    rows = [
        {"image": image, "target": noun, "token": 7, "layer": i // units, "unit": i % units,
         "patch": patch, "score": rng.standard_normal()}
        for image in images for i in range(count) for patch in range(1 + i % 2)
    ]  # fmt: skip
    return neuron_table(rows)


def tops(table: pd.DataFrame, image: str, k: int) -> set:
    """Return the best k units of an image, the plain way."""
    mine = table[table.image == image].sort_values("score", ascending=False)
    order = dict.fromkeys(zip(mine.layer, mine.unit, strict=True))
    return set(list(order)[:k])


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 60))
def test_ratios_are_those_of_plain_sets(seed, small, large):
    before = random_table(seed, ["a", "b", "only before"])
    after = random_table(seed + 1, ["a", "b", "only after"])
    ks = [small, large]
    mine = shared_neurons(before, after, ks).drop_duplicates().set_index(["image", "k"]).ratio
    assert set(mine.index) == {(image, k) for image in "ab" for k in ks}
    for image in "ab":
        for k in ks:
            common = tops(before, image, k) & tops(after, image, k)
            assert mine[image, k] == pytest.approx(len(common) / k)


def test_the_same_table_shares_all_and_nothing_shares_nothing():
    table = random_table(0, ["a"])
    assert (shared_neurons(table, table, [1, 60]).ratio == 1).all()
    assert shared_neurons(table, table.iloc[:0], [1]).empty
    low = table[table.layer == 0]
    high = table[table.layer == 1]
    assert (shared_neurons(low, high, [1, 30]).ratio == 0).all()


def test_too_few_neurons_are_named():
    table = random_table(0, ["a"])
    with pytest.raises(ValueError, match="'horse' of image 'a' has 60 neurons, 61 are asked"):
        shared_neurons(table, table, [10, 61])
    with pytest.raises(ValueError, match="1 or more"):
        shared_neurons(table, table, [0])


@pytest.mark.parametrize(("k", "n"), [(10, 2), (30, 2), (30, 3)])
def test_chance_is_what_random_sets_share(k, n):
    rng = np.random.default_rng(0)
    sets = [[set(rng.permutation(60)[:k].tolist()) for _ in range(n)] for _ in range(3000)]
    share = np.mean([len(set.intersection(*some)) / k for some in sets])
    assert chance(k, 60, n) == pytest.approx(share, abs=0.01)
    with pytest.raises(ValueError, match="k=61"):
        chance(61, 60)


def concepts_table(seed: int = 0) -> pd.DataFrame:
    """Make tables of horses in five images, dogs in three, a cat in one."""
    return neuron_table(
        pd.concat(
            [
                random_table(seed, list("abc")),
                random_table(seed + 1, list("de"), "Horse"),
                random_table(seed + 2, list("abf"), "dog"),
                random_table(seed + 3, ["f"], "cat"),
            ]
        )
    )


def test_cross_image_ratios_are_those_of_plain_sets():
    table = concepts_table()
    found = cross_image_invariance(table, ns=[3, 5], ks=[10, 40], seed=4)
    assert set(zip(found.concept, found.n, strict=True)) == {("horse", 3), ("horse", 5), ("dog", 3)}
    assert dict(zip(found.concept, found.images, strict=True)) == {"horse": 5, "dog": 3}
    value = found.set_index(["concept", "n", "k"]).ratio
    horses = table[table.target.str.casefold() == "horse"]
    for k in (10, 40):  # all there are, so that the draw does not matter
        common = set.intersection(*(tops(horses, image, k) for image in "abcde"))
        assert value["horse", 5, k] == pytest.approx(len(common) / k)
        dogs = table[table.target == "dog"]
        common = set.intersection(*(tops(dogs, image, k) for image in "abf"))
        assert value["dog", 3, k] == pytest.approx(len(common) / k)


@settings(max_examples=6)
@given(st.integers(0, 2**31))
def test_more_images_share_no_more(seed):
    found = cross_image_invariance(concepts_table(seed % 1000), ks=[20, 60], draws=2, seed=seed)
    for _, rows in found.groupby(["concept", "k"]):
        assert rows.sort_values("n").ratio.is_monotonic_decreasing
    assert (found[found.k == 60].ratio == 1).all()  # all the neurons there are


def test_draws_are_seeded_and_averaged():
    table = concepts_table()
    asked = {"ns": [2], "ks": [20]}
    first = cross_image_invariance(table, **asked, seed=1)
    pd.testing.assert_frame_equal(first, cross_image_invariance(table, **asked, seed=1))
    pd.testing.assert_frame_equal(  # whatever the order of rows
        first, cross_image_invariance(table.iloc[::-1], **asked, seed=1)
    )
    many = cross_image_invariance(table, **asked, draws=40).set_index("concept").ratio
    pairs = [("a", "b"), ("a", "f"), ("b", "f")]
    dogs = table[table.target == "dog"]
    every = [len(tops(dogs, x, 20) & tops(dogs, y, 20)) / 20 for x, y in pairs]
    assert min(every) < many["dog"] < max(every)
    assert mean_of(many).n == 2


def test_the_spread_of_choices_lies_around_their_mean():
    dogs = concepts_table().query("target == 'dog'")
    found = cross_image_invariance(dogs, ns=[2], ks=[20], draws=60).iloc[0]
    pairs = [("a", "b"), ("a", "f"), ("b", "f")]
    every = [len(tops(dogs, x, 20) & tops(dogs, y, 20)) / 20 for x, y in pairs]
    assert (found["low"], found["high"]) == (min(every), max(every))


def test_images_of_different_concepts_are_the_control():
    images = [random_table(2 * i + j, [f"i{i}{j}"], f"noun{i}") for i in range(6) for j in (0, 1)]
    table = neuron_table(pd.concat([*images, random_table(99, ["once"], "rare")]))
    found = unrelated_images(table, ns=[2, 3], ks=[20], draws=50)
    assert found["concept"].unique().tolist() == [f"noun{i}" for i in range(6)]  # rare is in one
    value = found.groupby("n").ratio.mean()
    assert value[2] == pytest.approx(chance(20, 60), abs=0.06)
    assert value[3] == pytest.approx(chance(20, 60, 3), abs=0.06)
    few = unrelated_images(table, ns=[2, 8], ks=[20])  # seven concepts
    assert set(few["n"]) == {2}


def test_unrelated_images_share_what_belongs_to_no_concept():
    """Two units stand at the top of everything, two belong to the concept."""
    rows = []
    for concept in range(4):
        for image in range(2):
            units = [0, 1, 10 + concept, 20 + concept]
            rows += [
                {"image": f"{concept}-{image}", "target": f"noun{concept}", "token": 1, "layer": 0,
                 "unit": unit, "patch": -1, "score": -float(i)}
                for i, unit in enumerate(units)
            ]  # fmt: skip
    table = neuron_table(rows)
    same = cross_image_invariance(table, ns=[2], ks=[4])
    apart = unrelated_images(table, ns=[2], ks=[4])
    assert same["ratio"].tolist() == [1.0] * 4
    assert apart["ratio"].tolist() == [0.5] * 4
