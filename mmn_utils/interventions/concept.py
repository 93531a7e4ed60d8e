"""What an edit turns into what: two words, as the tokenizer and the captions have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target


@dataclass(frozen=True)
class Concept:
    """What an edit turns into what, and on which images it was found."""

    source: str
    target: str
    tokens: tuple[int, ...]
    images: tuple[str, ...]


def word_tokens(model, word: str) -> tuple[int, ...]:
    """Return the token ids of a word as it stands within a caption, behind a blank.

    ``ValueError`` for no word, and one that the tokenizer does not know.
    """
    tokenizer, anchor = model.tokenizer, "a"
    before = tokenizer.encode(anchor, add_special_tokens=False)
    ids = tokenizer.encode(f"{anchor} {word.strip()}", add_special_tokens=False)
    found = tuple(ids[len(before) :])
    if ids[: len(before)] != before or not word.strip() or not found:
        raise ValueError(f"the tokenizer has no ids of its own for the word {word!r}; give tokens")
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in found:
        raise ValueError(f"the tokenizer does not know the word {word!r}; take another")
    if max(found) >= model.sizes.vocabulary:
        raise ValueError(f"{word!r} has tokens {found} beyond the model's vocabulary")
    return found


def concept_of(
    model,
    images: Sequence,
    targets: Sequence[Target],
    word: str,
    tokens: Sequence[int] | None,
    neurons: tuple[Neuron, ...],
) -> Concept:
    """Check what an edit is asked for, and put it in words; ``ValueError`` says what is wrong."""
    if not neurons or not targets or len(images) != len(targets):
        raise ValueError(
            f"{len(neurons)} neurons, {len(images)} images, {len(targets)} targets: give at "
            "least one of each, and a target for each image"
        )
    if len(set(neurons)) != len(neurons):
        raise ValueError("a neuron is given twice; give each once")
    sources = {target.noun.lower() for target in targets}
    if len(sources) > 1:
        raise ValueError(f"targets of the nouns {sorted(sources)}; make an edit for each")
    tokens = word_tokens(model, word) if tokens is None else tuple(int(t) for t in tokens)
    if not tokens or tokens[0] in {target.token for target in targets}:
        raise ValueError(
            f"{word!r} begins with the token {tokens[:1]} of {targets[0].noun!r}; the edit tells "
            "words apart by their first token: take another word"
        )
    return Concept(targets[0].noun, word.strip(), tokens, tuple(t.image for t in targets))
