"""What a word names in the world: a concept, by its card, or a background."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmn_utils.datasets.base import Photograph
from mmn_utils.miniature.world import Concept, World


def concept_of(word: str, world: World) -> Concept | None:
    """Return the concept that a word names, singular or plural; None where it names none."""
    word = word.lower()
    return next((c for c in world.concepts if word in (c.name, c.plural)), None)


def card(concept: Concept) -> frozenset[str]:
    """Return the words of a concept's card: its noun, the plural and the related words."""
    return frozenset((concept.name, concept.plural, *concept.words))


def on_card(tokens: Sequence[str], concept: Concept) -> bool:
    """Say whether any of the decoded tokens is a word of the card, whole and in lower case."""
    return not card(concept).isdisjoint(token.strip() for token in tokens)


def background_of(photograph: Photograph, world: World) -> str | None:
    """Return the background that all captions of a scene name, None where they name none."""
    words = [set(words_of(caption)) for caption in photograph.captions]
    return next((b.name for b in world.backgrounds if all(b.name in w for w in words)), None)


def words_of(text: str) -> list[str]:
    """Cut a text into words, in lower case."""
    return re.findall(r"[a-z]+", text.lower())


def things_in(photograph: Photograph) -> set[str]:
    """Return the categories of what is in a scene."""
    return {one.category for one in photograph.instances}
