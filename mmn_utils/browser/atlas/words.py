"""What every neuron writes and suppresses: both ends of its write vector, unembedded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from mmn_utils.neurons.decoding import WORDS
from mmn_utils.neurons.text import WORDS_NEEDED, is_dictionary_word

ENDS, NORMS = ("writes", "suppresses"), ("none", "final")
END_OF = dict(zip((1, -1), ENDS, strict=True))  # that a neuron writes, by its activation's sign
EXACT, REDUCED = 256, 128  # the widest direction that is kept whole, and what a wider one becomes
_LOGITS_AT_ONCE = 1 << 24  # bounds the (rows, vocabulary) block: 64 MB in float32


@dataclass(frozen=True, eq=False)
class Decoded:
    """The first tokens (N, k) int32 of vectors and their logits (N, k) float32, highest first.

    A logit is what stands above the uniform one, the mean over the vocabulary.
    """

    tokens: np.ndarray
    logits: np.ndarray


@torch.no_grad()
def both_ends(model, layer: int, k: int = WORDS) -> dict[tuple[str, str], Decoded]:
    """Decode every write vector of a layer, and its negative: {(end, norm): tokens, logits}.

    ``end`` is one of ``ENDS``, ``norm`` ``none`` or ``final``, through the final norm first.
    The norm may shift, so the negative goes through it by itself. Rows go in chunks, of which
    only the top k stay.
    """
    weight = model.unembedding[0].detach()
    rows = max(1, _LOGITS_AT_ONCE // len(weight))
    found = {(end, norm): [] for end in ENDS for norm in NORMS}
    for vectors in model.written_vectors(layer).detach().to(weight).split(rows):
        for end, norm in found:
            signed = vectors if end == "writes" else -vectors
            read = model.final_norm(signed) if norm == "final" else signed
            logits = F.linear(read, weight).float()
            top = logits.topk(min(k, len(weight)), dim=-1)
            above = top.values - logits.mean(-1, keepdim=True)
            found[end, norm].append((top.indices.cpu(), above.cpu()))
    return {key: _joined(parts) for key, parts in found.items()}


def _joined(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> Decoded:
    tokens, logits = (torch.cat(some).numpy() for some in zip(*parts, strict=True))
    return Decoded(tokens.astype(np.int32), logits)


def interpretable_rows(tokens: np.ndarray, token_strings: list[str]) -> np.ndarray:
    """Say which rows of tokens (N, 10) hold 7 dictionary words or more (paper A, S.2): bool (N)."""
    used = np.unique(tokens)
    is_word = np.array([is_dictionary_word(token_strings[token]) for token in used])
    return is_word[np.searchsorted(used, tokens)].sum(1) >= WORDS_NEEDED


@torch.no_grad()
def directions(model, layer: int) -> np.ndarray:
    """Reduce a layer's write vectors to unit directions to compare: (units, n) float16.

    A width of up to ``EXACT`` is kept; a wider one is projected to ``REDUCED`` dimensions by
    the same random orthonormal map in every layer, and cosines of those are approximate, by
    about 1 / sqrt(``REDUCED``). A vector of zeros stays zero.
    """
    vectors = model.written_vectors(layer).detach().float()
    if vectors.shape[1] > EXACT:
        vectors = vectors @ projection(vectors.shape[1]).to(vectors)
    return F.normalize(vectors, dim=-1).half().cpu().numpy()


def projection(width: int) -> torch.Tensor:
    """Draw the map of ``directions``: (width, ``REDUCED``) float32, orthonormal columns."""
    generator = torch.Generator().manual_seed(width)
    return torch.linalg.qr(torch.randn(width, REDUCED, generator=generator))[0]
