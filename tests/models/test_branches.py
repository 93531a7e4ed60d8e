"""Rows that branch off one pass are what they are by themselves."""

from __future__ import annotations

from dataclasses import replace

import torch

from mmn_utils.models import branches
from mmn_utils.models.capture import capture
from mmn_utils.models.capture import replace as replacing
from mmn_utils.models.past import with_states
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_systems import each_of

system = each_of("limber", "llava", "gated", "mplug_owl2")


def off(units: list[int]):
    """Switch units off in the last row of a batch."""

    def function(activation):
        activation = activation.clone()
        activation[-1, :, units] = 0
        return activation

    return function


@torch.no_grad()
def test_rows_that_branch_off_a_layer_are_what_they_are_alone(system):
    prompt = system.prompt(tiny_images(1))
    assert branches.can_branch(system, prompt)
    layers = range(system.sizes.layers)
    trunk = branches.trunk_of(system, prompt, layers)
    found = []
    for layer in layers:
        with branches.parting(system, layer, 2), replacing(system, {layer: off([0, 5])}):
            found.append(branches.run_branch(system, trunk, layer))
    past = branches.past_of_all(trunk, found, 1)
    token = prompt.next(system.embed(torch.tensor([[7]])))
    rows = 1 + 2 * len(layers)
    behind = system.forward(token.expand(rows), past=past, use_cache=True)[0]
    for row, layer in enumerate([None, *(layer for layer in layers for _ in range(2))]):
        changed = {} if row % 2 or row == 0 else {layer: off([0, 5])}
        with replacing(system, changed):
            logits, own = system.forward(prompt, use_cache=True)
        after = system.forward(token, past=own, use_cache=True)[0]
        mine = trunk.logits[0] if layer is None else found[layer].logits[(row - 1) % 2]
        torch.testing.assert_close(mine, logits[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(behind[row], after[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_nothing_branches_where_somebody_looks_or_a_prompt_has_gaps(system):
    prompt = system.prompt(tiny_images(1))
    with capture(system, layers=[1]):
        assert not branches.can_branch(system, prompt)
    assert not branches.can_branch(system, system.prompt(tiny_images(2)))
    mask = prompt.mask.clone()
    mask[0, 0] = 0
    assert not branches.can_branch(system, prompt.hidden(mask))
    assert not branches.can_branch(system, replace(prompt, extras={"more": prompt.mask}))


def test_no_rows_with_a_cache_branch_off_another_cache(monkeypatch):
    model = tiny_limber()
    prompt = model.prompt(tiny_images(1))
    past = with_states(model.language_model.config, {0})
    monkeypatch.setattr(model, "forward", lambda *_, **__: (torch.zeros(1, 4), past))
    assert not branches.trunk_of(model, prompt, ()).plain


def test_as_many_rows_go_at_once_as_the_allocator_keeps():
    model = tiny_limber()
    assert branches.rows_at_once(model, 2**25) == 1
    assert branches.rows_at_once(model, 128) == branches.FAST // (128 * 128 * 4)
