"""Paper B's shuffled regions on LLaVA: Figure 3.

Per picture: its image tokens in another order, a new caption by transformers' ``generate``, and
the share of the top neurons that both captions' concepts have in common (Eq. 6).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.independent import raw, words
from tests.independent.stored import B, about, assert_claim, assert_rows, rows_of, some

pytestmark = pytest.mark.weights


def tops(soft: torch.Tensor, ids: tuple[int, ...], k: int) -> dict[tuple[str, int], dict]:
    """The top ``k`` units of each concept of a caption by each method: {(noun, token): ...}."""
    system, start = raw.llava(), len(raw.llava().before)
    found = {}
    for noun, step, token in words.nouns(system, ids):
        embeds = raw.prompt(system, soft, ids[:step])
        last = raw.activations(system, embeds)[0][:, -1]
        with torch.no_grad():
            along = torch.stack([system.unembedding[token] @ out.weight for out in system.out])
        field = raw.attributions(system, embeds, token, slice(start, start + len(soft)))
        scores = {"contribution": along * last, "attribution": field.amax(1)}
        found[noun, token] = {name: set(raw.highest(s, k)) for name, s in scores.items()}
    return found


def shared(image: str, k: int, seed: int) -> dict[str, float]:
    """r_k of a picture by each method, mean over the concepts of both captions."""
    system = raw.llava()
    soft = raw.seen(system, image)
    moved = soft[words.generator(image, seed, 0).permutation(len(soft))]
    before = tops(soft, raw.said(system, image), k)
    after = tops(moved, raw.caption(system, moved), k)
    both = [concept for concept in after if concept in before]
    return {
        name: np.mean([len(before[c][name] & after[c][name]) / k for c in both])
        for name in ("contribution", "attribution")
    }


def test_shared_neurons_of_figure_3():
    facts = about(B, "B-fig-3")
    k = facts["k"]
    rows = rows_of(B, "B-fig-3", f"k == {k}")
    own = {image: shared(image, k, facts["seed"]) for image in some(rows["image"], 5)}
    assert_rows(rows, own)
    assert_claim(B, "B-fig-3-invariant", rows["contribution"].mean())
    assert_claim(B, "B-fig-3-methods", (rows["contribution"] - rows["attribution"]).mean())
