"""What a data set calls what it has: photographs with human captions, unless it says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Words:
    """The nouns by which a page speaks of a data set.

    Attributes:
        picture, pictures: what it shows, one and many.
        reference, references: a caption that comes with a picture, one and many.
    """

    picture: str = "photograph"
    pictures: str = "photographs"
    reference: str = "human caption"
    references: str = "human captions"

    def facts(self) -> dict[str, str]:
        """Return the words by name, as texts of exhibits use them."""
        return asdict(self)


def words_from(card: Mapping[str, str] | None, where: object) -> Words:
    """Read words off a data set's card; those that it does not give are ``Words``' own.

    ValueError, naming ``where`` the card is, for a word of another name and for one that is no
    text.
    """
    known = [field.name for field in fields(Words)]
    for name, word in (card or {}).items():
        if name not in known:
            raise ValueError(f"{where}: no word {name!r} is known; choose from {', '.join(known)}")
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"{where}: the word for {name!r} is {word!r}; give a text")
    return Words(**(card or {}))
