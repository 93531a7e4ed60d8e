"""What edits are found on: concepts, the photographs that show them, the neurons that write them.

A concept is a noun of the captions, the source, with the word that it shall become. An edit of
it is found on one photograph whose caption names the source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import pandas as pd
import torch

from mmn_utils.datasets import Photograph
from mmn_utils.interventions.concept import word_tokens
from mmn_utils.interventions.edit import Edit
from mmn_utils.memory import in_batches
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.decoding import Signed, decode_vectors, signed
from mmn_utils.neurons.table import Neuron, top_k
from mmn_utils.neurons.targets import Target, caption_targets
from mmn_utils.neurons.text import same_word
from mmn_utils.studies.edits.outcomes import SAME

# --- concepts ---------------------------------------------------------------------------


def nouns_said(
    model, photographs: Sequence[Photograph], captions: Sequence[Caption]
) -> list[list[Target]]:
    """List the nouns of each caption as targets, each noun once and at its own step."""
    return [
        caption_targets(model, photograph.id, caption)
        for photograph, caption in zip(photographs, captions, strict=True)
    ]


def choose_concepts(model, said: Sequence[Sequence[Target]], n: int) -> list[tuple[str, str]]:
    """Pair the ``n`` nouns that most captions begin with each with another of their kind.

    The first noun of a caption tends to be what it is about. Sources are the ``n`` most
    frequent ones, targets those that come next, and no pair begins with the same token.
    ``ValueError`` where captions have fewer than two different first nouns.
    """
    counts = Counter(nouns[0].noun.lower() for nouns in said if nouns)
    ranked = sorted(counts, key=lambda noun: (-counts[noun], noun))
    n = min(n, len(ranked))
    pairs = []
    for place in range(n):
        others = [ranked[(place + n + step) % len(ranked)] for step in range(len(ranked))]
        target = next((o for o in others if differ(model, ranked[place], o)), None)
        if target is not None:
            pairs.append((ranked[place], target))
    if not pairs:
        raise ValueError(
            f"the captions begin with the nouns {ranked}: no two to make a concept of; give pairs "
            "of words in concepts, or take photographs of other things, too"
        )
    return pairs


def differ(model, source: str, target: str) -> bool:
    """Say whether an edit can tell two words apart: other words, that begin with other tokens."""
    if same_word(source, target) or same_word(target, source):
        return False
    return word_tokens(model, source)[0] != word_tokens(model, target)[0]


def check_concepts(
    model, pairs: Sequence[Sequence[str]], said: Sequence[Sequence[Target]]
) -> list[tuple[str, str]]:
    """Return concepts as pairs of words, or refuse them before anything is computed.

    ``ValueError`` for what is no pair of words, a source that no caption names or that comes
    twice, and a target that the tokenizer does not know or that is the source again.
    """
    nouns = Counter(target.noun.lower() for some in said for target in some)
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(word, str) and word.strip() for word in pair):
            raise ValueError(f"concept {pair!r}: give pairs of words, [source, target]")
        source, target = pair
        if source.lower() not in nouns:
            known = ", ".join(noun for noun, _ in nouns.most_common(20))
            raise ValueError(
                f"no caption has the noun {source!r}, so there is nothing to edit; the most "
                f"frequent ones are {known}"
            )
        if not differ(model, source, target):
            raise ValueError(f"{source!r} and {target!r} cannot be told apart; take another target")
    sources = [source.lower() for source, _ in pairs]
    if len(set(sources)) < len(sources):
        raise ValueError(f"sources {sources}: a word can turn into one other only")
    return [(source.lower(), target) for source, target in pairs]


def concepts_of(
    model, said: Sequence[Sequence[Target]], pairs: Sequence[Sequence[str]] = (), n: int = 12
) -> list[tuple[str, str]]:
    """Return the pairs of words that are given, checked, or else choose ``n``.

    Errors as ``check_concepts`` and ``choose_concepts``.
    """
    return check_concepts(model, pairs, said) or choose_concepts(model, said, n)


# --- findings ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Finding:
    """Where an edit is found: a photograph, the word in its caption, the neurons that write it.

    ``signed`` has the neurons with the signs of their activations there.
    """

    photograph: Photograph
    target: Target
    word: str
    signed: tuple[Signed, ...]

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        """The neurons alone, the one that contributes most first."""
        return tuple(neuron for neuron, _ in self.signed)

    @property
    def concept(self) -> tuple[str, str]:
        """The source and the target word."""
        return self.target.noun, self.word

    def into(self, word: str) -> Finding:
        """Return the same place with another target word."""
        return replace(self, word=word)

    def first(self, count: int) -> Finding:
        """Return the same place with the first ``count`` neurons."""
        return replace(self, signed=self.signed[:count])


def top_neurons(
    model,
    photographs: Sequence[Photograph],
    targets: Sequence[Target],
    n: int,
    *,
    batch_size: int = 16,
    **switches,
) -> list[list[Signed]]:
    """Find the ``n`` neurons that contribute most to each target, with signs (paper B, Eq. 2).

    ``photographs[i]`` belongs to ``targets[i]``; an image has each noun once. ``switches`` as
    ``contribution``.
    """

    def compute(rows: range) -> list[list[Signed]]:
        batch = slice(rows.start, rows.stop)
        some = targets[batch]
        table = contribution(model, opened(photographs[batch]), some, k=n, **switches)
        top = top_k(table, n)
        best: dict[tuple[str, str], list[Signed]] = {}
        for image, noun, pair in zip(top["image"], top["target"], signed(top), strict=True):
            best.setdefault((image, noun), []).append(pair)
        return [best[target.image, target.noun] for target in some]

    return list(chain.from_iterable(in_batches(compute, range(len(targets)), batch_size)))


def opened(photographs: Sequence[Photograph]) -> list:
    """Open photographs, one that comes several times once."""
    pictures = {photograph.id: photograph for photograph in photographs}
    pictures = {name: photograph.open() for name, photograph in pictures.items()}
    return [pictures[photograph.id] for photograph in photographs]


def find_on_first(
    model,
    photographs: Sequence[Photograph],
    said: Sequence[Sequence[Target]],
    concepts: Sequence[tuple[str, str]],
    n_neurons: int,
    **switches,
) -> list[Finding]:
    """Take the first photograph that names each source, and its word's top neurons."""
    places = [
        next(
            (photograph, target, word)
            for photograph, some in zip(photographs, said, strict=True)
            for target in some
            if target.noun.lower() == source
        )
        for source, word in concepts
    ]
    return _found(model, places, n_neurons, **switches)


