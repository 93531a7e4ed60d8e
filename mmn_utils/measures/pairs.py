"""Candidates with their references, as texts are compared: checked, scored once, averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

Pair = tuple[str, str]  # candidate, reference


def check_pairs(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise ``ValueError`` unless each candidate has a list of references of its own."""
    if isinstance(candidates, str) or any(isinstance(rs, str) for rs in references):
        raise ValueError("candidates must be a list of texts, references a list of lists of texts")
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates but {len(references)} lists of references")
    for i, rs in enumerate(references):
        if not len(rs):
            raise ValueError(f"candidate {i} ({candidates[i]!r}) has no reference: leave it out")


def over_references(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    score: Callable[[list[Pair]], Iterable[float]],
) -> np.ndarray:
    """Score each distinct pair once; average each candidate's over its references."""
    check_pairs(candidates, references)
    of_candidate = zip(candidates, references, strict=True)
    asked = [(c.strip(), r.strip()) for c, rs in of_candidate for r in rs]
    pairs = sorted(set(asked))
    scored = dict(zip(pairs, score(pairs), strict=True)) if pairs else {}
    each = iter(asked)
    return np.array([np.mean([scored[next(each)] for _ in rs]) for rs in references], dtype=float)
