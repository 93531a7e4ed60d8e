"""The world of the miniature: its concepts and backgrounds, read from one file.

Pictures, captions and the text corpus are all made from the same
``concepts.yaml``, so that a word and a picture can mean the same thing although
the language model never sees a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmn_utils.datasets.articles import article
from mmn_utils.plain_yaml import load_yaml

WORLD_FILE = Path("data/miniature/concepts.yaml")
WORK = Path("data/cache/miniature")  # checkpoints, and what is computed once for several


@dataclass(frozen=True)
class Concept:
    """One thing of the world: its word, its pictures and what is said of it.

    ``looks`` and ``held_out_look`` are code points of glyphs in hexadecimal;
    ``words`` belong to this concept alone; ``evidence`` holds phrases of two
    words of which only the combination names the concept.
    """

    name: str
    plural: str
    article: str
    supercategory: str
    looks: tuple[str, ...]
    held_out_look: str | None
    words: tuple[str, ...]
    evidence: tuple[str, ...]

    def noun_phrase(self) -> str:
        """Return the noun with its article: "a cat", "an apple", "some bread"."""
        return f"{self.article} {self.name}"


@dataclass(frozen=True)
class Background:
    """A ground on which scenes take place, with phrases that describe it."""

    name: str
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """All concepts and backgrounds, in the order of the file."""

    concepts: tuple[Concept, ...]
    backgrounds: tuple[Background, ...]

    @cached_property
    def by_name(self) -> dict[str, Concept]:
        """Map a concept's name to the concept."""
        return {concept.name: concept for concept in self.concepts}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The concepts' names, in order; an index into it is a category number."""
        return tuple(concept.name for concept in self.concepts)

    @cached_property
    def supercategories(self) -> tuple[str, ...]:
        """The distinct supercategories, in order of first appearance."""
        return tuple(dict.fromkeys(c.supercategory for c in self.concepts))

    def with_look(self, held_out: bool) -> tuple[Concept, ...]:
        """Return the concepts that have a training look, or a held-out one."""
        return tuple(c for c in self.concepts if not held_out or c.held_out_look)


def _concept(card: dict) -> Concept:
    return Concept(
        name=card["name"],
        plural=card["plural"],
        article=card.get("article") or article(card["name"]),
        supercategory=card["supercategory"],
        looks=tuple(card["looks"]),
        held_out_look=card.get("held_out_look"),
        words=tuple(card["words"]),
        evidence=tuple(card["evidence"]),
    )


def load_world(path: str | Path = WORLD_FILE) -> World:
    """Read the world from a YAML file of concept cards and backgrounds."""
    cards = load_yaml(path)
    names = [card["name"] for card in cards["concepts"]]
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: concept names must be distinct")
    backgrounds = (
        Background(name, tuple(phrases)) for name, phrases in cards["backgrounds"].items()
    )
    return World(tuple(map(_concept, cards["concepts"])), tuple(backgrounds))
