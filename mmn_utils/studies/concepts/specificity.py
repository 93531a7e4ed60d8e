"""Do neurons answer to their own concept only? Paper B, section 3.4, Eq. 8, Fig. 5 and 7.

The score of a neuron for a concept is its contribution: its activation at a step times what
it writes of the concept's token. S@m asks it of the m tokens that the neuron favours (its
activation's sign times its write vector) and of m tokens drawn at random; the heat map asks it
of all concepts of a caption, each at its own step. Only the chosen neurons meet only the
tokens asked for.

S@m is here the mean over m tokens, as Eq. 8 has it. In the paper's Table 4 each S@50 equals
S@10 / 5, as if ten scores were summed and divided by 50: compare S@1, S@5 and S@10 only.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd
import torch

from mmn_utils.memory import in_batches
from mmn_utils.models.base import Prompt
from mmn_utils.neurons.contribution import scaled_rows, unembedding_rows
from mmn_utils.neurons.decoding import decode_vectors, written_vectors
from mmn_utils.neurons.final_norm import frozen_norm
from mmn_utils.neurons.table import Neuron, check_neurons, top_k
from mmn_utils.neurons.targets import Target, at_steps
from mmn_utils.studies.subjects import Subjects

MS = (1, 5, 10, 50)
KINDS = ("related", "random")
RELATED_BY = ("activation", "write")


# --- S@m -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Specificity:
    """Scores of neurons for related and random tokens.

    ``scores``: image, target, layer, unit, activation, kind (related or random), rank from
    0, token, score: as many ranks as the largest m.
    """

    scores: pd.DataFrame
    ms: tuple[int, ...]

    def at(self, m: int, kind: str = "related") -> pd.Series:
        """Return each image's share of S@m: its mean over the first m tokens (and its neurons).

        The mean of these over images is Eq. 8. ``ValueError`` for an m that was not asked.
        """
        if m not in self.ms or kind not in KINDS:
            raise ValueError(f"m={m}, kind={kind!r}: give one of {self.ms} and one of {KINDS}")
        some = self.scores[(self.scores["kind"] == kind) & (self.scores["rank"] < m)]
        return some.groupby("image", sort=False)["score"].mean()

    def table(self) -> pd.DataFrame:
        """Lay S@m out as Table 4 has it: a row for each kind, a column for each m."""
        means = {f"S@{m}": [self.at(m, kind).mean() for kind in KINDS] for m in self.ms}
        return pd.DataFrame(means, index=pd.Index(KINDS, name="kind"))


def best_neurons(
    table: pd.DataFrame, targets: Sequence[Target], per: Sequence[str] = ("image",)
) -> tuple[list[Target], list[Neuron]]:
    """Take the top neuron of each image over its targets, and the target that it is top for.

    ``per=("image", "target")``: of each target. In the order of the table, which is by
    image. ``ValueError`` for a target of the table that is not among ``targets``.
    """
    known = {(t.image, t.noun): t for t in targets}
    chosen, neurons = [], []
    for row in top_k(table, 1, per).itertuples(index=False):
        if (row.image, row.target) not in known:
            raise ValueError(f"{row.target!r} of image {row.image!r} is not among the targets")
        chosen.append(known[row.image, row.target])
        neurons.append(Neuron(row.layer, row.unit))
    return chosen, neurons


@torch.no_grad()
def specificity(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    neurons: Sequence[Neuron],
    *,
    ms: Sequence[int] = MS,
    seed: int = 0,
    related_by: str = "activation",
    activation: str = "gated",
    contribution_norm: str = "none",
    decode_norm: str = "none",
    decode_bias: bool = False,
) -> Specificity:
    """Score ``neurons[i]`` for related and random tokens at the step of ``targets[i]`` (Eq. 8).

    ``images[i]``, or row i of their prompt, belongs to ``targets[i]``. Related tokens are the
    first that the neuron promotes there: those of its write vector, turned round where the
    activation is negative, so that their scores are positive. ``related_by="write"`` takes
    those of the write vector as it is, as printed; ``decode_norm`` and ``decode_bias`` as in
    ``decode_vectors``. Random tokens depend on seed and image. For random neurons as a control
    give ``table.random_like`` ones.
    """
    if len(neurons) != len(targets):
        raise ValueError(f"{len(neurons)} neurons for {len(targets)} targets; give one each")
    if related_by not in RELATED_BY:
        raise ValueError(f"related_by={related_by!r}: give one of {', '.join(RELATED_BY)}")
    most = _most(ms, model.sizes.vocabulary)
    norm = frozen_norm(model, contribution_norm)
    values, scales, residual = read_at_steps(model, images, targets, neurons, activation)
    own = values.diagonal()
    vectors = written_vectors(model, neurons)
    turned = torch.where(own < 0, -1, 1) if related_by == "activation" else torch.ones_like(own)
    turned = turned[:, None].to(vectors)
    related, _ = decode_vectors(model, vectors * turned, most, decode_norm, decode_bias)
    drawn = _draw_tokens(model.sizes.vocabulary, most, [t.image for t in targets], seed)
    parts = []
    for kind, ids in zip(KINDS, (related, drawn), strict=True):
        rows = model.unembedding[0].detach()[ids.to(model.device)].float()  # (T, m, d)
        rows = scaled_rows(model, rows, norm)
        written = torch.einsum("tmd,td->tm", rows, vectors.float())
        written /= scales.diagonal()[:, None]
        scale = 1 if norm is None else norm.scale(residual)[:, None]
        parts.append(_rows(targets, neurons, own, kind, ids, own[:, None] * written / scale))
    return Specificity(pd.concat(parts, ignore_index=True), tuple(sorted(set(ms))))


def _most(ms: Sequence[int], vocabulary: int) -> int:
    if not ms or not 1 <= min(ms) <= max(ms) <= vocabulary:
        raise ValueError(f"ms={list(ms)}: give numbers of tokens from 1 to {vocabulary}")
    return max(ms)


def _draw_tokens(vocabulary: int, m: int, images: Sequence[str], seed: int) -> torch.Tensor:
    """Draw m different tokens of the vocabulary for each image: (B, m) long."""
    drawn = []
    for image in images:
        rng = np.random.default_rng([seed, zlib.crc32(image.encode())])
        drawn.append(rng.choice(vocabulary, size=m, replace=False))
    return torch.from_numpy(np.array(drawn, np.int64).reshape(len(images), m))


def _rows(targets, neurons, activations, kind: str, ids, scores) -> pd.DataFrame:
    """Lay scores (T, m) out with one row per token."""
    m = ids.shape[1]
    frame = {
        "image": [t.image for t in targets],
        "target": [t.noun for t in targets],
        "layer": [n.layer for n in neurons],
        "unit": [n.unit for n in neurons],
        "activation": activations.tolist(),
        "kind": kind,
    }
    frame = pd.DataFrame(frame).loc[np.repeat(np.arange(len(targets)), m)]
    return frame.assign(
        rank=np.tile(np.arange(m), len(targets)),
        token=ids.flatten().cpu().numpy(),
        score=scores.flatten().cpu().numpy(),
    ).reset_index(drop=True)


def specificity_of(
    model, some: Subjects, table: pd.DataFrame, *, batch_size: int = 16, **options
) -> Specificity:
    """Measure S@m of each photograph's best neuron, in batches; as ``specificity``."""

    def compute(ids: list[str]) -> Specificity:
        pictures, targets = some.select(ids).opened()
        picture_of = {t.image: p for t, p in zip(targets, pictures, strict=True)}
        mine = table[table["image"].isin(picture_of)]
        chosen, neurons = best_neurons(mine, targets)
        images = [picture_of[t.image] for t in chosen]
        return specificity(model, images, chosen, neurons, **options)

    parts = in_batches(compute, some.ids, batch_size)
    scores = pd.concat([part.scores for part in parts], ignore_index=True)
    return Specificity(scores, parts[0].ms)


