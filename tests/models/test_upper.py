"""Passes that begin at a layer give what whole passes give."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmn_utils.models.capture import capture, output_of
from mmn_utils.models.past import with_states
from mmn_utils.models.upper import (
    begin_at,
    can_begin_at,
    kept_below,
    put_below,
    stand_in,
    streams_into,
)
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_systems import each_of

system = each_of("limber", "llava", "mplug_owl2")


@torch.no_grad()
def test_a_pass_from_a_layer_is_the_rest_of_the_whole_one(system):
    prompt, layer = system.prompt(tiny_images(2)), system.sizes.layers - 1
    assert can_begin_at(system, layer)
    with streams_into(system, layer) as seen:
        whole, past = system.forward(prompt, use_cache=True)
    pairs = kept_below(past, layer)
    assert len(pairs) == layer
    with begin_at(system, layer):
        logits, rest = system.forward(replace(prompt, embeds=seen[0]), use_cache=True)
    torch.testing.assert_close(logits, whole, rtol=1e-6, atol=1e-6)
    put_below(rest, pairs)
    longer = prompt.extend(system.embed(torch.tensor([[5], [9]]))).tail(1)
    expected, found = (system.forward(longer, past=one)[0] for one in (past, rest))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(system.forward(prompt)[0], whole)


def test_no_pass_begins_where_somebody_looks_or_nothing_lies_below(system):
    with capture(system, layers=[0]):
        assert not can_begin_at(system, 1)
    with capture(system, layers=[1]):
        assert can_begin_at(system, 1)
    assert not can_begin_at(system, 0)
    assert not can_begin_at(system, system.sizes.layers)


def test_the_layers_come_back_after_an_error(system):
    layers = system.layer(0), system.language_model.state_dict().keys()
    with pytest.raises(ZeroDivisionError), begin_at(system, 1):
        raise ZeroDivisionError
    assert (system.layer(0), system.language_model.state_dict().keys()) == layers


def test_another_cache_keeps_nothing():
    past = with_states(tiny_limber().language_model.config, {0})
    assert kept_below(past, 1) is None


@torch.no_grad()
def test_layers_that_stand_in_are_as_if_they_had_been_computed(system):
    prompt, layer = system.prompt(tiny_images(2)), system.sizes.layers - 2
    kinds, hooks = {}, []
    for i in range(system.sizes.layers):
        note = lambda _module, _inputs, output, i=i: kinds.update({i: output})  # noqa: E731
        hooks.append(system.layer(i).register_forward_hook(note))
    whole = system.forward(prompt)[0]
    for hook in hooks:
        hook.remove()
    stream = output_of(kinds[layer])
    system.layer(0).forward = own = system.layer(0).forward
    with stand_in(system, layer, kinds, stream), capture(system) as seen:
        assert torch.equal(system.forward(prompt)[0], whole)
    assert set(seen.values) == {system.sizes.layers - 1}
    with stand_in(system, layer, kinds, stream * 0.5):
        assert (system.forward(prompt)[0] - whole).abs().max() > 1e-3
    assert vars(system.layer(0))["forward"] is own
    del system.layer(0).forward
    assert all("forward" not in vars(system.layer(i)) for i in range(system.sizes.layers))
    assert torch.equal(system.forward(prompt)[0], whole)
