"""Shuffles that can be undone, ratios against plain sets, and models that must not care."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmn_utils.interventions.receipts import NothingTouched
from mmn_utils.measures.estimates import mean_of
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.table import neuron_table
from mmn_utils.neurons.targets import Target
from mmn_utils.studies import invariance
from mmn_utils.studies.invariance import (
    chance,
    cross_image_invariance,
    draw_orders,
    ratio_per_image,
    region_invariance,
    shared_neurons,
    shuffled,
    unrelated_images,
)
from tests.tiny import tiny_images
from tests.tiny_gated import TinyGated

FIRST, SECOND = tiny_images(2)
TARGETS = [
    Target("a", "horse", 300, ()),
    Target("a", "field", 111, (5, 9)),
    Target("b", "dog", 250, (40,)),
]
IMAGES = [FIRST, FIRST, SECOND]
OURS = {"contribution": contribution}
SAME = {"captions": "same", "methods": OURS}


@pytest.fixture(scope="module")
def model():
    return TinyGated()


@pytest.fixture(scope="module")
def prompt(model):
    with torch.no_grad():
        return model.prompt([FIRST, SECOND])


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


# --- shuffling -------------------------------------------------------------------------


@given(st.permutations(range(16)), st.permutations(range(16)))
def test_the_inverse_order_restores_every_bit(model, prompt, first, second):
    orders = torch.tensor([first, second])
    assume((orders != torch.arange(16)).any(1).all())
    there, change = shuffled(model, prompt, orders)
    back, _ = shuffled(model, there, orders.argsort(dim=1))
    assert torch.equal(back.embeds, prompt.embeds)
    start = model.image_tokens.start
    for row in range(2):
        for place, source in enumerate(orders[row].tolist()):
            assert torch.equal(there.embeds[row, start + place], prompt.embeds[row, start + source])
    assert torch.equal(there.embeds[:, :start], prompt.embeds[:, :start])
    assert torch.equal(there.embeds[:, start + 16 :], prompt.embeds[:, start + 16 :])
    assert torch.equal(there.positions, prompt.positions)
    assert torch.equal(there.mask, prompt.mask)
    assert torch.equal(change, (there.embeds - prompt.embeds).abs().amax((1, 2)))


def test_a_shuffle_that_moves_nothing_is_an_error(model, prompt):
    still = torch.arange(16).expand(2, -1)
    with pytest.raises(NothingTouched, match="row 0"):
        shuffled(model, prompt, still)
    alike = prompt.embeds.clone()
    start = model.image_tokens.start
    alike[1, start : start + 16] = alike[1, start]
    flat = type(prompt)(alike, prompt.mask, prompt.positions)
    with pytest.raises(NothingTouched, match="row 1"):
        shuffled(model, flat, still.flip(1))


def test_bad_orders_are_named(model, prompt):
    with pytest.raises(ValueError, match=r"\(2, 16\)"):
        shuffled(model, prompt, torch.arange(16)[None])
    with pytest.raises(ValueError, match="permutation"):
        shuffled(model, prompt, torch.zeros(2, 16, dtype=torch.long))
    with pytest.raises(ValueError, match="1 image token"):
        draw_orders(1, ["a"], 0)


@given(st.integers(0, 1000), st.integers(2, 6))
def test_drawn_orders_move_something_and_depend_on_their_image_alone(seed, count):
    orders = draw_orders(count, ["a", "b", "c"], seed)
    assert torch.equal(orders.sort(1).values, torch.arange(count).expand(3, -1))
    assert (orders != torch.arange(count)).any(1).all()
    assert torch.equal(draw_orders(count, ["c"], seed)[0], orders[2])


def test_each_image_seed_and_shuffle_has_its_own_order():
    orders = draw_orders(64, ["a", "b"], 0)
    others = [orders[0], orders[1], draw_orders(64, ["a"], 1)[0], draw_orders(64, ["a"], 0, 1)[0]]
    assert len({tuple(order.tolist()) for order in others}) == 4


# --- ratios ----------------------------------------------------------------------------


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


# --- region invariance -----------------------------------------------------------------


@pytest.mark.parametrize("grid", [(4, 4), None], ids=["grid", "no grid"])
def test_ratios_are_of_scores_with_the_tokens_shuffled(grid):
    model = TinyGated(grid=grid)
    methods = {"contribution": contribution, "attribution": attribution}
    result = region_invariance(
        model, IMAGES, TARGETS, ks=[40, 5], shuffles=2, seed=3, captions="same", methods=methods
    )
    assert result.neurons == model.sizes.layers * model.sizes.units
    with torch.no_grad():
        prompt = model.prompt([FIRST, SECOND])
    for shuffle in range(2):
        orders = draw_orders(16, ["a", "b"], 3, shuffle)
        moved, _ = shuffled(model, prompt, orders)
        for name, method in methods.items():
            table = method(model, moved.select([0, 0, 1]), TARGETS, k=40)
            pd.testing.assert_frame_equal(result.after[name][shuffle], table)
            rows = result.ratios[
                (result.ratios.shuffle == shuffle) & (result.ratios.method == name)
            ]
            expected = shared_neurons(method(model, IMAGES, TARGETS, k=40), table, [5, 40])
            assert len(rows) == len(expected) == 6
            np.testing.assert_allclose(rows.ratio, expected.ratio)
    assert 0 < result.per_image(40).mean() < 1
    assert len(result.receipts) == 4
    assert all(one.moved > 1 and one.change > 0 for one in result.receipts)
    assert result.captions.empty


def without_positions() -> TinyGated:
    """Build a model that averages image tokens once and never asks where they are."""
    model = TinyGated()
    with torch.no_grad():
        for layer in range(model.sizes.layers):
            attention = model.layer(layer).self_attn
            attention.q_proj.weight.zero_()  # the same weight for every token before
            if layer != 1:  # twice, and the tokens would know who stood before them
                attention.o_proj.weight.zero_()
    return model


def test_a_model_without_positions_is_invariant():
    blind = region_invariance(without_positions(), IMAGES, TARGETS, ks=[5, 40], shuffles=2, **SAME)
    assert (blind.ratios.ratio == 1).all()
    assert len(blind.ratios) == 2 * 2 * len(TARGETS)
    other = TinyGated()
    assert (region_invariance(other, IMAGES, TARGETS, ks=[40], **SAME).ratios.ratio < 1).any()
    assert difference_of_pictures(without_positions()) > 0.01  # it does see the picture


def difference_of_pictures(model) -> float:
    """Return by how much the best score differs between two pictures, relatively."""
    best = [contribution(model, [image], TARGETS[:1], k=1).score[0] for image in IMAGES[1:]]
    return abs(best[0] - best[1]) / abs(best[0])


def test_an_image_has_the_same_ratios_in_any_company(model):
    both = region_invariance(model, IMAGES, TARGETS, ks=[20], **SAME).ratios
    alone = region_invariance(model, [SECOND], TARGETS[2:], ks=[20], **SAME).ratios
    np.testing.assert_allclose(both[both.image == "b"].ratio, alone.ratio)


def test_new_captions_are_compared_by_the_concepts_in_both(model, monkeypatch):
    def ids(text: str) -> tuple[int, ...]:
        return tuple(model.tokenizer.encode(text))

    def caption(text: str) -> Caption:
        return Caption(text.strip(), ids(text))

    horse, field, dog = (ids(f" {word}")[0] for word in ("horse", "field", "dog"))
    targets = [
        Target("a", "horse", horse, ids(" a")),
        Target("a", "field", field, ids(" a horse in a")),
        Target("b", "dog", dog, ids(" a")),
    ]
    after = [caption(" a dog and a horse"), caption(" a cat in a boat")]
    asked = []

    def generate(model, prompt, max_new_tokens):
        asked.append((prompt.embeds, max_new_tokens))
        return after

    monkeypatch.setattr(invariance, "generate", generate)
    result = region_invariance(
        model, IMAGES, targets, ks=[20], seed=1, max_new_tokens=9, methods=OURS
    )
    assert result.captions.text.tolist() == ["a dog and a horse", "a cat in a boat"]
    assert result.ratios[["image", "target"]].to_numpy().tolist() == [["a", "horse"]]
    with torch.no_grad():
        prompt = model.prompt([FIRST, SECOND])
    moved, _ = shuffled(model, prompt, draw_orders(16, ["a", "b"], 1))
    assert torch.equal(asked[0][0], moved.embeds)
    assert asked[0][1] == 9
    again = Target("a", "horse", horse, ids(" a dog and a"))  # where the new caption says it
    table = contribution(model, moved.select([0]), [again], k=20)
    pd.testing.assert_frame_equal(result.after["contribution"][0], table)
    expected = shared_neurons(contribution(model, [FIRST], targets[:1], k=20), table, [20])
    assert result.ratios.ratio.tolist() == expected.ratio.tolist()


def test_captions_that_share_no_concept_give_no_ratio(model, monkeypatch):
    monkeypatch.setattr(invariance, "generate", lambda *_: [Caption("", ()), Caption("", ())])
    result = region_invariance(model, IMAGES, TARGETS, ks=[20], methods=OURS)
    assert result.ratios.empty
    assert result.after["contribution"][0].empty
    with pytest.raises(ValueError, match="k=20"):
        result.per_image(20)


def test_one_value_per_image_has_an_interval(model):
    result = region_invariance(model, IMAGES, TARGETS, ks=[20, 40], shuffles=3, **SAME)
    values = result.per_image(20)
    assert values.index.tolist() == ["a", "b"]
    rows = result.ratios[result.ratios.k == 20]
    assert values["b"] == pytest.approx(rows[rows.image == "b"].ratio.mean())
    assert mean_of(values).n == 2
    pd.testing.assert_series_equal(values, ratio_per_image(result.ratios, 20))


@pytest.mark.parametrize(
    ("bad", "said"),
    [({"captions": "old"}, "'old'"), ({"ks": [0]}, r"\[0\]"), ({"ks": [145]}, "144"),
     ({"shuffles": 0}, "shuffles=0")],
)  # fmt: skip
def test_bad_arguments_are_named(model, bad, said):
    with pytest.raises(ValueError, match=said):
        region_invariance(model, IMAGES, TARGETS, **{"ks": [5], **bad})


# --- cross-image invariance ------------------------------------------------------------


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


def test_images_of_different_concepts_are_the_control():
    images = [random_table(i, [f"i{i}"], f"noun{i}") for i in range(6)]
    found = unrelated_images(neuron_table(pd.concat(images)), ns=[2, 3], ks=[20], draws=50)
    assert found.groupby("n").size().tolist() == [50, 50]
    value = found.groupby("n").ratio.mean()
    assert value[2] == pytest.approx(chance(20, 60), abs=0.06)
    assert value[3] == pytest.approx(chance(20, 60, 3), abs=0.06)
    with pytest.raises(ValueError, match="6 images of different concepts"):
        unrelated_images(neuron_table(pd.concat(images)), ns=[7], ks=[20])


def test_tables_that_are_known_are_not_scored_again(model, prompt, monkeypatch):
    options = {"ks": [5], "methods": OURS}
    expected = region_invariance(model, IMAGES, TARGETS, **SAME, ks=[5])
    calls = []
    by_methods = invariance.by_methods
    monkeypatch.setattr(
        invariance,
        "by_methods",
        lambda *some, **named: calls.append(1) or by_methods(*some, **named),
    )
    again = region_invariance(
        model, IMAGES, TARGETS, captions="same", before=expected.before, **options
    )
    assert calls == [1]
    pd.testing.assert_frame_equal(again.ratios, expected.ratios)
    with pytest.raises(ValueError, match="before has other; give contribution"):
        region_invariance(model, IMAGES, TARGETS, before={"other": None}, **options)
