"""Drafts: the captions of greedy generation, from fewer passes."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import chain

import pytest
import torch

from mmn_utils.datasets import Photograph
from mmn_utils.interventions import drafts as room
from mmn_utils.interventions.drafts import captions_now, drafts_of
from mmn_utils.interventions.edit import apply
from mmn_utils.interventions.following import AHEAD
from mmn_utils.interventions.perturbation import perturb
from mmn_utils.neurons.captions import caption_images
from mmn_utils.neurons.table import Neuron
from tests.interventions.rows import edit_at
from tests.tiny import tiny_images
from tests.tiny_systems import each_of

TOKENS = 6


system = each_of("gated", "limber", "llava", "instructblip", "mplug_owl2")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for number, image in enumerate(tiny_images(5)):
        path = folder / f"{number}.png"
        image.save(path)
        found.append(Photograph(str(number), path))
    return found


@pytest.fixture(scope="module")
def said(system, photographs):
    return caption_images(system, [p.open() for p in photographs], TOKENS)


def test_an_unchanged_model_says_its_drafts_without_generating(
    system, photographs, said, monkeypatch
):
    drafts = drafts_of(system, photographs, said, max_new_tokens=TOKENS, batch_size=2)
    monkeypatch.setattr(room, "follow", None)
    found, differences = captions_now(system, drafts, batch_size=3)
    assert found == said
    assert len(differences) == 5


def test_a_draft_that_an_end_of_turn_ended_stands(system, photographs, said, monkeypatch):
    config = system.language_model.generation_config
    monkeypatch.setattr(config, "eos_token_id", [said[0].ids[2], said[1].ids[3]])
    ended = caption_images(system, [p.open() for p in photographs], TOKENS)
    assert len(ended[0].ids) <= 2
    drafts = drafts_of(system, photographs, ended, max_new_tokens=TOKENS)
    monkeypatch.setattr(room, "follow", None)
    assert captions_now(system, drafts)[0] == ended


@pytest.mark.parametrize("sigma", [0.05, 2.0])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_changed_model_says_what_generation_says(system, photographs, said, layer, sigma):
    drafts = drafts_of(system, photographs, said, max_new_tokens=TOKENS, batch_size=2)
    neurons = [Neuron(layer, unit) for unit in range(12)]
    with perturb(system, neurons, sigma, seed=1):
        expected = caption_images(system, [p.open() for p in photographs], TOKENS)
        found, _ = captions_now(system, drafts)
        some, _ = captions_now(system, drafts, ["3", "1"])
    assert found == expected
    assert some == [expected[3], expected[1]]


def test_differences_are_read_at_their_step(system, photographs, said):
    drafts = drafts_of(system, photographs, said, max_new_tokens=TOKENS)
    reads = [(1, 5, 7), None, (0, 2, 3), None, None]
    with perturb(system, [Neuron(1, 3)], 1.0):
        _, found = captions_now(system, drafts, reads=reads, batch_size=2)
        prompt = system.prompt([photographs[0].open()])
        prompt = prompt.extend(system.embed(torch.tensor([said[0].ids[:1]])))
        logits = system.forward(prompt)[0][0]
    assert found[0] == pytest.approx(float(logits[5] - logits[7]), abs=1e-4)
    assert [value != value for value in found] == [False, True, False, True, True]


@contextmanager
def counted(module):
    """Count a module's passes without a hook, which would be seen."""
    calls, forward = [], module.forward

    def counting(*args, **kwargs):
        calls.append(args)
        return forward(*args, **kwargs)

    module.forward = counting
    try:
        yield calls
    finally:
        del module.forward


def rows_of(calls) -> int:
    """Count the rows of passes over whole drafts, whose captions are tried a few tokens a time."""
    return sum(len(args[0]) for args in calls if args and args[0].shape[1] > 1 + AHEAD)


UNKNOWN = {1: 1, 2: 1}  # rows that were only known up to a lower layer than their edit's


