"""Shuffles that can be undone, and models that must not care."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mmn_utils.datasets.base import TooFew
from mmn_utils.interventions.receipts import NothingTouched
from mmn_utils.measures.estimates import mean_of
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.methods import METHODS
from mmn_utils.neurons.table import top_k
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.concepts import regions, scoring
from mmn_utils.studies.concepts.invariance import shared_neurons
from mmn_utils.studies.concepts.regions import (
    draw_orders,
    ratio_per_image,
    region_invariance,
    shuffled,
)
from tests.studies.scenes import subjects_of_texts
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


QUIET = {"progress": False}


@pytest.fixture
def some(model, tmp_path):
    return subjects_of_texts(model, tmp_path)


def refuse(*arguments, **named):
    raise AssertionError("computed again what was cached")


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

    def generate(model, prompt, max_new_tokens, images):
        asked.append((prompt.embeds, max_new_tokens))
        return after

    monkeypatch.setattr(regions, "generate", generate)
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
    monkeypatch.setattr(regions, "generate", lambda *_, images: [Caption("", ()), Caption("", ())])
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


def test_tables_that_are_known_are_not_scored_again(model, prompt, monkeypatch):
    options = {"ks": [5], "methods": OURS}
    expected = region_invariance(model, IMAGES, TARGETS, **SAME, ks=[5])
    calls = []
    by_methods = regions.by_methods
    monkeypatch.setattr(
        regions,
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


def test_shuffled_regions_are_those_of_one_batch(model, some, monkeypatch):
    # a random model's captions lose their nouns with the order of the patches: take them as kept
    monkeypatch.setattr(regions, "_in_both", lambda _model, targets, _captions: list(targets))
    tables = scoring.top_neurons(model, some, k=12, **QUIET)
    before = {"contribution": tables["contribution"]}
    pictures, targets = some.opened()
    methods = {"contribution": scoring.switched()["contribution"]}
    expected = region_invariance(
        model, pictures, targets, ks=[3, 12], methods=methods, max_new_tokens=6
    )
    options = {"max_new_tokens": 6, "batch_size": 2, **QUIET}
    ratios, receipts = regions.shuffled_regions(model, some, before, [3, 12], **options)
    keys = ["image", "target", "k"]
    both = ratios.merge(expected.ratios, on=keys)
    assert len(both) == len(ratios) == len(expected.ratios) == 2 * len(targets)
    np.testing.assert_allclose(both["ratio_x"], both["ratio_y"], atol=0.34)  # near-equal scores
    assert receipts["image"].tolist() == some.ids
    assert receipts["text"].tolist() == expected.captions["text"].tolist()
    assert receipts["moved"].tolist() == [one.moved for one in expected.receipts]
    monkeypatch.setattr(regions, "region_invariance", refuse)
    assert regions.shuffled_regions(model, some, before, [3, 12], **options)[0].equals(ratios)


def test_captions_that_keep_no_noun_are_too_few(model, some, monkeypatch):
    tables = scoring.top_neurons(model, some, k=3, **QUIET)
    monkeypatch.setattr(regions, "_in_both", lambda *_: [])
    before, options = {"contribution": tables["contribution"]}, {"max_new_tokens": 5, **QUIET}
    with pytest.raises(TooFew, match=rf"none of the {len(some)} captions keeps a noun"):
        regions.shuffled_regions(model, some, before, [3], **options)


def test_same_neurons_lists_both_sides(model, some):
    pictures, targets = some.opened()
    methods = {"contribution": METHODS["contribution"]}
    found = region_invariance(model, pictures, targets, ks=[4], methods=methods, captions="same")
    table = regions.same_neurons(found, top=4)
    assert len(table) == len(targets)
    first = table.iloc[0]
    old, new = (set(first[side].split(", ")) for side in ("before", "after"))
    assert first["shared"] == len(old & new)
    best = top_k(found.before["contribution"], 4).query(
        "image == @first['image'] and target == @first['target']"
    )
    assert first["before"].split(", ")[0] == f"L{best['layer'].iloc[0]}.u{best['unit'].iloc[0]}"