def find_on_each(
    model,
    photographs: Sequence[Photograph],
    said: Sequence[Sequence[Target]],
    rows: pd.DataFrame,
    n_neurons: int,
    **switches,
) -> list[Finding]:
    """Find edits also on the dealt photographs with a source word that serve to try others'.

    In the order of ``rows`` (see ``deal``); without those whose word the tagger takes for no
    noun.
    """
    of_image = {p.id: (p, some) for p, some in zip(photographs, said, strict=True)}
    places = []
    for row in rows[rows["role"] == SAME].itertuples():
        photograph, some = of_image[row.image]
        target = next((t for t in some if t.noun.lower() == row.source), None)
        if target is not None:
            places.append((photograph, target, row.target))
    return _found(model, places, n_neurons, **switches)


def _found(model, places, n_neurons: int, **switches) -> list[Finding]:
    """Add the top neurons to places: photograph, target, new word."""
    photographs, targets = [place[0] for place in places], [place[1] for place in places]
    tops = top_neurons(model, photographs, targets, n_neurons, **switches)
    return [Finding(*place, tuple(top)) for place, top in zip(places, tops, strict=True)]


def shared_neurons(findings: Sequence[Finding]) -> list[Neuron]:
    """List the neurons that all findings have in common, in the order of their names."""
    return sorted(set.intersection(*(set(finding.neurons) for finding in findings)), key=str)


def with_more_words(model, findings: Sequence[Finding], n: int = 3) -> list[Finding]:
    """Turn the first source also into up to ``n`` of the others' words, as in paper B's Table 6."""
    first, *rest = findings
    words = dict.fromkeys(finding.word for finding in rest)
    fit = [word for word in words if word != first.word and differ(model, first.target.noun, word)]
    return [first, *(first.into(word) for word in fit[:n]), *rest]


def strongest(
    findings: Sequence[Finding], edits: Sequence[Edit]
) -> tuple[list[Finding], list[Edit]]:
    """Order findings and their edits by the longest dw, the longest first."""
    longest = [float(edit.norms.max()) for edit in edits]
    order = sorted(range(len(longest)), key=lambda place: -longest[place])
    return [findings[place] for place in order], [edits[place] for place in order]


def tokens_of(model, vectors: torch.Tensor, k: int = 5) -> list[list[str]]:
    """Name the ``k`` tokens that each vector (n, d) writes, most probable first."""
    ids, _ = decode_vectors(model, vectors, k)
    return [[model.token_strings[token] for token in row] for row in ids.tolist()]