def test_layers_below_the_edits_run_once_for_all_of_them(system, photographs, said, monkeypatch):
    monkeypatch.setattr(room, "ALONE", 0)  # every layer is worth a batch of its own
    drafts = drafts_of(system, photographs, said, max_new_tokens=TOKENS)
    images, first = [p.id for p in photographs], system.layer(0)
    for turn, layers in enumerate([(2, 1, 2, 1, 2), (1, 1, 1, 2, 2), (2, 2, 2, 2, 2)]):
        edits = [edit_at(system, ((layer, 3), (layer, 5)), layer) for layer in layers]
        expected = []
        for edit, photograph in zip(edits, photographs, strict=True):
            with apply(system, edit, hash_weights=False):
                expected += caption_images(system, [photograph.open()], TOKENS)
        assert expected != said
        with counted(first) as calls, counted(system.layer(1)) as more:
            found, _ = captions_now(system, drafts, images, edits=edits, batch_size=5)
        assert found == expected
        assert rows_of(calls) == 5 * (turn == 0)
        # each row at its own layer, once it is known there; all of the first pass at its start
        assert rows_of(more) == (5 if turn == 0 else layers.count(1) + UNKNOWN[turn])
    assert len(drafts.below.held) == 5
    assert not any(module._forward_pre_hooks for module in system.language_model.modules())


def test_rows_of_one_batch_begin_where_all_of_them_are_known(system, photographs, said):
    drafts = drafts_of(system, photographs, said, max_new_tokens=TOKENS)
    images = [photograph.id for photograph in photographs]
    edits = [edit_at(system, ((layer, 3),), layer) for layer in (2, 1, 2, 1, 2)]
    found = [captions_now(system, drafts, images, edits=edits)[0]]
    with counted(system.layer(0)) as lowest, counted(system.layer(1)) as more:
        found.append(captions_now(system, drafts, images, edits=edits)[0])
    assert found[0] == found[1]
    assert rows_of(lowest) == 0
    assert rows_of(more) == 5  # too few tokens for two batches


def test_a_draft_that_is_tried_again_in_one_call_is_known_by_then(system, photographs, said):
    drafts = drafts_of(system, photographs, said, max_new_tokens=TOKENS)
    images = [photograph.id for photograph in photographs]
    sets = [[edit_at(system, ((layer, 3), (2, 5)), seed) for _ in images]
            for seed, layer in enumerate((2, 1, 2))]  # fmt: skip
    expected = [captions_now(system, drafts, images, edits=some)[0] for some in sets]
    anew = drafts_of(system, photographs, said, max_new_tokens=TOKENS)
    with counted(system.layer(0)) as calls:
        found, _ = captions_now(system, anew, images * 3, edits=[*chain(*sets)])
    assert found == [*chain(*expected)]
    assert rows_of(calls) == len(images)


@pytest.mark.parametrize(
    ("begins", "tokens", "expected"),
    [
        ([0, 5, 0, 5], 10, [[1, 3, 0, 2]]),  # 2 x 10 x 5 tokens of a layer, of 600
        ([0, 5, 0, 5], 70, [[1, 3], [0, 2]]),
        ([4, 5, 0], 130, [[1, 0], [2]]),  # what one layer spares one row is too little
        ([3, 3], 1000, [[0, 1]]),
    ],
)
def test_rows_get_a_batch_of_their_own_where_that_spares_enough(begins, tokens, expected):
    assert room._groups(begins, tokens, layers=6) == expected


def test_bad_input(system, photographs, said):
    with pytest.raises(ValueError, match="one each"):
        drafts_of(system, photographs, said[:2])
    with pytest.raises(ValueError, match="one each"):
        drafts_of(system, [], [])
    drafts = drafts_of(system, photographs, said, max_new_tokens=TOKENS)
    with pytest.raises(KeyError):
        captions_now(system, drafts, ["nowhere"])