# --- heat maps -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Scores (concepts, concepts) of one image: rows are concepts' top neurons, columns concepts.

    Column j is read at the step that predicts concept j.
    """

    image: str
    concepts: tuple[str, ...]
    neurons: tuple[Neuron, ...]
    scores: np.ndarray

    def normalised(self, by: str = "row") -> np.ndarray:
        """Bring the scores to 0..1, each row by itself or ``all`` together; constant ones to 0.

        The paper says "after normalization" and not how.
        """
        if by not in ("row", "all"):
            raise ValueError(f"by={by!r}: give 'row' or 'all'")
        axis = 1 if by == "row" else None
        low = self.scores.min(axis=axis, keepdims=True)
        span = self.scores.max(axis=axis, keepdims=True) - low
        return np.divide(self.scores - low, span, out=np.zeros_like(self.scores), where=span > 0)

    @property
    def own_highest(self) -> float:
        """Share of neurons whose highest score is for their own concept; 1 / concepts by chance.

        An image of one concept says nothing: leave it out of a mean.
        """
        return float((self.scores.argmax(1) == np.arange(len(self.scores))).mean())

    def frame(self) -> pd.DataFrame:
        """List the scores: image, concept (whose neuron), neuron, for_concept, score."""
        return pd.DataFrame(
            [
                (self.image, concept, str(neuron), other, float(score))
                for concept, neuron, row in zip(
                    self.concepts, self.neurons, self.scores, strict=True
                )
                for other, score in zip(self.concepts, row, strict=True)
            ],
            columns=["image", "concept", "neuron", "for_concept", "score"],
        )


@torch.no_grad()
def heat_maps(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    table: pd.DataFrame,
    *,
    activation: str = "gated",
    contribution_norm: str = "none",
) -> list[HeatMap]:
    """Score each concept's top neuron in ``table`` for all concepts of its image (Fig. 5 and 7).

    One pass for all; images in their order, concepts in the caption's. ``ValueError`` for a
    target that the table lacks.
    """
    order, best = best_neurons(table, targets, ("image", "target"))
    top = {(t.image, t.noun): neuron for t, neuron in zip(order, best, strict=True)}
    missing = [t for t in targets if (t.image, t.noun) not in top]
    if missing:
        raise ValueError(f"{missing[0].noun!r} of image {missing[0].image!r} is not in the table")
    neurons = [top[t.image, t.noun] for t in targets]
    matrix = (
        score_matrix(
            model,
            images,
            targets,
            neurons,
            activation=activation,
            contribution_norm=contribution_norm,
        )
        .cpu()
        .numpy()
    )
    maps = []
    for image in dict.fromkeys(t.image for t in targets):
        rows = [i for i, t in enumerate(targets) if t.image == image]
        names = tuple(targets[i].noun for i in rows)
        own = tuple(neurons[i] for i in rows)
        maps.append(HeatMap(image, names, own, matrix[np.ix_(rows, rows)]))
    return maps


def heat_maps_of(
    model, some: Subjects, table: pd.DataFrame, *, batch_size: int = 16, **options
) -> list[HeatMap]:
    """Score each concept's top neuron for all concepts of its image, in batches; ``heat_maps``."""

    def compute(ids: list[str]) -> list[HeatMap]:
        mine = table[table["image"].isin(ids)]
        return heat_maps(model, *some.select(ids).opened(), mine, **options)

    return list(chain.from_iterable(in_batches(compute, some.ids, batch_size)))


