"""Greedy captions against transformers' own generation."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.neurons.captions import Caption, as_caption, caption_images, generate
from tests.tiny import tiny_images, tiny_limber


@pytest.fixture(scope="module")
def model():
    return tiny_limber(seed=2)


def own_generation(model, prompt, tokens):
    """Generate with transformers; ids beyond the vocabulary are kept out as there is none."""
    out = model.language_model.generate(
        inputs_embeds=prompt.embeds,
        attention_mask=prompt.mask,
        max_new_tokens=tokens,
        do_sample=False,
        suppress_tokens=list(range(model.sizes.vocabulary, model.sizes.vocabulary + 6)),
        pad_token_id=0,
        eos_token_id=0,
    )
    return [row[: row.index(0)] if 0 in row else row for row in out.tolist()]


def test_equal_to_transformers_own_generation(model):
    prompt = model.prompt(tiny_images(4, seed=1))
    found = generate(model, prompt, 12)
    assert [list(caption.ids) for caption in found] == own_generation(model, prompt, 12)
    assert all(len(caption.ids) <= 12 for caption in found)


def test_batched_equals_one_by_one(model):
    images = tiny_images(5, seed=3)
    together = caption_images(model, images, 8, batch_size=5)
    assert together == caption_images(model, images, 8, batch_size=2)
    assert together == [caption_images(model, [image], 8)[0] for image in images]
    assert caption_images(model, [], 8) == []


class Cache:
    """Stands for the cache of keys and values: knows which rows it still holds."""

    def __init__(self, rows):
        self.rows = list(range(rows))

    def batch_select_indices(self, indices):
        self.rows = [self.rows[i] for i in indices.tolist()]


def scripted(model, monkeypatch, rows):
    """Let the model say ``rows``, whatever it sees; list its passes."""
    passes, cache = [], Cache(len(rows))

    def forward(prompt, past=None, use_cache=False, last_only=True):
        assert (past is None) == (not passes)
        assert prompt.embeds.shape[1] == (19 if past is None else 1)
        assert prompt.mask.shape[1] == 19 + len(passes)
        assert len(prompt) == len(cache.rows)
        said = (rows[row] for row in cache.rows)
        ids = torch.tensor([row[min(len(passes), len(row) - 1)] for row in said])
        passes.append(ids)
        return torch.nn.functional.one_hot(ids, model.sizes.vocabulary).float(), cache

    monkeypatch.setattr(model, "forward", forward)
    return passes


def test_rows_end_by_themselves_and_the_batch_with_the_last(model, monkeypatch):
    horse, boat, dot = (model.tokenizer.encode(text)[0] for text in (" horse", " boat", "."))
    passes = scripted(model, monkeypatch, [[horse, dot, 0, boat], [boat, 0, horse, horse]])
    captions = generate(model, model.prompt(tiny_images(2)), 10)
    assert captions == [Caption("horse.", (horse, dot)), Caption("boat", (boat,))]
    assert [len(ids) for ids in passes] == [2, 2, 1]


@pytest.mark.parametrize("listed", [True, False])
def test_an_end_of_turn_ends_a_caption_of_two_words(model, monkeypatch, listed):
    horse, boat, turn = (model.tokenizer.encode(text)[0] for text in (" horse", " boat", " dog"))
    config = model.language_model.generation_config
    monkeypatch.setattr(config, "eos_token_id", [0, turn] if listed else turn)
    script = [[horse, boat, turn, horse, horse], [boat, 0, horse], [horse] * 5]
    scripted(model, monkeypatch, script)
    captions = generate(model, model.prompt(tiny_images(3)), 5)
    assert captions[0] == Caption("horse boat", (horse, boat)) == as_caption(model, script[0])
    assert captions[1] == Caption("boat", (boat,)), "the tokenizer's end of text ends it, too"
    assert captions[2].ids == (horse,) * 5


def test_captions_end_where_transformers_own_generation_ends(model, monkeypatch):
    prompt = model.prompt(tiny_images(4, seed=1))
    before = generate(model, prompt, 12)
    turns = [caption.ids[4] for caption in before[:2]]
    monkeypatch.setattr(model.language_model.generation_config, "eos_token_id", turns)
    out = model.language_model.generate(
        inputs_embeds=prompt.embeds, attention_mask=prompt.mask, max_new_tokens=12,
        do_sample=False, pad_token_id=0,
        suppress_tokens=list(range(model.sizes.vocabulary, model.sizes.vocabulary + 6)),
    )  # fmt: skip
    ends = {0, *turns}
    cut = [tuple(row[: next(i for i, t in enumerate([*row, 0]) if t in ends)])
           for row in out.tolist()]  # fmt: skip
    found = generate(model, prompt, 12)
    assert [caption.ids for caption in found] == cut
    assert [len(caption.ids) < 5 for caption in found[:2]] == [True, True]


def test_rows_go_on_without_those_that_have_ended(model, monkeypatch):
    horse, boat, dot = (model.tokenizer.encode(text)[0] for text in (" horse", " boat", "."))
    script = [[horse, dot, 0], [boat, 0], [0, horse], [horse, dot, boat, dot, 0], [dot, 0]]
    passes = scripted(model, monkeypatch, script)
    captions = generate(model, model.prompt(tiny_images(5)), 10)
    assert [list(c.ids) for c in captions] == [row[: row.index(0)] for row in script]
    assert [len(ids) for ids in passes] == [5, 4, 2, 1, 1]


def test_a_pass_that_has_been_made_is_not_made_again(model):
    prompt = model.prompt(tiny_images(3, seed=1))
    expected = generate(model, prompt, 6)
    assert generate(model, prompt, 6, model.forward(prompt, use_cache=True)) == expected


def test_the_limit_counts_tokens(model, monkeypatch):
    horse = model.tokenizer.encode(" horse")[0]
    passes = scripted(model, monkeypatch, [[horse]])
    assert generate(model, model.prompt(tiny_images(1)), 4)[0].ids == (horse,) * 4
    assert len(passes) == 4


def test_an_empty_caption(model, monkeypatch):
    scripted(model, monkeypatch, [[0]])
    assert generate(model, model.prompt(tiny_images(1))) == [Caption("", ())]


def test_bad_requests(model):
    prompt = model.prompt(tiny_images(1))
    with pytest.raises(ValueError, match="max_new_tokens = 0"):
        generate(model, prompt, 0)
    with pytest.raises(ValueError, match="batch_size = 0"):
        caption_images(model, tiny_images(1), batch_size=0)
