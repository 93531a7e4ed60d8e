"""Which words a neuron writes: write vectors through the unembedding, soft prompts to tokens.

Paper A, section 2.2: decoder(W_out^k) = softmax(W_d w_k), where w_k is the write vector
of the neuron. The paper leaves open whether the final norm and the unembedding's bias
belong to the decoder; as printed they do not. Where a norm stands behind the MLPs, w_k is what
of the write vector reaches the residual stream (``written_vectors``).

What a neuron writes has a sign: its activation times its write vector, so that one with a
negative activation pushes against the tokens of its vector and for those at the vector's
other end. Wherever functions here take neurons, a neuron stands for its write vector as it
is, and a pair (neuron, -1) for the opposite. ``signed`` makes such pairs of a neuron table,
and results are keyed by what was given. Where no activation is at hand, ``both_ends``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mmn_utils.neurons.table import Neuron, by_layer, check_neurons, neurons_of
from mmn_utils.neurons.text import is_interpretable

WORDS = 10  # tokens that describe a neuron in the papers
_LOGITS_AT_ONCE = 1 << 23  # bounds the (rows, vocabulary) block: 32 MB in float32

Signed = tuple[Neuron, int]  # a neuron and the sign of its activation, 1 or -1
SIGN = {1: "+", -1: "−"}  # as tables show it


def signs_of(activations: Sequence[float]) -> np.ndarray:
    """Return the signs of activations: int (N,), 1 or -1.

    An activation of exactly 0 writes nothing; it counts as 1, so that its neuron is decoded
    as the paper prints it. ``ValueError`` for NaN: there was no activation at hand.
    """
    values = np.asarray(activations, dtype=float)
    if np.isnan(values).any():
        raise ValueError(
            f"{np.isnan(values).sum()} of {values.size} neurons have no activation (NaN), so it "
            "is unknown which end of their vectors they write: score them by attribution, "
            "contribution or activation, or decode them with both_ends"
        )
    return np.where(values < 0, -1, 1)


def signed(table: pd.DataFrame) -> list[Signed]:
    """Pair the neurons of a neuron table, row by row, with the sign of their activation.

    What such a pair decodes to was written where the score was taken. Signs as ``signs_of``.
    """
    return list(zip(neurons_of(table), signs_of(table["activation"]).tolist(), strict=True))


def write_vectors(model, neurons: Sequence[Neuron | Signed]) -> torch.Tensor:
    """Gather the write vectors of neurons in their order: (N, d), the model's dtype.

    Of a pair (neuron, sign) the vector times the sign; ``ValueError`` for others than 1, -1.
    """
    return _gathered(model, neurons, reached=False)


def written_vectors(model, neurons: Sequence[Neuron | Signed]) -> torch.Tensor:
    """Gather what of their write vectors neurons add to the residual stream: (N, d).

    The write vectors, except where a norm or factors stand between (``models.stream``). This
    is what is decoded.
    """
    return _gathered(model, neurons, reached=True)


def _gathered(model, neurons: Sequence[Neuron | Signed], reached: bool) -> torch.Tensor:
    """Gather the vectors of neurons as written, or as they reach the residual stream."""
    neurons, signs = _apart(neurons)
    check_neurons(neurons, model.sizes.layers, model.sizes.units)
    gathered = torch.empty(len(neurons), model.sizes.width, device=model.device, dtype=model.dtype)
    for layer in by_layer(neurons):
        rows = [row for row, neuron in enumerate(neurons) if neuron.layer == layer]
        units = torch.tensor([neurons[row].unit for row in rows], device=model.device)
        vectors = model.write_vectors(layer)[units].detach()
        gathered[rows] = (model.reached(layer, vectors) if reached else vectors).to(gathered)
    return gathered * torch.tensor(signs).to(gathered)[:, None]


def _apart(neurons: Sequence[Neuron | Signed]) -> tuple[list[Neuron], list[int]]:
    """Take neurons and signs apart; a neuron by itself has the sign 1."""
    pairs = [(one, 1) if isinstance(one, Neuron) else one for one in neurons]
    for neuron, sign in pairs:
        if sign not in (1, -1):
            raise ValueError(f"sign {sign!r} of {neuron}: give 1 or -1")
    return [neuron for neuron, _ in pairs], [int(sign) for _, sign in pairs]


@torch.no_grad()
def decode_vectors(
    model,
    vectors: torch.Tensor,
    k: int = WORDS,
    decode_norm: str = "none",
    decode_bias: bool = False,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode vectors of the residual stream: token ids (N, k) long and probabilities (N, k).

    softmax(W_d w) over the model's vocabulary in float32; ``decode_norm="final"`` puts w
    through the final norm first, ``decode_bias`` adds the unembedding's bias. Rows go in
    chunks, of which only the top k stay: the (N, vocabulary) product never exists.
    """
    weight, bias = _unembedding(model, decode_bias)
    if decode_norm not in ("none", "final"):
        raise ValueError(f"decode_norm={decode_norm!r}: give 'none' or 'final'")
    ids, probabilities = [], []
    chunks = _chunks(vectors, weight, k, chunk)
    room = _room(chunks, weight)
    for rows in chunks:
        read = model.final_norm(rows) if decode_norm == "final" else rows
        logits = _logits(read, weight, room)
        logits = (logits if bias is None else logits.add_(bias)).float()
        top = logits.topk(k, dim=-1)
        most = top.values[:, :1]
        total = logits.sub_(most).exp_().sum(-1, keepdim=True).log_().add_(most)
        ids.append(top.indices)
        probabilities.append((top.values - total).exp())
    if not ids:
        return torch.empty(0, k, dtype=torch.long), torch.empty(0, k)
    return torch.cat(ids).cpu(), torch.cat(probabilities).cpu()


