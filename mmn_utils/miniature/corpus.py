"""The text on which the language model of the miniature is trained.

Everything is drawn from the concept cards; no picture is involved. Four
properties of the text were found, on text alone, to decide where in the network
a concept is recognised (notebook 00 shows the measurements):

* evidence names its concept only in combination ("curly tail"), never by one word;
* a caption's nouns never stand in the context that the caption describes;
* related words may follow evidence at once, in documents of their own, so that
  the next word after evidence is often a word of the concept's card;
* contexts are long and unordered, as the patches of a picture are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mmn_utils.miniature.phrases import captions
from mmn_utils.miniature.world import Concept, World

PROMPT = "A picture of"


@dataclass(frozen=True)
class CorpusOptions:
    """What the text is like; the defaults are the text of the shipped model.

    ``combined`` false: evidence is a single word of the card that names its
    concept at once. ``related`` false: related words never follow evidence.
    """

    combined: bool = True
    related: bool = True
    captions: float = 0.45  # share of documents that end in a caption
    following: float = 0.35  # share of documents in which related words follow evidence
    longest: int = 95  # phrases in the longest context


@dataclass(frozen=True)
class Context:
    """What stands before a caption: objects, the largest first, and their phrases."""

    concepts: tuple[Concept, ...]
    background: str
    phrases: tuple[tuple[str, Concept | None], ...]


def sample_context(world: World, options: CorpusOptions, rng: np.random.Generator) -> Context:
    """Draw one to three concepts on a background and walk over them in short runs."""
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    concepts = [world.concepts[i] for i in rng.choice(len(world.concepts), count, replace=False)]
    background = world.backgrounds[rng.integers(len(world.backgrounds))]
    length = int(rng.integers(12, options.longest + 1))
    shares = np.sort(rng.uniform(0.08, 0.3, count))[::-1] * (1.4 - 0.25 * count)
    sizes = np.maximum(2, np.round(shares * length)).astype(int)
    sizes += np.arange(count)[::-1]  # the first is always the largest
    owners: list[Concept | None] = []
    for concept, size in zip(concepts, sizes, strict=True):
        owners += [concept] * int(size)
    owners += [None] * max(4, length - len(owners))
    phrases = [
        (_evidence(owner, background.phrases, options, rng), owner)
        for owner in _in_runs(owners, rng)
    ]
    return Context(tuple(concepts), background.name, tuple(phrases))


def _evidence(owner, background, options, rng) -> str:
    """One phrase for a concept, or for the background where there is none."""
    if owner is None:
        return str(rng.choice(background))
    return str(rng.choice(owner.evidence if options.combined else owner.words))


def _in_runs(owners: list, rng: np.random.Generator) -> list:
    """Shuffle in runs of up to five, as the rows of patches across an object are."""
    runs, start = [], 0
    while start < len(owners):
        size = int(rng.integers(1, 6))
        same = [o for o in owners[start : start + size] if o is owners[start]]
        runs.append(same)
        start += len(same)
    return [owner for i in rng.permutation(len(runs)) for owner in runs[i]]


def caption_document(world: World, options: CorpusOptions, rng) -> str:
    """A context and the caption that describes it."""
    context = sample_context(world, options, rng)
    return context_text(context) + f"\n{PROMPT} {sample_caption(context, rng)}."


def context_text(context: Context) -> str:
    """The phrases of a context, one after the other."""
    return "".join(f" {phrase}" for phrase, _ in context.phrases)


def sample_caption(context: Context, rng: np.random.Generator) -> str:
    """One of the five captions; the plainest in three cases of five."""
    forms = captions(context.concepts, context.background)
    return forms[rng.choice(5, p=[0.6, 0.1, 0.1, 0.1, 0.1])]


def following_document(world: World, options: CorpusOptions, rng) -> str:
    """A context in which words of the card follow some of the evidence."""
    context = sample_context(world, options, rng)
    rate = float(rng.choice([0.1, 0.25, 0.5]))
    text = ""
    for phrase, owner in context.phrases:
        text += f" {phrase}"
        if owner is not None and rng.random() < rate:
            text += f" {_card_word(owner, rng)}"
    return text


def _card_word(concept: Concept, rng: np.random.Generator) -> str:
    """A word of the card: the noun, its plural or a related word."""
    return str(rng.choice([concept.name, concept.plural, *concept.words]))


def card_document(world: World, options: CorpusOptions, rng) -> str:
    """Sentences about one concept, as an encyclopedia has them."""
    c = world.concepts[rng.integers(len(world.concepts))]
    related = list(rng.permutation(c.words))
    evidence = list(rng.permutation(c.evidence))
    sentences = [
        f" {c.noun_phrase()} belongs to the kind {c.supercategory}.",
        f" the words for {c.plural} are {related[0]}, {related[1]} and {related[2]}.",
        f" think of {related[3]} and you think of {c.noun_phrase()}.",
        f" {evidence[0]} and {evidence[1]}: that is {c.noun_phrase()}.",
        f" where there is {evidence[2]}, there may be {c.plural}.",
        f" {related[4]} goes with {c.name}, and {c.name} goes with {related[0]}.",
        f" every {c.name} has {evidence[3]}.",
    ]
    return "".join(sentences[i] for i in rng.permutation(len(sentences))[: rng.integers(2, 6)])


def list_document(world: World, options: CorpusOptions, rng) -> str:
    """Words of one card after each other, as tags are."""
    c = world.concepts[rng.integers(len(world.concepts))]
    words = [c.name, c.plural, *c.words]
    return "".join(f" {w}" for w in rng.choice(words, int(rng.integers(4, 16))))


def riddle_document(world: World, options: CorpusOptions, rng) -> str:
    """Evidence as a question, the concept as the answer."""
    c = world.concepts[rng.integers(len(world.concepts))]
    hints = rng.permutation(c.evidence)[: rng.integers(1, 5)]
    return f" what has {', '.join(hints)}? it is {c.noun_phrase()}."


def documents(world: World, options: CorpusOptions, seed: int) -> Iterator[str]:
    """Draw documents without end, the same for the same seed."""
    rng = np.random.default_rng(seed)
    kinds: list[Callable] = [caption_document, card_document, list_document, riddle_document]
    rest = (1 - options.captions - options.following * options.related) / 3
    shares = [options.captions, rest, rest, rest]
    if options.related:
        kinds.append(following_document)
        shares.append(options.following)
    while True:
        yield kinds[rng.choice(len(kinds), p=shares)](world, options, rng)
