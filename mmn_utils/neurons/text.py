"""Words in captions and in decoded neurons.

A caption's nouns, each with the generation step and the token that began it, are the
targets of every analysis (paper A, section 2.1: "c is the first noun"). Dictionary
words decide which neurons count as interpretable (paper A, section S.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from HanTa import HanoverTagger

from mmn_utils.neurons.words import scowl_60

if TYPE_CHECKING:
    from mmn_utils.neurons.captions import Caption

TOP_TOKENS = 10  # decoded tokens that are looked at ...
WORDS_NEEDED = 7  # ... and how many of them must be dictionary words
SHORTEST_WORD = 3  # letters

# Words keep inner hyphens; negations and clitics stand apart, as in the tagger's corpus.
WORD = re.compile(
    r"[^\W\d_]+?(?=n['’]t\b)|n['’]t\b"  # do n't
    r"|(?<=[^\W\d_])['’][^\W\d_]+"  # child 's
    r"|[^\W\d_]+(?:-[^\W\d_]+)*|\d+|\S"
)
ENDS = (".", "!", "?")
INCOMPLETE = "\ufffd"  # what a decoder prints for a character whose bytes are still to come
PLURALS = (("", ""), ("", "s"), ("", "es"), ("y", "ies"), ("f", "ves"), ("fe", "ves"))


@dataclass(frozen=True)
class Noun:
    """A noun of a caption with the token that began it.

    ``word`` as the caption spells it, ``step`` the index of its first token in the
    caption's ids (step 0 is predicted by the prompt alone), ``token`` that token's
    vocabulary id.
    """

    word: str
    step: int
    token: int


# --- nouns -----------------------------------------------------------------------------


def nouns(caption: Caption, model: Any) -> list[Noun]:
    """Return the caption's nouns in their order, each with its own step and token.

    Common and proper nouns (singular, plural, neutral) by HanTa's English model, a
    hidden Markov tagger trained on the British National Corpus; it ships in the package
    and is deterministic. Words that it cannot place count too, and an adjective that stands
    where a noun must (``_is_noun``). A noun that occurs twice is listed twice. A noun of several
    tokens has its first one (paper A, section S.1). Where a lone blank precedes the
    noun's letters, the blank is not its token: the next piece is. A noun without a token
    of its own (glued to an earlier noun inside one piece) is left out, and that moves no
    other noun. ``model`` is anything with a ``tokenizer``. An empty list when there is
    no noun. ValueError when the caption's text and ids disagree.
    """
    said = _Decoded.of(caption, model.tokenizer)
    found: list[Noun] = []
    for word, place in noun_places(said.text):
        step = said.step_at(place)
        if not found or step > found[-1].step:
            found.append(Noun(word, step, int(caption.ids[step])))
    return found


def first_noun(caption: Caption, model: Any) -> Noun:
    """Return the caption's first noun: the target c of paper A, Eq. 2.

    ValueError, naming the caption, when it has none.
    """
    found = nouns(caption, model)
    if not found:
        raise ValueError(
            f"no noun in the caption {caption.text!r}: leave this image out, or choose a "
            "target token by hand"
        )
    return found[0]


def word_in(caption: Caption, word: str, model: Any) -> Noun | None:
    """Find a word's first occurrence in a caption, noun or not, as a whole and in any case.

    With its own step and token, as of ``nouns``; None where the caption does not have it.
    """
    said = _Decoded.of(caption, model.tokenizer)
    found = whole_word(word.strip()).search(said.text) if word.strip() else None
    if found is None:
        return None
    step = said.step_at(found.start())
    return Noun(found.group(), step, int(caption.ids[step]))


def noun_places(text: str) -> list[tuple[str, int]]:
    """Return each noun of ``text`` with the index of its first character.

    The first sentence end is not special: nouns of every sentence are found.
    """
    matches = list(WORD.finditer(text))
    words = tuple(match.group() for match in matches)
    tags = part_of_speech(words)
    return [
        (match.group(), match.start())
        for i, match in enumerate(matches)
        if words[i][0].isalpha() and _is_noun(i, words, tags)
    ]


def _is_noun(place: int, words: Sequence[str], tags: Sequence[str]) -> bool:
    """Say whether a tagged word is a noun.

    Unclassified words are names of things that the tagger's corpus hardly has: giraffe. What
    it takes for an adjective is one where its noun would have to follow: a remote on a couch.
    """
    if tags[place].startswith(("N", "UNC")):
        return True
    rest = place + 1
    ends = rest == len(words) or words[rest] in ENDS or tags[rest].startswith(("PR", "V"))
    if not tags[place].startswith("AJ") or not ends:
        return False
    start = place
    while start and tags[start - 1].startswith(("AJ", "AV")):
        start -= 1
    return start > 0 and tags[start - 1].startswith(("AT", "DPS"))


def part_of_speech(words: Sequence[str]) -> tuple[str, ...]:
    """Return one CLAWS-5 tag a word; nouns are NN0, NN1, NN2 and proper NP0.

    A full stop is added where there is none, so that a caption that the length limit
    cut off is tagged as the finished one would be.
    """
    if not words:
        return ()
    closed = list(words) if words[-1] in ENDS else [*words, "."]
    return tuple(tag for _, _, tag in _tagger().tag_sent(closed))[: len(words)]


@cache
def _tagger() -> HanoverTagger.HanoverTagger:
    return HanoverTagger.HanoverTagger("morphmodel_en.pgz")


@dataclass(frozen=True)
class _Decoded:
    """A caption's text, and the text of each beginning of its ids, the whole one last.

    Ids are decoded cumulatively: only so do pieces of a character and tokenizers that
    drop or add a leading blank come out right.
    """

    ids: tuple[int, ...]
    tokenizer: Any
    texts: tuple[str, ...]

    @classmethod
    def of(cls, caption: Caption, tokenizer: Any) -> _Decoded:
        """Decode a caption; ``ValueError`` where its ids are not those of its text."""
        ids = tuple(caption.ids)
        texts = [_plain_decode(tokenizer, ids[:count], True) for count in range(len(ids) + 1)]
        # A caption may or may not spell out special tokens; both are its text.
        whole = (texts[-1], _plain_decode(tokenizer, ids, False))
        if _without_blanks(caption.text) not in map(_without_blanks, whole):
            raise ValueError(
                f"the caption's ids decode to {texts[-1]!r}, its text is {caption.text!r}: "
                "decode it with the tokenizer that made it"
            )
        return cls(ids, tokenizer, tuple(texts))

    @property
    def text(self) -> str:
        """The whole text, without special tokens and a character that is cut off at its end."""
        return self.texts[-1].rstrip(INCOMPLETE)

    def step_at(self, place: int) -> int:
        """Return the step of the piece that begins the character at ``place`` of the text.

        The character is there with the first beginning that agrees with the text up to it. Where
        its bytes are spread over several pieces, the last of those that bring it by themselves
        is its first: bytes before it that belong to no character are not looked at.
        """
        upto = self.text[: place + 1]
        count = next(n for n, text in enumerate(self.texts) if text.startswith(upto))
        brought = self.texts[count][place:]
        return next(
            step
            for step in reversed(range(count))
            if _plain_decode(self.tokenizer, self.ids[step:count], True).endswith(brought)
        )


def _plain_decode(tokenizer: Any, ids: Sequence[int], skip_special_tokens: bool) -> str:
    return tokenizer.decode(
        list(ids),
        skip_special_tokens=skip_special_tokens,
        clean_up_tokenization_spaces=False,
    )


def _without_blanks(text: str) -> str:
    return "".join(text.split())


# --- dictionary words ------------------------------------------------------------------


def is_dictionary_word(text: str) -> bool:
    """Say whether a decoded token is an English word of three letters or more.

    SCOWL of size 60, American or British (paper A, section S.2, leaves the size open).
    Leading blanks are dropped: the tokens " horse" and "horse" are both words, and so is
    a word that only continues another. Everything else must be letters. Case follows
    the spelling checkers: a lower-case token must be listed as it stands ("paris" is
    not), a capitalised one as it stands or in lower case ("Horse"), one in capitals also
    capitalised ("PARIS"); mixed case only as it stands ("iPhone").
    """
    word = text.lstrip(" ")
    if len(word) < SHORTEST_WORD or not word.isalpha():
        return False
    spellings = {word}
    if word.isupper():
        spellings |= {word.lower(), word.capitalize()}
    elif word.istitle():
        spellings.add(word.lower())
    return not spellings.isdisjoint(scowl_60())


def is_interpretable(tokens: Sequence[str]) -> bool:
    """Say whether at least 7 of the first 10 decoded tokens are dictionary words.

    Paper A, section S.2. ValueError for fewer than 10 tokens: the share of a shorter
    list would be another criterion.
    """
    if isinstance(tokens, str) or len(tokens) < TOP_TOKENS:
        raise ValueError(
            f"{TOP_TOKENS} decoded tokens are needed, got {tokens!r}: decode with k >= {TOP_TOKENS}"
        )
    return sum(map(is_dictionary_word, tokens[:TOP_TOKENS])) >= WORDS_NEEDED


def says(text: str, word: str) -> bool:
    """Say whether a text has a word, or several in a row, as a whole and in any case."""
    return whole_word(word).search(text) is not None


def whole_word(word: str) -> re.Pattern[str]:
    """Return what finds a word, or several in a row, as a whole and in any case."""
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def same_word(first: str, second: str) -> bool:
    """Say whether two words are one, or one is the other's regular plural, whatever the case."""
    first, second = first.lower(), second.lower()
    return _is_plural(first, second) or _is_plural(second, first)


def _is_plural(word: str, name: str) -> bool:
    return any(
        name.endswith(end) and word == name[: len(name) - len(end)] + plural
        for end, plural in PLURALS
    )
