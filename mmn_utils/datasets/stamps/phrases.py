"""What is said of a scene: five captions, made of the nouns of what it shows."""

from __future__ import annotations

from collections.abc import Sequence

from mmn_utils.datasets.articles import article
from mmn_utils.datasets.stamps.catalogue import Entry

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


def captions(shown: Sequence[Entry]) -> tuple[str, ...]:
    """Return five captions of a scene of one thing or of two, from left to right."""
    nouns = [_phrase(entry) for entry in shown]
    return tuple(frame.format(*nouns) for frame in (ONE if len(nouns) == 1 else TWO))


def _phrase(entry: Entry) -> str:
    return f"{article(entry.category)} {entry.category}" if entry.counted else entry.category
