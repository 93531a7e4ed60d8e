"""Targets: captions before them, what is read of their logits, and their tokens."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.targets import Target, caption_targets, objective, teacher_forced
from mmn_utils.neurons.text import nouns
from tests.neurons.every_noun import FIRST, check, last
from tests.neurons.one_each import TARGETS, alone


def test_padded_prefixes_give_the_logits_of_each_caption_by_itself(model, prompt):
    together, _ = model.forward(teacher_forced(model, prompt, [t.prefix for t in TARGETS]))
    for row in range(len(TARGETS)):
        single, _ = model.forward(alone(model, prompt, row))
        torch.testing.assert_close(together[row], single[0], atol=1e-5, rtol=1e-5)


def test_no_prefix_leaves_the_prompt_as_it_is(model, prompt):
    assert teacher_forced(model, prompt, [()] * 4) is prompt
    with pytest.raises(ValueError, match="4 prompts for 1 targets"):
        teacher_forced(model, prompt, [()])


def test_objectives_are_the_logit_and_the_softmax(model, prompt):
    logits, _ = model.forward(prompt)
    tokens = [t.token for t in TARGETS]
    rows = range(len(tokens))
    assert torch.equal(objective(logits, TARGETS), logits[rows, tokens])
    torch.testing.assert_close(
        objective(logits, TARGETS, "probability"), logits.softmax(-1)[rows, tokens]
    )
    with pytest.raises(ValueError, match="'loss'"):
        objective(logits, TARGETS, "loss")
    with pytest.raises(ValueError, match="vocabulary"):
        objective(logits, [Target("a", "x", model.sizes.vocabulary, ())] * 4)


def test_a_target_is_made_of_a_noun_and_its_caption():
    class Noun:
        word, step, token = "dog", 2, 44

    class Caption:
        ids = (9, 8, 44, 1)

    assert Target.of("7", Noun, Caption) == Target("7", "dog", 44, (9, 8))


def as_published(tokenizer, words: list[str], ids: tuple[int, ...]) -> dict[str, int]:
    """Pair nouns with tokens as the paper's code does: a dropped noun's token stays behind."""
    words = sorted(set(words))
    tokens = [tokenizer.encode(" " + word)[0] for word in words]
    kept = [word for word, token in zip(words, tokens, strict=True) if token in ids]
    return dict(zip(kept, tokens, strict=False))


def test_a_noun_that_drops_out_shifts_no_other(gated):
    # "boat" stands behind a quotation mark: no token of the caption is " boat"
    ids = tuple(gated.tokenizer.encode(' a "boat" near a horse and a dog'))
    caption = Caption(gated.tokenizer.decode(ids).strip(), ids)
    found = nouns(caption, gated)
    assert [noun.word for noun in found] == ["boat", "horse", "dog"]

    published = as_published(gated.tokenizer, [noun.word for noun in found], ids)
    text = {word: gated.tokenizer.decode([token]).strip() for word, token in published.items()}
    assert text == {"dog": "boat", "horse": "dog"}  # the published fault, for the record

    targets = caption_targets(gated, "a", caption)
    assert [t.noun for t in targets] == ["boat", "horse", "dog"]
    assert [t.token for t in targets] == [ids[noun.step] for noun in found]
    assert [t.prefix for t in targets] == [ids[: noun.step] for noun in found]
    together = contribution(gated, [FIRST] * 3, targets, k=15)
    weight, _ = gated.unembedding
    for noun, target in zip(found, targets, strict=True):
        row = weight[ids[noun.step]]
        seen = last(gated, Target("a", noun.word, 0, ids[: noun.step]))
        check(
            together, target, {i: a * (gated.write_vectors(i) @ row) for i, a in seen.items()}, 15
        )


def test_a_noun_said_twice_is_scored_where_it_is_first_said(gated):
    ids = tuple(gated.tokenizer.encode(" a horse near a dog and a horse"))
    targets = caption_targets(gated, "a", Caption(gated.tokenizer.decode(ids).strip(), ids))
    assert [t.noun for t in targets] == ["horse", "dog"]
    assert targets[0].prefix == ids[:1]
    assert caption_targets(gated, "a", Caption("", ())) == []
