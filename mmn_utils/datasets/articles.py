"""The indefinite article of a noun, by its first sound."""

from __future__ import annotations

VOWELS = "aeiou"
# How words begin whose vowel is spoken as a consonant, and the reverse.
SPOKEN_CONSONANT = ("uni", "use", "uku", "eu", "ewe", "one")
SPOKEN_VOWEL = ("hour", "heir", "honest")


def article(noun: str) -> str:
    """Return "a" or "an", as the noun's first sound asks."""
    said = noun.casefold()
    vowel = said[0] in VOWELS and not said.startswith(SPOKEN_CONSONANT)
    return "an" if vowel or said.startswith(SPOKEN_VOWEL) else "a"
