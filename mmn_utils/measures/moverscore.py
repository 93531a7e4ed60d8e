"""MoverScore: what it costs to move a candidate's words onto a reference's.

Scale: 1 minus a transport distance, so 1 is the same text. Between unit vectors the
Euclidean distance is 0 to 2, so the score is -1 to 1. Where unrelated words lie depends on
the encoder: at about -0.4 with the default one (20 000 pairs), so paper B's 0.66 to 0.73,
of an encoder that it does not name, are on another scale.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from math import log
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ot
from scipy.spatial.distance import cdist

from mmn_utils.measures.encoder import TokenVectors, encoder_identifier, token_vectors
from mmn_utils.measures.pairs import Pair, over_references

# The ground distance between unit vectors: of the metric's paper, and of its first code.
COSTS = {"euclidean": "euclidean", "squared": "sqeuclidean"}
CONTINUES = "##"  # how WordPiece marks a token that continues a word


class Cloud(NamedTuple):
    """A text to be moved: unit vectors (n, width) and their masses (n,), which sum to 1."""

    vectors: np.ndarray
    masses: np.ndarray


def moverscore(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    encoder: str | Path | None = None,
    layer: int | None = None,
    *,
    idf: bool = True,
    cost: str = "euclidean",
    batch_size: int = 64,
    device: str = "cpu",
) -> np.ndarray:
    """Return each candidate's MoverScore (unigrams), averaged over its references.

    1 minus the least cost of moving the candidate's tokens onto the reference's, solved
    exactly. Encoder and layer as in ``bertscore``, with one layer where the
    metric's first code joins five. ``cost``: ``euclidean`` distance of unit vectors, as
    its paper has it, or ``squared`` (2 - 2 cosines), as that code has it; the score is
    then -3 to 1. Masses follow ``idf`` over the candidates and over the references, each
    distinct text counted once; without it they are equal. As published, pieces that
    continue a word and punctuation have no mass; a text of nothing else keeps it, and so
    does one whose words are all in every text. A blank text matches nothing and scores 0.
    Each distinct pair is scored once, each distinct text embedded once a call. Returns
    float64 (candidates,). ValueError for a string in place of a list, unequal lengths,
    no reference, or another cost.
    """
    if cost not in COSTS:
        raise ValueError(f"cost={cost!r}: give {' or '.join(map(repr, COSTS))}")

    def score(pairs: list[Pair]) -> list[float]:
        sides = [sorted(set(side)) for side in zip(*pairs, strict=True)]
        seen = token_vectors([*sides[0], *sides[1]], encoder, layer, batch_size, device)
        ours, theirs = (_clouds({text: seen[text] for text in side}, idf) for side in sides)
        return [1 - distance(ours[c], theirs[r], cost) for c, r in pairs]

    return over_references(candidates, references, score)


def moverscore_identifier(
    encoder: str | Path | None = None,
    layer: int | None = None,
    *,
    idf: bool = True,
    cost: str = "euclidean",
) -> str:
    """Return what fixes the numbers of :func:`moverscore`, for provenance."""
    return (
        f"MoverScore, unigrams, {encoder_identifier(encoder, layer)}, "
        f"{'idf' if idf else 'no idf'}, {cost} cost, 1 - distance, POT {version('POT')}, "
        f"transformers {version('transformers')}"
    )


def distance(ours: Cloud, theirs: Cloud, cost: str = "euclidean") -> float:
    """Return the least cost of moving one text onto another; 1 where a text has no tokens."""
    if not len(ours.masses) or not len(theirs.masses):
        return 1.0
    costs = cdist(ours.vectors, theirs.vectors, COSTS[cost])
    if 1 in costs.shape:  # all mass comes from, or goes to, one place: there is one plan
        return float(ours.masses @ costs @ theirs.masses)
    return float(ot.emd2(ours.masses, theirs.masses, costs))


def _clouds(texts: dict[str, TokenVectors], idf: bool) -> dict[str, Cloud]:
    """Give the tokens of each text their masses; the texts are the corpus of the idf."""
    found = Counter(token for seen in texts.values() for token in set(seen.tokens))
    weights = {token: log((len(texts) + 1) / (n + 1)) if idf else 1.0 for token, n in found.items()}
    return {text: _cloud(seen, weights) for text, seen in texts.items()}


def _cloud(seen: TokenVectors, weights: dict[str, float]) -> Cloud:
    """Lay one text out; where no word has a weight, its tokens have equal ones."""
    words = [i for i, token in enumerate(seen.tokens) if _is_word(token)]
    kept = words or list(range(len(seen.tokens)))
    masses = np.array([weights[seen.tokens[i]] for i in kept], dtype=np.float64)
    if not masses.any():
        masses = np.ones(len(kept))
    return Cloud(seen.vectors[kept].double().numpy(), masses / masses.sum())


def _is_word(token: str) -> bool:
    return CONTINUES not in token and token not in string.punctuation
