"""Ablation, its receipts, and sweeps against single runs."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmn_utils.interventions.ablation as interventions
from mmn_utils.interventions.ablation import (
    Ablation,
    NothingTouched,
    ablate,
    ablation_rows,
    sweep,
    unit_means,
    weights_hash,
)
from mmn_utils.models.capture import capture
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target, objective, teacher_forced
from tests.tiny import tiny_images, tiny_limber

IMAGES = tiny_images(3)
NEURONS = tuple(Neuron(layer, unit) for layer in (0, 2) for unit in (3, 77, 120))
TARGET = Target("a", "horse", 301, (5, 9))
RNG = np.random.default_rng(0)
ROWS = [
    [],
    [Neuron(1, 8)],
    [Neuron(int(layer), int(unit)) for layer, unit in RNG.integers(0, (3, 128), (90, 2))],
    [Neuron(0, unit) for unit in range(128)],
    [],
    [Neuron(2, unit) for unit in range(0, 128, 2)],
    [Neuron(1, 8), Neuron(1, 8)],
]


@pytest.fixture(scope="module")
def model():
    return tiny_limber()


@pytest.fixture(scope="module")
def prompt(model):
    with torch.no_grad():
        return model.prompt(IMAGES[:1])


@pytest.fixture(scope="module")
def means(model):
    return unit_means(model, IMAGES, batch_size=2)


@contextmanager
def no_hooks(*_, **__):
    """Stand in for ``replace`` and do nothing: what a broken hook would be."""
    yield


def hooks(model) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.language_model.modules()
    )


# --- ablate ----------------------------------------------------------------------------


def test_ablated_neurons_write_nothing(model, prompt):
    with ablate(model, Ablation(NEURONS)) as receipt, capture(model, "activation") as seen:
        without, _ = model.forward(prompt)
    gptj = model.language_model
    kept = [gptj.transformer.h[n.layer].mlp.fc_out.weight[:, n.unit].clone() for n in NEURONS]
    try:
        with torch.no_grad():
            for n in NEURONS:
                gptj.transformer.h[n.layer].mlp.fc_out.weight[:, n.unit] = 0
        expected, _ = model.forward(prompt)
    finally:
        with torch.no_grad():
            for n, column in zip(NEURONS, kept, strict=True):
                gptj.transformer.h[n.layer].mlp.fc_out.weight[:, n.unit] = column
    torch.testing.assert_close(without, expected, atol=1e-5, rtol=1e-5)
    assert receipt.touched == len(NEURONS) * prompt.embeds.shape[1]
    assert all(not seen.values[n.layer][..., n.unit].any() for n in NEURONS)


def test_the_receipt_tells_what_happened(model, prompt):
    with capture(model, "activation") as seen:
        logits, _ = model.forward(prompt)
    before = generate(model, prompt, 4)
    with ablate(model, Ablation(NEURONS), prompt=prompt, max_new_tokens=4) as receipt:
        without, _ = model.forward(prompt)
        after = generate(model, prompt, 4)
    assert receipt.neurons == NEURONS
    assert receipt.positions == "all"
    assert receipt.value == 0
    assert receipt.logit_change == pytest.approx((without - logits).abs().max().item(), rel=1e-5)
    assert receipt.caption_before == (before[0].text,)
    assert receipt.caption_after == (after[0].text,)
    assert receipt.caption_changed == (before != after)
    assert receipt.weights_before == receipt.weights_after == weights_hash(model, [0, 2])
    with ablate(model, Ablation(NEURONS[:1])) as single:
        model.forward(prompt)
    assert single.activation_change == pytest.approx(seen.values[0][..., 3].abs().mean().item())
    assert single.logit_change is None
    assert single.caption_changed is None


@pytest.mark.parametrize("positions", ["image", "generated"])
def test_only_the_positions_asked_are_touched(model, prompt, positions):
    length, span = prompt.embeds.shape[1], model.image_tokens.count
    forced = teacher_forced(model, prompt, [(5, 9, 11)])
    touched = range(span) if positions == "image" else range(length, length + 3)
    ablation = Ablation(NEURONS, positions)
    with ablate(model, ablation, prompt_length=length) as receipt, capture(model) as seen:
        model.forward(forced)
    with capture(model) as whole:
        model.forward(forced)
    for neuron in NEURONS:
        values = seen.values[neuron.layer][0, :, neuron.unit]
        assert not values[list(touched)].any()
        assert values[[p for p in range(length + 3) if p not in touched]].all()
    first = NEURONS[0]
    others = [u for u in range(128) if u not in (3, 77, 120)]
    assert torch.equal(
        seen.values[first.layer][..., others], whole.values[first.layer][..., others]
    )
    assert receipt.touched == len(NEURONS) * len(touched)


@pytest.mark.parametrize("positions", ["all", "image", "generated"])
def test_positions_are_kept_in_step_with_the_cache(model, prompt, positions):
    ids = [5, 9, 11]
    length = prompt.embeds.shape[1]
    with ablate(model, Ablation(NEURONS, positions)) as receipt:  # learns the prompt's length
        logits, past = model.forward(prompt, use_cache=True)
        longer = prompt
        for token in ids:
            longer = longer.extend(model.embed(torch.tensor([[token]])))
            logits, past = model.forward(longer.tail(1), past=past, use_cache=True)
    with ablate(model, Ablation(NEURONS, positions), prompt_length=length) as whole:
        expected, _ = model.forward(teacher_forced(model, prompt, [ids]))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert receipt.touched == whole.touched


def test_the_mean_stands_in_for_the_activation(model, prompt, means):
    with capture(model, "activation") as seen:
        model.forward(model.prompt(IMAGES))
    span = model.image_tokens.count
    for layer in range(model.sizes.layers):
        torch.testing.assert_close(
            means[layer], seen.values[layer][:, :span].mean((0, 1)), atol=1e-6, rtol=1e-5
        )
    ablation = Ablation(NEURONS, "image", "mean", means)
    with ablate(model, ablation), capture(model) as seen:
        model.forward(prompt)
    for n in NEURONS:
        expected = means[n.layer][n.unit].expand(span)
        torch.testing.assert_close(seen.values[n.layer][0, :span, n.unit], expected)


def test_ablating_twice_is_ablating_once(model, prompt):
    with ablate(model, Ablation(NEURONS)):
        once, _ = model.forward(prompt)
        with ablate(model, Ablation(NEURONS)) as receipt:
            twice, _ = model.forward(prompt)
    assert torch.equal(once, twice)
    assert receipt.activation_change == 0
    assert receipt.touched > 0


def test_what_was_ablated_comes_back_bit_for_bit(model, prompt):
    hash_before, hooks_before = weights_hash(model), hooks(model)
    before, _ = model.forward(prompt)
    with ablate(model, Ablation(NEURONS)):
        assert not torch.equal(model.forward(prompt)[0], before)
    assert torch.equal(model.forward(prompt)[0], before)
    assert weights_hash(model) == hash_before
    assert hooks(model) == hooks_before


def test_an_error_inside_passes_through_and_leaves_no_hooks(model, prompt):
    before, _ = model.forward(prompt)
    with pytest.raises(KeyError, match="mine"), ablate(model, Ablation(NEURONS)):
        raise KeyError("mine")
    assert hooks(model) == 0
    assert torch.equal(model.forward(prompt)[0], before)


def test_an_ablation_that_touches_nothing_raises(model, prompt, monkeypatch):
    with pytest.raises(NothingTouched, match="6 neurons"), ablate(model, Ablation(NEURONS)):
        pass
    generated = Ablation(NEURONS, "generated")
    with pytest.raises(NothingTouched, match="generated"), ablate(model, generated):
        model.forward(prompt)
    monkeypatch.setattr(interventions, "replace", no_hooks)
    with pytest.raises(NothingTouched), ablate(model, Ablation(NEURONS)):
        model.forward(prompt)
    with pytest.raises(NothingTouched, match=r"rows \[1\]"):
        sweep(model, prompt, TARGET, [[], [Neuron(0, 0)]], 2)
    assert hooks(model) == 0


def test_weights_that_changed_meanwhile_are_noticed():
    model = tiny_limber()
    with torch.no_grad():
        prompt = model.prompt(IMAGES[:1])
    weight = model.act_module(0).weight.detach()
    with pytest.raises(RuntimeError, match="weights changed"), ablate(model, Ablation(NEURONS)):
        weight[0, 0] += float(model.forward(prompt)[0].abs().max())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"positions": "caption"}, "'caption'"),
        ({"value": "median"}, "'median'"),
        ({"value": "mean"}, "unit_means"),
    ],
)
def test_bad_ablations_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        Ablation(NEURONS, **arguments)


def test_neurons_that_are_not_there_are_named(model, prompt):
    with pytest.raises(ValueError, match=r"L0\.u128"), ablate(model, Ablation((Neuron(0, 128),))):
        pass
    with pytest.raises(ValueError, match="at least one"), ablate(model, Ablation(())):
        pass
    with pytest.raises(ValueError, match=r"L7\.u0"):
        sweep(model, prompt, TARGET, [[Neuron(7, 0)]])
    with pytest.raises(ValueError, match="0 images"):
        unit_means(model, [])


# --- sweep -----------------------------------------------------------------------------


def single_run(model, prompt, row, positions, value, means, target=TARGET, tokens=6):
    """Run one row by itself without a cache: y, its probability and the caption."""

    def measure():
        with torch.no_grad():
            logits, _ = model.forward(teacher_forced(model, prompt, [target.prefix]))
        y = [objective(logits, [target], kind).item() for kind in ("logit", "probability")]
        return *y, generate(model, prompt, tokens)[0]

    if not row:
        return measure()
    ablation = Ablation(tuple(row), positions, value, means)
    with ablate(model, ablation, prompt_length=prompt.embeds.shape[1]):
        return measure()


@pytest.mark.parametrize("positions", ["all", "image", "generated"])
@pytest.mark.parametrize("value", [0.0, "mean"])
def test_each_row_is_its_single_run(model, prompt, means, positions, value):
    result = sweep(model, prompt, TARGET, ROWS, 6, positions=positions, value=value, means=means)
    assert result.probability.shape == result.changed.shape == (len(ROWS),)
    for i, row in enumerate(ROWS):
        logit, probability, caption = single_run(model, prompt, row, positions, value, means)
        assert result.logit[i] == pytest.approx(logit, abs=2e-4, rel=1e-5)
        assert result.probability[i] == pytest.approx(probability, rel=1e-4)
        assert result.captions[i] == caption
    whole = generate(model, prompt, 6)[0]
    assert result.unablated == whole == result.captions[0] == result.captions[4]
    assert list(result.changed) == [caption != whole for caption in result.captions]


def test_rows_count_what_they_touch(model, prompt):
    result = sweep(model, prompt, TARGET, ROWS, 3, positions="image")
    expected = [len(set(row)) * model.image_tokens.count for row in ROWS]
    assert list(result.touched) == expected


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(len(ROWS))), batch_rows=st.integers(1, 4))
def test_neither_the_order_of_rows_nor_the_batch_matters(model, prompt, order, batch_rows):
    whole = sweep(model, prompt, TARGET, ROWS, 4)
    mixed = sweep(model, prompt, TARGET, [ROWS[i] for i in order], 4, batch_rows=batch_rows)
    np.testing.assert_allclose(mixed.probability, whole.probability[list(order)], rtol=1e-4)
    assert mixed.captions == tuple(whole.captions[i] for i in order)
    assert list(mixed.changed) == list(whole.changed[list(order)])


def test_several_targets_share_one_prompt_pass(model, prompt):
    targets = [TARGET, Target("a", "dog", 12, ()), Target("a", "cat", 40, (5, 9, 301, 7))]
    result = sweep(model, prompt, targets, ROWS, 4)
    assert result.probability.shape == (len(ROWS), 3)
    for column, target in enumerate(targets):
        one = sweep(model, prompt, target, ROWS, 4)
        np.testing.assert_allclose(result.logit[:, column], one.logit, atol=1e-4)
        assert one.captions == result.captions


def test_probabilities_alone_need_no_caption(model, prompt):
    result = sweep(model, prompt, TARGET, ROWS, 0)
    np.testing.assert_allclose(
        result.probability, sweep(model, prompt, TARGET, ROWS, 3).probability, rtol=1e-5
    )
    assert not result.changed.any()
    assert result.captions[0].ids == ()


def test_a_sweep_is_for_one_image(model):
    with pytest.raises(ValueError, match="one image, not 3"):
        sweep(model, model.prompt(IMAGES), TARGET, ROWS)


# --- rounding --------------------------------------------------------------------------


def test_float32_changes_are_no_rounding(model, prompt):
    result = sweep(model, prompt, TARGET, ROWS, 6)
    assert 0 < result.noise < 1e-3
    assert result.changed.any()
    assert not result.within_rounding.any()
    assert (np.isnan(result.margin) == ~result.changed).all()


def test_a_margin_is_the_smaller_gap_between_the_two_tokens_that_differ():
    logits = torch.tensor([[9.0, 0, 0], [0, 4.0, 3.5], [0, 1.0, 2.0]])  # of the whole caption's run
    assert interventions._margin(
        [0, 1, 2], logits, [0, 2], torch.tensor([0, 0.2])
    ) == pytest.approx(0.2)
    assert interventions._margin([0, 1, 2], logits, [0, 2], torch.tensor([0, 7.0])) == 0.5
    assert np.isnan(interventions._margin([0, 1], logits, [0, 1], torch.tensor([0.0, 0.0])))


def test_changes_below_the_noise_are_marked(model, prompt, monkeypatch):
    plain = sweep(model, prompt, TARGET, ROWS, 6)
    cut = float(np.nanmedian(plain.margin))
    monkeypatch.setattr(interventions, "_rounding_noise", lambda *_: cut)
    marked = sweep(model, prompt, TARGET, ROWS, 6)
    assert list(marked.within_rounding) == list(plain.changed & (plain.margin < cut))
    assert marked.within_rounding.any()
    assert (marked.changed & ~marked.within_rounding).any()


def test_margins_are_read_off_single_runs(model, prompt):
    result = sweep(model, prompt, TARGET, ROWS, 6, batch_rows=2)
    whole = result.unablated.ids
    for i in np.flatnonzero(result.changed):
        ids = result.captions[i].ids
        step = next(
            s for s, (a, b) in enumerate(zip((*whole, 0), (*ids, 0), strict=False)) if a != b
        )
        tokens = [(*c, 0)[step] for c in (whole, ids)]
        forced = teacher_forced(model, prompt, [whole[:step]])
        plain, _ = model.forward(forced)
        with ablate(model, Ablation(tuple(ROWS[i]))):
            without, _ = model.forward(forced)
        gaps = [
            plain[0, tokens[0]] - plain[0, tokens[1]],
            without[0, tokens[1]] - without[0, tokens[0]],
        ]
        assert result.margin[i] == pytest.approx(min(gaps).item(), abs=1e-4)


def test_a_tie_that_turns_is_marked(prompt):
    half = tiny_limber()
    half.language_model.bfloat16()
    coarse = type(prompt)(prompt.embeds.bfloat16(), prompt.mask, prompt.positions)
    with torch.no_grad():
        logits, _ = half.forward(coarse)
        best, second = logits[0].topk(2).indices.tolist()
        half.language_model.lm_head.bias[second] += logits[0, best] - logits[0, second]
    every = [[Neuron(layer, unit)] for layer in range(2) for unit in range(40)]
    result = sweep(half, coarse, TARGET, every, 1)
    firsts = np.array([caption.ids[0] for caption in result.captions])
    turned = result.changed & np.isin(firsts, [best, second])
    assert turned.any()
    assert result.within_rounding[turned].all()


def test_half_precision_has_more_noise(prompt):
    half = tiny_limber()
    half.language_model.bfloat16()
    coarse = type(prompt)(prompt.embeds.bfloat16(), prompt.mask, prompt.positions)
    result = sweep(half, coarse, TARGET, ROWS, 4)
    assert result.noise > 1e-3
    assert result.probability.dtype == np.float32


# --- rows of the paper's conditions ----------------------------------------------------


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
        ablation_rows(ranked, {}, [0, 9], 64, RNG)
    with pytest.raises(ValueError, match="1 interpretable"):
        ablation_rows(ranked, {ranked[0]: True}, [2], 64, RNG)
