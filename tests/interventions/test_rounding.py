"""Changes of captions, and what rounding alone could do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.interventions import sweeps
from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.interventions.rounding import margin
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import teacher_forced
from tests.interventions.rows import ROWS, TARGET
from tests.tiny import tiny_limber


def test_float32_changes_are_no_rounding(model, prompt):
    result = sweep(model, prompt, TARGET, ROWS, 6)
    assert 0 < result.noise < 1e-3
    assert result.changed.any()
    assert not result.within_rounding.any()
    assert (np.isnan(result.margin) == ~result.changed).all()


def test_a_margin_is_the_smaller_gap_between_the_two_tokens_that_differ():
    logits = torch.tensor([[9.0, 0, 0], [0, 4.0, 3.5], [0, 1.0, 2.0]])  # of the whole caption's run
    assert margin([0, 1, 2], logits, [0, 2], torch.tensor([0, 0.2])) == pytest.approx(0.2)
    assert margin([0, 1, 2], logits, [0, 2], torch.tensor([0, 7.0])) == 0.5
    assert np.isnan(margin([0, 1], logits, [0, 1], torch.tensor([0.0, 0.0])))


def test_changes_below_the_noise_are_marked(model, prompt, monkeypatch):
    plain = sweep(model, prompt, TARGET, ROWS, 6)
    cut = float(np.nanmedian(plain.margin))
    monkeypatch.setattr(sweeps, "rounding_noise", lambda *_: cut)
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
