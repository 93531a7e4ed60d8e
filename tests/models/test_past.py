"""The cache with room: what it holds is transformers' own, and what it shares is never written."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

from mmn_utils.models.past import ROOM, RoomyLayer, StateLayer, roomy
from tests.tiny import tiny_images, tiny_limber

SHAPE = 2, 3, 4  # rows, heads, width


def states(tokens: int, seed: int, rows: int = SHAPE[0]) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw keys and values of some tokens."""
    generator = torch.Generator().manual_seed(seed)
    shape = rows, SHAPE[1], tokens, SHAPE[2]
    return tuple(torch.randn(shape, generator=generator) for _ in range(2))


def layers(tokens: int = 5) -> tuple[DynamicLayer, RoomyLayer]:
    """Read the same tokens with transformers' layer and with the one that has room."""
    plain, first = DynamicLayer(), DynamicLayer()
    for layer in (plain, first):
        layer.update(*states(tokens, 0))
    return plain, RoomyLayer(first)


def assert_same(one: DynamicLayer, other: DynamicLayer) -> None:
    assert torch.equal(one.keys, other.keys)
    assert torch.equal(one.values, other.values)
    assert one.get_seq_length() == other.get_seq_length()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("update"), st.integers(1, 2 * ROOM)),
        st.tuples(st.just("crop"), st.integers(1, 3)),
        st.tuples(st.just("select"), st.lists(st.integers(0, 1), min_size=1, max_size=3)),
        st.tuples(st.just("repeat"), st.integers(1, 2)),
        st.tuples(st.just("copy"), st.none()),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(steps)
@torch.no_grad()
def test_it_holds_what_transformers_own_holds(history):
    plain, mine = layers()
    for place, (what, value) in enumerate(history):
        rows = len(plain.keys)
        for layer in (plain, mine):
            if what == "update":
                keys, values = layer.update(*states(value, place + 1, rows))
                assert torch.equal(keys, layer.keys)
                assert torch.equal(values, layer.values)
            elif what == "crop" and layer.get_seq_length() > value:
                layer.crop(-value)
            elif what == "select":
                layer.batch_select_indices(torch.tensor([i % rows for i in value]))
            elif what == "repeat":
                layer.batch_repeat_interleave(value)
        mine = copy.copy(mine) if what == "copy" else mine
        assert_same(plain, mine)


@torch.no_grad()
def test_a_token_is_written_beside_the_others_without_a_copy_of_them():
    _, mine = layers()
    mine.update(*states(1, 1))
    place = mine.keys.data_ptr(), mine.values.data_ptr()
    for step in range(ROOM - 1):
        mine.update(*states(1, 2 + step))
        assert (mine.keys.data_ptr(), mine.values.data_ptr()) == place


@torch.no_grad()
def test_branches_do_not_see_each_others_tokens():
    plain, mine = layers()
    mine.update(*states(1, 1))
    plain.update(*states(1, 1))
    other = copy.copy(mine)
    own = copy.copy(plain)
    for branch, seed in ((mine, 2), (other, 3), (plain, 2), (own, 3)):
        branch.update(*states(1, seed))
    assert_same(plain, mine)
    assert_same(own, other)


def test_what_is_in_a_graph_is_not_written_over():
    keys, values = (tensor.requires_grad_() for tensor in states(5, 0))
    first = DynamicLayer()
    first.update(keys, values)
    mine = RoomyLayer(first)
    held = mine.update(*states(1, 1))[0]
    with torch.no_grad():
        copy.copy(mine).update(*states(1, 2))
        mine.update(*states(1, 3))
    held.square().sum().backward()
    torch.testing.assert_close(keys.grad, 2 * keys.detach())


def test_windows_stay_as_they_are():
    past = DynamicCache()
    past.layers = [DynamicLayer(), DynamicSlidingWindowLayer(4)]
    assert [type(layer) for layer in roomy(past).layers] == [RoomyLayer, DynamicSlidingWindowLayer]
    assert roomy(None) is None


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 3])
def test_a_model_goes_on_behind_it_as_behind_the_whole_prompt(tokens):
    model = tiny_limber()
    prompt = model.prompt(tiny_images(2))
    _, past = model.forward(prompt, use_cache=True)
    assert all(isinstance(layer, RoomyLayer) for layer in past.layers)
    for step in range(3):
        ids = torch.arange(2 * tokens).reshape(2, tokens) + 5 * step
        prompt = prompt.extend(model.embed(ids))
        logits, past = model.forward(prompt.tail(tokens), past=past, use_cache=True)
        torch.testing.assert_close(logits, model.forward(prompt)[0], atol=1e-5, rtol=1e-5)


# --- states of layers without attention -------------------------------------------------


def read(layer: StateLayer, step: int, tokens: int, rows: int = 2) -> torch.Tensor:
    """Let a layer take in what a convolution of 4 tokens reads, and a state of its own."""
    generator = torch.Generator().manual_seed(step)
    new = torch.randn(rows, 5, tokens, generator=generator)
    whole = layer.update_conv_state(new, conv_kernel_size=4)
    layer.update_recurrent_state(torch.randn(rows, 3, 3, generator=generator))
    return whole


def held(layer: StateLayer) -> list[torch.Tensor]:
    return [layer.conv_states[0].clone(), layer.recurrent_states[0].clone()]


@torch.no_grad()
def test_states_are_those_that_transformers_own_layer_holds():
    mine, own = StateLayer(), LinearAttentionLayer()
    for step, tokens in enumerate((6, 1, 3)):
        whole, expected = read(mine, step, tokens), read(own, step, tokens)
        assert torch.equal(whole[..., -tokens:], expected[..., -tokens:])
        assert all(map(torch.equal, held(mine), held(own)))


@torch.no_grad()
def test_the_last_step_can_be_taken_back_whole():
    layer = StateLayer()
    read(layer, 0, 6)
    before = held(layer)
    read(layer, 1, 2)
    other = copy.copy(layer)
    with pytest.raises(ValueError, match=r"3 tokens cannot be cut off .* its last step of 2"):
        layer.crop(-3)
    layer.crop(-2)
    assert all(map(torch.equal, held(layer), before))
    read(layer, 2, 1)  # a copy does not see what follows
    other.crop(-2)
    assert all(map(torch.equal, held(other), before))
    other.batch_repeat_interleave(2)
    other.batch_select_indices(torch.tensor([3, 0]))
    expected = [state[[1, 0]] for state in before]
    assert all(map(torch.equal, held(other), expected))
    with pytest.raises(ValueError, match="cannot be cut off"):
        other.crop(-1)
