"""What is kept of drafts stays within its room and goes where lower layers are asked for."""

from __future__ import annotations

import torch

from mmn_utils.interventions.below import Below
from mmn_utils.models.upper import streams_into
from tests.tiny import tiny_images, tiny_limber


@torch.no_grad()
def test_room_is_kept_and_given_back():
    model = tiny_limber()
    with streams_into(model, 2) as seen:
        _, past = model.forward(model.prompt(tiny_images(2)), use_cache=True)
    tokens = seen[0].shape[1]
    below = Below()
    assert below.ask(2, 2) == 2
    below.keep([7, 8], [tokens, tokens - 1], seen[0], past)
    assert below.knows([8, 7])
    assert torch.equal(below.streams([7, 8], tokens)[0], seen[0][0])
    assert not below.streams([8], tokens)[0, -1].any()
    assert below.ask(3, 1) == 2  # what is held will do
    room = below.room
    held = sum(lower.nbytes for lower in below.held.values())
    assert below.ask(1, 1) == 1
    assert not below.knows([7])
    assert below.room == room + held
    small = Below(room=1)
    small.ask(2, 2)
    small.keep([7], [tokens], seen[0], past)
    assert not small.knows([7])