@torch.no_grad()
def score_matrix(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    neurons: Sequence[Neuron],
    *,
    activation: str = "gated",
    contribution_norm: str = "none",
) -> torch.Tensor:
    """Score each neuron for each target at its step: (neurons, targets) float32.

    Contributions as ``contribution`` has them, of these neurons alone, in one pass.
    """
    norm = frozen_norm(model, contribution_norm)
    values, scales, residual = read_at_steps(model, images, targets, neurons, activation)
    rows = unembedding_rows(model, targets, norm)
    scores = values / scales * (written_vectors(model, neurons).float() @ rows.T)
    return scores if norm is None else scores / norm.scale(residual)


def read_at_steps(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    neurons: Sequence[Neuron],
    activation: str = "gated",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read neurons at the steps of targets: (neurons, targets), and the residual stream there.

    Between them what a norm behind the neuron's MLP divides the target's token by, (neurons,
    targets), 1 where there is none.
    """
    check_neurons(neurons, model.sizes.layers, model.sizes.units)
    values = torch.empty(len(neurons), len(targets), device=model.device)
    divided, scales = torch.ones_like(values), {}
    places: dict[int, list[int]] = {}
    for place, neuron in enumerate(neurons):
        places.setdefault(neuron.layer, []).append(place)

    def read(layer: int, seen: torch.Tensor) -> None:
        if layer in places:
            units = torch.tensor([neurons[i].unit for i in places[layer]], device=seen.device)
            values[places[layer]] = seen[:, units].T
            divided[places[layer]] = scales.get(layer, divided[places[layer]])

    residual = at_steps(model, images, targets, read, activation=activation, scales=scales)
    return values, divided, residual
