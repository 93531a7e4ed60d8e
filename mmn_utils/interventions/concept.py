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
        raise ValueError(f"{model.name} cannot write {word!r} behind a blank; take another word")
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in found:
        raise ValueError(
            f"{model.name} has no token for {word!r} and can never say it; take a word of its "
            "captions, or one in the letters that it has read"
        )
    if max(found) >= model.sizes.vocabulary:
        raise ValueError(
            f"{word!r} has tokens {found} beyond the vocabulary of {model.name}, which can never "
            "say it; take another word"
        )
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
        first = model.tokenizer.decode(list(tokens[:1]))
        raise ValueError(
            f"{word!r} and {targets[0].noun!r} both begin with the token {first!r}, and an edit "
            "tells words apart by their first token; take a word that begins otherwise"
        )
    return Concept(targets[0].noun, word.strip(), tokens, tuple(t.image for t in targets))
