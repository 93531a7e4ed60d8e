"""Edits of single rows of a batch, against the same edits in the weights."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.interventions.edit import apply
from mmn_utils.interventions.row_edits import apply_by_row
from mmn_utils.models.base import state_hash
from mmn_utils.neurons.captions import caption_images, generate
from tests.interventions.rows import edit_at
from tests.tiny import tiny_images
from tests.tiny_gated import TinyGated
from tests.tiny_systems import each_of

TOKENS = 6
PLACES = (  # of each row: several layers, one, none, and more units than the others
    ((0, 3), (1, 5), (1, 2)),
    ((1, 7),),
    None,
    ((0, 1), (0, 2), (0, 5), (0, 9)),
    ((1, 7), (0, 3)),
)


system = each_of("gated", "limber", "llava", "mplug_owl2")


@pytest.fixture(scope="module")
def edits(system):
    return [edit_at(system, places, seed) for seed, places in enumerate(PLACES)]


@pytest.fixture
def ending(system):
    """Let another token end a text."""
    tokenizer, before = system.tokenizer, system.tokenizer.eos_token_id
    yield lambda token: setattr(tokenizer, "eos_token_id", token)
    tokenizer.eos_token_id = before


def alone(system, edit, image):
    """Read logits and caption with the edit in the weights."""

    def read():
        prompt = system.prompt([image])
        return system.forward(prompt)[0][0], generate(system, prompt, TOKENS)[0]

    if edit is None:
        return read()
    with apply(system, edit):
        return read()


def test_each_row_is_as_with_its_edit_in_the_weights(system, edits):
    images = tiny_images(len(PLACES))
    expected = [alone(system, edit, image) for edit, image in zip(edits, images, strict=True)]
    prompt, weights, revision = (
        system.prompt(images),
        state_hash(*system.modules()),
        system.revision,
    )
    plain = system.forward(prompt)[0]
    with apply_by_row(system, edits) as rows:
        assert system.revision != revision
        logits = system.forward(prompt)[0]
        captions = generate(system, prompt, TOKENS, kept=rows.keep)
    torch.testing.assert_close(logits, torch.stack([one for one, _ in expected]),
                               rtol=1e-4, atol=1e-4)  # fmt: skip
    assert captions == [caption for _, caption in expected]
    assert torch.equal(logits[2], plain[2])
    assert not torch.allclose(logits[0], plain[0], atol=1e-3)
    assert (system.revision, state_hash(*system.modules())) == (revision, weights)
    assert torch.equal(system.forward(prompt)[0], plain)


def test_rows_that_go_on_keep_their_edits(system, edits):
    images, going = tiny_images(len(PLACES)), [4, 0]
    prompt = system.prompt(images)
    with apply_by_row(system, edits) as rows:
        whole = system.forward(prompt)[0]
        rows.keep(going)
        part = system.forward(prompt.select(going))[0]
        torch.testing.assert_close(part, whole[going], rtol=1e-5, atol=1e-5)
        rows.keep([1])
        torch.testing.assert_close(
            system.forward(prompt.select([0]))[0], whole[[0]], rtol=1e-5, atol=1e-5
        )


def test_generation_that_drops_rows_tells_which(system, edits, ending):
    images = tiny_images(8)
    ids = [caption.ids for caption in caption_images(system, images, TOKENS)]
    end, other = next(
        (one[step], j)
        for one in ids[:1]
        for step in range(TOKENS)
        for j, rest in enumerate(ids)
        if one[step] not in rest
    )
    ending(end)
    several, told = [images[0], images[0], images[other], images[0]], []
    captions = generate(system, system.prompt(several), TOKENS, kept=told.append)
    assert told == [[2]]
    assert captions[2].ids == ids[other]
    with apply_by_row(system, [None, edits[1], edits[0], None]) as rows:
        changed = generate(system, system.prompt(several), TOKENS, kept=rows.keep)
    assert changed[2] == alone(system, edits[0], images[other])[1]


def test_bad_input(system, edits):
    prompt = system.prompt(tiny_images(2))
    with apply_by_row(system, edits), pytest.raises(ValueError, match="2 rows within edits for 5"):
        system.forward(prompt)
    system.forward(prompt)  # the hooks are off
    stranger = TinyGated(seed=5)
    other = edit_at(stranger, ((0, 1),), 0)
    with pytest.raises(ValueError, match="was made on"), apply_by_row(system, [other]):
        pass
