"""Sweeps against single runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.interventions import sweeps
from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.interventions.receipts import NothingTouched
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.models import branches
from mmn_utils.neurons.captions import as_caption, generate
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target, objective, teacher_forced
from tests.interventions.rows import IMAGES, ROWS, TARGET
from tests.interventions.test_ablation import no_hooks
from tests.models.mplug_owl2.tiny import tiny as tiny_mplug_owl2
from tests.tiny import tiny_limber
from tests.tiny_gated import TinyGated


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


@pytest.mark.parametrize("kind", [tiny_limber, TinyGated, tiny_mplug_owl2])
@pytest.mark.parametrize("positions", ["all", "image", "generated"])
@pytest.mark.parametrize("fast", [1, 2**25])
def test_rows_that_branch_off_are_rows_from_the_start(kind, positions, fast, monkeypatch):
    system = kind()
    prompt = system.prompt(IMAGES[:1])
    monkeypatch.setattr(branches, "FAST", fast)
    layers = system.sizes.layers
    rows = [[], *([Neuron(layer, unit) for layer in some for unit in range(0, 40, step)]
                  for some in ((layers - 1,), (1, layers - 1), (1,), range(layers))
                  for step in (3, 4))]  # fmt: skip
    branched = sweep(system, prompt, TARGET, rows, 5, positions=positions, batch_rows=4)
    monkeypatch.setattr(sweeps.branches, "can_branch", lambda *_: False)
    whole = sweep(system, prompt, TARGET, rows, 5, positions=positions)
    np.testing.assert_allclose(branched.logit, whole.logit, atol=1e-5, rtol=1e-5)
    assert branched.captions == whole.captions
    assert np.ptp(branched.logit) > 1e-4
    assert list(branched.touched) == list(whole.touched)


def test_rows_within_a_hook_of_somebody_begin_at_the_start(model, prompt):
    with ablate(model, Ablation((Neuron(0, 3), Neuron(2, 5)))):
        inside = sweep(model, prompt, TARGET, ROWS, 5)
    more = [[*row, Neuron(0, 3), Neuron(2, 5)] for row in ROWS]
    expected = sweep(model, prompt, TARGET, more, 5)
    np.testing.assert_allclose(inside.logit, expected.logit, atol=1e-5, rtol=1e-5)
    assert inside.captions == expected.captions


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


def test_rows_end_where_a_turn_ends(model, prompt, monkeypatch):
    before = sweep(model, prompt, TARGET, ROWS, 6)
    turns = [before.unablated.ids[3], before.captions[2].ids[1]]
    monkeypatch.setattr(model.language_model.generation_config, "eos_token_id", turns)
    ended = sweep(model, prompt, TARGET, ROWS, 6)
    assert ended.unablated == generate(model, prompt, 6)[0]
    assert list(ended.captions) == [as_caption(model, c.ids) for c in before.captions]
    assert [len(c.ids) for c in ended.captions] != [len(c.ids) for c in before.captions]


def test_captions_that_differ_in_their_end_token_alone_are_not_changed(model, monkeypatch):
    monkeypatch.setattr(model.language_model.generation_config, "eos_token_id", [0, 9])
    run = sweeps._Rows(
        torch.zeros(3, 1), torch.zeros(3, 1), [[5, 0], [5, 9], [7, 0]],
        [torch.zeros(2)] * 3, torch.zeros(2, 400), torch.zeros(3),
    )  # fmt: skip
    found = sweeps._gather(model, [run], [0, 1, 2], 0.1, True)
    assert list(found.changed) == [False, False, True]
    assert list(np.isnan(found.margin)) == [True, True, False]


def test_a_sweep_is_for_one_image(model):
    with pytest.raises(ValueError, match="one image, not 3"):
        sweep(model, model.prompt(IMAGES), TARGET, ROWS)


def test_a_row_that_touches_nothing_raises(model, prompt, monkeypatch):
    monkeypatch.setattr(sweeps, "replace", no_hooks)
    with pytest.raises(NothingTouched, match=r"rows \[1\]"):
        sweep(model, prompt, TARGET, [[], [Neuron(0, 0)]], 2)


def test_neurons_that_are_not_there_are_named(model, prompt):
    with pytest.raises(ValueError, match=r"L7\.u0"):
        sweep(model, prompt, TARGET, [[Neuron(7, 0)]])
