"""What is kept of drafts stays within its room and goes where lower layers are asked for."""

from __future__ import annotations

import copy

import torch

from mmn_utils.interventions.below import ROOM, Below
from mmn_utils.models.upper import streams_into
from tests.tiny import tiny_images, tiny_limber


@torch.no_grad()
def test_room_is_kept_and_what_is_known_grows():
    model = tiny_limber()
    with streams_into(model, 1) as first, streams_into(model, 2) as second:
        _, past = model.forward(model.prompt(tiny_images(2)), use_cache=True)
    tokens, seen = first[0].shape[1], {1: first[0], 2: second[0]}
    below, rows, lengths = Below(), [7, 8], [tokens, tokens - 1]
    below.ask([2, 0, 1], 0)
    assert below.to_keep(0, [2, 1]) == [1, 2]
    assert below.to_keep(1, [1]) == []
    below.keep(rows, lengths, [2, 1], seen, past)
    assert [below.begin([7], [layer]) for layer in range(3)] == [0, 1, 2]
    assert [below.begin([8], [layer]) for layer in range(3)] == [0, 1, 1]  # the edit of 8 is in 1
    assert below.begin([9], [2]) == 0
    assert torch.equal(below.streams([7, 8], 1, tokens)[0], first[0][0])
    assert not below.streams([8], 1, tokens)[0, -1].any()
    below.keep([8], lengths[1:], [2], {2: second[0][1:]}, _selected(past, 1))
    assert below.begin([8], [2]) == 2
    for layer, (keys, values) in enumerate(below.pairs([7, 8], 2, tokens)):
        held = past.layers[layer]
        for mine, whole in ((keys, held.keys), (values, held.values)):
            assert torch.equal(mine[0], whole[0])
            assert torch.equal(mine[1, :, :-1], whole[1, :, :-1])
    assert below.room == ROOM - sum(lower.nbytes for lower in below.held.values())
    small = Below(room=1)
    small.ask([2], 0)
    small.keep(rows, lengths, [2, 2], seen, past)
    assert small.begin([7], [2]) == 0


def _selected(past, row: int):
    """Take one row of a cache, without what is known below its highest layer but one."""
    past.layers = list(past.layers)
    own = copy.copy(past)
    own.layers = [copy.copy(layer) for layer in past.layers]
    for layer, held in enumerate(own.layers):
        rows = slice(row, row + 1)
        held.keys, held.values = (
            (None, None) if layer == 0 else (held.keys[rows], held.values[rows])
        )
    return own


def test_edits_ask_for_their_layers_and_one_below():
    below = Below()
    below.ask([0, 0], 2)
    assert below.layers == set()
    below.ask([9, 5, 0], 2)
    assert below.layers == {9, 5, 3}
    below.ask([1], 2)
    assert below.layers == {9, 5, 3, 1}