def _chunks(
    vectors: torch.Tensor, weight: torch.Tensor, k: int, chunk: int | None
) -> tuple[torch.Tensor, ...]:
    """Split vectors (N, d) so that their logits fit; ValueError for a ``k`` that none can have."""
    if not 1 <= k <= len(weight):
        raise ValueError(f"k={k}: give a number of tokens from 1 to {len(weight)}")
    return vectors.to(weight).split(chunk or max(1, _LOGITS_AT_ONCE // len(weight)))


def _room(chunks: Sequence[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """Make the room (rows, V) in which the logits of one chunk after the other are written.

    Made anew for each they would come to lie behind each other, with holes that none fits into.
    """
    return weight.new_empty(len(chunks[0]), len(weight))


def _logits(rows: torch.Tensor, weight: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """Multiply rows (N, d) with the unembedding (V, d), into the room: (N, V)."""
    return torch.mm(rows.to(weight), weight.T, out=room[: len(rows)])


def _unembedding(model, with_bias: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return W_d (V, d) and, if asked, its bias (V), cut to the model's vocabulary."""
    weight, bias = model.unembedding
    weight = weight[: model.sizes.vocabulary].detach()
    if not with_bias:
        return weight, None
    if bias is None:
        raise ValueError("this model's unembedding has no bias; set decode_bias = False")
    return weight, bias[: model.sizes.vocabulary].detach()


def decode(
    model,
    neurons: Sequence[Neuron | Signed],
    k: int = WORDS,
    decode_norm: str = "none",
    decode_bias: bool = False,
) -> pd.DataFrame:
    """Decode neurons, or (neuron, sign) pairs, to their ``k`` most probable tokens.

    One row per (neuron, rank), neurons in their order, ranks from 0: layer, unit, sign, rank
    (int32), token (int64), text (with its leading blank), probability (float32).
    """
    ids, probabilities = decode_vectors(
        model, written_vectors(model, neurons), k, decode_norm, decode_bias
    )
    return _rows(model, neurons, ids, probabilities)


def decode_layer(
    model,
    layer: int,
    k: int = WORDS,
    decode_norm: str = "none",
    decode_bias: bool = False,
    chunk: int | None = None,
) -> pd.DataFrame:
    """Decode every neuron of a layer, ``chunk`` at a time; rows as from ``decode``."""
    check_neurons([Neuron(layer, 0)], model.sizes.layers, model.sizes.units)
    ids, probabilities = decode_vectors(
        model, model.written_vectors(layer), k, decode_norm, decode_bias, chunk
    )
    return _rows(model, [Neuron(layer, unit) for unit in range(len(ids))], ids, probabilities)


def _rows(model, neurons: Sequence[Neuron | Signed], ids: torch.Tensor, probabilities):
    """Lay decoded tokens (N, k) out as a table of N x k rows."""
    count, k = ids.shape
    tokens, (neurons, signs) = ids.flatten().tolist(), _apart(neurons)
    table = {
        "layer": [n.layer for n in neurons for _ in range(k)],
        "unit": [n.unit for n in neurons for _ in range(k)],
        "sign": [sign for sign in signs for _ in range(k)],
        "rank": list(range(k)) * count,
        "token": tokens,
        "text": [model.token_strings[token] for token in tokens],
        "probability": probabilities.flatten().tolist(),
    }
    kinds = {
        "layer": "int32", "unit": "int32", "sign": "int32", "rank": "int32",
        "token": "int64", "text": "str", "probability": "float32",
    }  # fmt: skip
    return pd.DataFrame(table).astype(kinds)


def decoded_words(
    model,
    neurons: Sequence[Neuron | Signed],
    k: int = WORDS,
    decode_norm: str = "none",
    decode_bias: bool = False,
) -> dict[Neuron | Signed, list[str]]:
    """Name the ``k`` tokens that each neuron, or (neuron, sign) pair, writes, most probable first.

    Each different one once, by what was given.
    """
    neurons = list(dict.fromkeys(neurons))
    ids, _ = decode_vectors(model, written_vectors(model, neurons), k, decode_norm, decode_bias)
    strings = model.token_strings
    return {n: [strings[i] for i in row] for n, row in zip(neurons, ids.tolist(), strict=True)}


def suppressed_words(
    model, units: Sequence[Signed], k: int = WORDS, decode_norm: str = "none",
    decode_bias: bool = False,
) -> dict[Signed, list[str]]:  # fmt: skip
    """Name the ``k`` tokens at the other end of what each (neuron, sign) pair writes.

    Keyed by what was given, the most suppressed first.
    """
    opposite = {unit: (unit[0], -unit[1]) for unit in units}
    words = decoded_words(model, list(opposite.values()), k, decode_norm, decode_bias)
    return {unit: words[other] for unit, other in opposite.items()}


def both_ends(
    model,
    neurons: Sequence[Neuron],
    k: int = WORDS,
    decode_norm: str = "none",
    decode_bias: bool = False,
) -> pd.DataFrame:
    """Name both ends of neurons' write vectors, whichever their activation makes them write.

    One row per neuron, in their order: layer, unit (int32), ``writes`` the ``k`` tokens of the
    vector and ``suppresses`` those of the negated one, lists of texts: what the neuron writes
    and suppresses where its activation is positive, and the reverse where it is negative.
    """
    vectors = written_vectors(model, neurons)
    if decode_norm == "none" and not decode_bias:
        ends = extreme_tokens(model, vectors, k)
    else:  # a norm's shift and a bias do not turn with the vector
        options = (k, decode_norm, decode_bias)
        ends = [decode_vectors(model, sign * vectors, *options)[0] for sign in (1, -1)]
    strings = model.token_strings
    writes, suppresses = ([[strings[i] for i in row] for row in ids.tolist()] for ids in ends)
    columns = {"layer": [n.layer for n in neurons], "unit": [n.unit for n in neurons]}
    table = pd.DataFrame(columns, dtype="int32")
    return table.assign(
        writes=pd.Series(writes, dtype=object), suppresses=pd.Series(suppresses, dtype=object)
    )


@torch.no_grad()
def extreme_tokens(
    model, vectors: torch.Tensor, k: int = WORDS, chunk: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the ``k`` tokens of the highest and those of the lowest logit: ids (N, k) long, twice.

    What a vector and its negative decode to, off one product W_d w.
    """
    weight, _ = _unembedding(model, with_bias=False)
    highest, lowest = [torch.empty(0, k, dtype=torch.long)], [torch.empty(0, k, dtype=torch.long)]
    chunks = _chunks(vectors, weight, k, chunk)
    room = _room(chunks, weight)
    for rows in chunks:
        logits = _logits(rows, weight, room).float()
        highest.append(logits.topk(k, dim=-1).indices.cpu())
        lowest.append(logits.topk(k, dim=-1, largest=False).indices.cpu())
    return torch.cat(highest), torch.cat(lowest)


def interpretable(
    model,
    neurons: Sequence[Neuron | Signed],
    decode_norm: str = "none",
    decode_bias: bool = False,
) -> dict[Neuron | Signed, bool]:
    """Say which neurons have 7 dictionary words or more in their top 10 tokens (paper A, 2.2).

    Of a (neuron, sign) pair, whether the end that it writes has them.
    """
    words = decoded_words(model, neurons, WORDS, decode_norm, decode_bias)
    return {neuron: is_interpretable(tokens) for neuron, tokens in words.items()}


@torch.no_grad()
def nearest_tokens(
    model, vectors: torch.Tensor, k: int = 5, chunk: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the tokens whose embedding has the highest cosine with each vector (paper A, S.1).

    ``vectors`` (N, d) in the language model's input space; ids (N, k) long and cosines
    (N, k) float32, highest first. The embedding is the one that reads tokens, not the
    unembedding. ``ValueError`` for a vector of zeros or not of finite values.
    """
    table = model.language_model.get_input_embeddings().weight[: model.sizes.vocabulary]
    if vectors.ndim != 2 or vectors.shape[1] != table.shape[1]:
        raise ValueError(f"vectors of {tuple(vectors.shape)}: give (N, {table.shape[1]})")
    norms = vectors.float().norm(dim=-1)
    if not (torch.isfinite(norms) & (norms > 0)).all():
        raise ValueError("a vector is zero or not finite; it has no direction to compare")
    directions = F.normalize(table.detach().float(), dim=-1)
    chunk = chunk or max(1, _LOGITS_AT_ONCE // len(table))
    tops = [
        (F.normalize(rows.to(directions), dim=-1) @ directions.T).topk(k, dim=-1)
        for rows in vectors.split(chunk)
    ]
    if not tops:
        return torch.empty(0, k, dtype=torch.long), torch.empty(0, k)
    ids = torch.cat([top.indices for top in tops]).cpu()
    return ids, torch.cat([top.values for top in tops]).cpu()
