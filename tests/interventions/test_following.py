"""Captions that go on by a draft are those that go on by themselves, whatever the draft."""

from __future__ import annotations

import torch

from mmn_utils.interventions.following import AHEAD, Follower, follow
from mmn_utils.neurons.captions import generate
from tests.tiny import tiny_images
from tests.tiny_systems import each_of

LIMIT = 9


system = each_of("limber", "llava", "instructblip", "mplug_owl2")


@torch.no_grad()
def followed(system, prompt, drafts, monkeypatch):
    """Follow drafts from their start on: captions, passes, and what ``kept`` was told."""
    begun = system.forward(prompt, use_cache=True)
    rows, kept, passes, forward = [Follower.leaving(d, 0) for d in drafts], [], [], system.forward
    monkeypatch.setattr(system, "forward", lambda *a, **k: passes.append(a) or forward(*a, **k))
    follow(system, prompt, begun, rows, LIMIT, kept.append, ["a", "b", "c"])
    monkeypatch.undo()
    return [tuple(row.ids) for row in rows], len(passes), kept


@torch.no_grad()
def test_any_draft_leads_to_what_generation_says(system, monkeypatch):
    prompt = system.prompt(tiny_images(3))
    said = [caption.ids for caption in generate(system, prompt, LIMIT)]
    assert all(len(ids) == LIMIT for ids in said)
    other = [tuple(token + 1 for token in ids) for ids in said]
    mixed = [(*said[0][:3], 7, *said[0][4:]), (), (8, *said[2][3:])]
    found, passes, _ = followed(system, prompt, said, monkeypatch)
    assert found == said
    assert passes == -(-(LIMIT - 1) // (AHEAD + 1))
    found, passes, _ = followed(system, prompt, other, monkeypatch)
    assert found == said
    assert passes <= LIMIT - 1
    assert followed(system, prompt, mixed, monkeypatch)[0] == said


@torch.no_grad()
def test_rows_that_have_ended_are_left_behind(system, monkeypatch):
    prompt = system.prompt(tiny_images(3))
    said = [caption.ids for caption in generate(system, prompt, LIMIT)]
    ends = frozenset({said[0][1], said[1][2]})
    monkeypatch.setattr(type(system), "end_tokens", ends)
    begun = system.forward(prompt, use_cache=True)
    rows, kept = [Follower.leaving(said[2], 0) for _ in said], []
    follow(system, prompt, begun, rows, LIMIT, kept.append, ["a", "b", "c"])
    expected = generate(system, prompt, LIMIT)
    for row, caption in zip(rows, expected, strict=True):
        assert tuple(row.ids[: len(caption.ids)]) == caption.ids
        assert len(row.ids) == LIMIT or row.ids[-1] in ends
    for alone in kept:  # the one that goes on longest
        assert len(rows[alone[0]].ids) == max(len(row.ids) for row in rows)
        assert len(alone) == 1


def test_a_draft_is_given_up_after_two_tries_in_vain():
    row = Follower.leaving((1, 2, 3, 4, 5, 6), 1)
    for said in (7, 7):
        tried = row.guess(20)
        assert tried
        row.take([said], tried, ends={9}, limit=20)
    assert row.guess(20) == []
    again = Follower.leaving((1, 2, 3, 4, 5, 6), 1)
    again.take([7], again.guess(20), ends={9}, limit=20)
    again.take([3, 8], again.guess(20, 1), ends={9}, limit=20)  # one of them right: it may go on
    assert again.misses == 0
    assert again.guess(20) == [5, 6]


def test_a_draft_is_taken_up_again_where_it_has_the_word():
    row = Follower.leaving((1, 2, 3, 2, 5), 1)
    row.say(9)  # in the place of 2
    assert row.guess(10) == [3, 2, 5]
    row.say(2)
    assert row.guess(10) == [3, 2, 5]  # the 2 just before is as near as the one just behind
    row.say(5)
    assert row.guess(10) == []
    row = Follower.leaving((1, 2, 3, 4, 5, 6, 7), 0)
    assert row.guess(2) == [1, 2]
    assert row.take([1, 2, 4], [1, 2, 3], ends={8}, limit=9) == 2
    assert row.ids == [1, 2, 4]
    assert row.take([8, 6], [5], ends={8}, limit=9) == 0
    assert row.done({8}, 9)
