"""What is said of a scene: five captions, made of the nouns of what it shows."""

from __future__ import annotations

from collections.abc import Sequence

from mmn_utils.datasets.stamps.catalogue import Entry

VOWELS = "aeiou"
# How words begin whose vowel is spoken as a consonant, and the reverse.
SPOKEN_CONSONANT = ("uni", "use", "uku", "eu", "ewe", "one")
SPOKEN_VOWEL = ("hour", "heir", "honest")
ONE = (
    "{0}.",
    "a photograph of {0}.",
    "there is {0} in the picture.",
    "the picture shows {0}.",
    "a close view of {0}.",
)
TWO = (
    "{0} and {1}.",
    "a photograph of {0} and {1}.",
    "there is {0} next to {1} in the picture.",
    "the picture shows {0} and {1}.",
    "{0} next to {1}.",
)


def article(noun: str) -> str:
    """Return "a" or "an", as the noun's first sound asks."""
    vowel = noun[0] in VOWELS and not noun.startswith(SPOKEN_CONSONANT)
    return "an" if vowel or noun.startswith(SPOKEN_VOWEL) else "a"


def captions(shown: Sequence[Entry]) -> tuple[str, ...]:
    """Return five captions of a scene of one thing or of two, from left to right."""
    nouns = [_phrase(entry) for entry in shown]
    return tuple(frame.format(*nouns) for frame in (ONE if len(nouns) == 1 else TWO))


def _phrase(entry: Entry) -> str:
    return f"{article(entry.category)} {entry.category}" if entry.counted else entry.category
