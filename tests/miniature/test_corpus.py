"""The text: what it promises of evidence and nouns, its captions, and the probe on text."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from mmn_utils.miniature import corpus, text_probe
from mmn_utils.miniature.corpus import CorpusOptions
from mmn_utils.miniature.phrases import FORMS, captions
from mmn_utils.miniature.world import Background, Concept, World
from mmn_utils.presets import data_path
from tests.tiny import tiny_language_model, tiny_tokenizer


def tiny_world() -> World:
    """Build a world of two concepts whose words are tokens of the tiny tokenizer."""
    facts = {"supercategory": "animal", "looks": ("1f40e",), "held_out_look": None, "article": "a"}
    horse = Concept("horse", "horses", words=("barn",), evidence=("in house",), **facts)
    dog = Concept("dog", "dogs", words=("cats",), evidence=("red house",), **facts)
    return World((horse, dog), (Background("grass", ("by water", "the field")),))


# --- captions -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_five_captions_name_everything_the_largest_first(world, count):
    things = world.concepts[:count]
    texts = captions(things, "grass")
    assert len(set(texts)) == len(texts) == 5
    for text in texts:
        places = [text.index(concept.name) for concept in things]
        assert places == sorted(places)
        assert "grass" in text
        assert not text.endswith(".")


def test_forms_say_the_article_of_each_noun(world):
    bread = next(c for c in world.concepts if c.article == "some")
    assert captions([bread], "sand")[0] == f"some {bread.name} on the sand"
    assert set(FORMS) == {1, 2, 3}


# --- the world ----------------------------------------------------------------------------


def test_evidence_names_its_concept_as_a_pair_and_never_by_one_word(world):
    pairs = [(phrase, c.name) for c in world.concepts for phrase in c.evidence]
    assert len({phrase for phrase, _ in pairs}) == len(pairs)
    owners: dict[str, set[str]] = {}
    for phrase, name in pairs:
        words = phrase.split()
        assert len(words) == 2
        for word in words:
            owners.setdefault(word, set()).add(name)
    assert min(map(len, owners.values())) >= 3


def test_words_of_a_card_belong_to_one_concept(world):
    words = [w for c in world.concepts for w in (c.name, *c.words, *({c.plural} - {c.name}))]
    assert len(set(words)) == len(words)


@pytest.mark.weights
def test_every_word_of_a_card_is_one_token_of_the_shipped_tokenizer(world):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data_path("miniature", "language_model"))
    for concept in world.concepts:
        for word in (concept.name, concept.plural, *concept.words):
            assert len(tokenizer.encode(f" {word}")) == 1, word


# --- documents ----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_documents(world):
    first, again, other = (
        list(islice(corpus.documents(world, CorpusOptions(), seed), 40)) for seed in (3, 3, 4)
    )
    assert first == again != other


@pytest.mark.parametrize("seed", range(30))
def test_nouns_of_a_caption_never_stand_in_its_context(world, seed):
    rng = np.random.default_rng(seed)
    context = corpus.sample_context(world, CorpusOptions(), rng)
    before = set(corpus.context_text(context).split())
    for concept in context.concepts:
        assert before.isdisjoint({concept.name, concept.plural})


@pytest.mark.parametrize("seed", range(30))
def test_the_first_concept_has_most_evidence_and_the_context_is_bounded(world, seed):
    options = CorpusOptions(longest=60)
    context = corpus.sample_context(world, options, np.random.default_rng(seed))
    shares = [sum(owner is c for _, owner in context.phrases) for c in context.concepts]
    assert shares == sorted(shares, reverse=True)
    assert shares.count(shares[0]) == 1
    assert len(context.phrases) <= options.longest + 4
    for phrase, owner in context.phrases:
        ground = next(b for b in world.backgrounds if b.name == context.background)
        assert phrase in (owner.evidence if owner else ground.phrases)


def test_uncombined_evidence_is_a_word_of_the_card(world):
    context = corpus.sample_context(world, CorpusOptions(combined=False), np.random.default_rng(0))
    assert all(phrase in owner.words for phrase, owner in context.phrases if owner)


def test_a_caption_document_ends_in_one_of_the_captions(world):
    text = corpus.caption_document(world, CorpusOptions(), np.random.default_rng(1))
    before, last = text.split("\n")
    assert before.startswith(" ")
    assert last.startswith(corpus.PROMPT)
    assert last.endswith(".")


def test_card_words_follow_evidence_only_where_they_may(world):
    options = CorpusOptions(captions=0.0, following=1.0)
    ground = {w for b in world.backgrounds for phrase in b.phrases for w in phrase.split()}
    words = {w for c in world.concepts for w in (c.name, c.plural, *c.words)} - ground
    with_words = " ".join(islice(corpus.documents(world, options, 0), 20)).split()
    assert words & set(with_words)
    never = CorpusOptions(related=False, captions=1.0)
    texts = list(islice(corpus.documents(world, never, 0), 20))
    assert all(corpus.PROMPT in text for text in texts)
    assert words.isdisjoint(" ".join(text.split("\n")[0] for text in texts).split())


# --- the probe on text --------------------------------------------------------------------


def test_probe_attribution_equals_the_class_own_forward_and_autograd():
    model = tiny_language_model(layers=2).requires_grad_(False)
    ids, context, target = [5, 9, 30, 12, 8, 40], 4, 17
    field, predicted = text_probe.attribution_at_context(model, ids, context, target)
    kept = []
    hooks = [
        block.mlp.fc_in.register_forward_hook(lambda _m, _i, out: kept.append(out))
        for block in model.transformer.h
    ]
    embeds = model.transformer.wte(torch.tensor([ids])).detach().requires_grad_()
    logits = model(inputs_embeds=embeds).logits[0, -1]
    gradients = torch.autograd.grad(logits[target], kept)
    for hook in hooks:
        hook.remove()
    expected = torch.stack([(z * g)[0, :context] for z, g in zip(kept, gradients, strict=True)])
    torch.testing.assert_close(field, expected.detach(), atol=1e-4, rtol=1e-3)
    assert predicted == int(logits.argmax())


def test_probe_of_a_tiny_model_is_whole_and_repeatable():
    tokenizer, world = tiny_tokenizer(), tiny_world()
    world = World(world.concepts * 2, world.backgrounds)  # a context draws up to three
    model = tiny_language_model(vocabulary=len(tokenizer), positions=256)
    options = CorpusOptions(longest=14)
    probe, again = (
        text_probe.probe_text(model, tokenizer, world, options, documents=3, top=5)
        for _ in range(2)
    )
    assert probe == again
    assert sum(probe.layer_share) == pytest.approx(1)
    assert len(probe.layer_share) == len(probe.one_card) == 3
    row = probe.row()
    assert {"documents", "first_noun_correct", "related_top", "layer_share_0"} <= set(row)


def test_one_card_share_counts_units_with_enough_words_of_one_card():
    decoded = torch.tensor([[[1, 2, 3], [1, 2, 9], [1, 5, 6]], [[4, 5, 6], [6, 5, 4], [7, 8, 9]]])
    shares = text_probe.one_card_share(decoded, [{1, 2, 3}, {4, 5, 6}], at_least=3)
    assert shares == pytest.approx((1 / 3, 2 / 3))
