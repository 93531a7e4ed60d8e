"""Make a system say one word for another, by changing the write vectors of a few neurons.

Paper B, section 2.3 and Algorithm 1, and its relatives. For each neuron the paper descends
on o (w'v0 - w'v1) + beta ||dw||: o is its activation at the step that predicts the source
token, v0 and v1 are the source's and the target's rows of the unembedding, w' = w + dw.
Everything but the penalty is linear in dw, so the neuron's *pull* o (v0 - v1), with the norm
g, decides: up to g = beta the best dw is zero, beyond it there is none, and the paper's dw
is where its 1000 steps happen to end. That point has a closed form, which is the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mmn_utils.interventions.concept import Concept, concept_of
from mmn_utils.interventions.edit import Edit, EmptyEdit, edit_on
from mmn_utils.models.capture import capture, mlp_scales
from mmn_utils.neurons.contribution import scaled_rows
from mmn_utils.neurons.table import Neuron, check_neurons
from mmn_utils.neurons.targets import ACTIVATIONS, Target, teacher_forced

METHODS = ("closed", "descent", "adam", "squared")


@dataclass(frozen=True)
class Settings:
    """How an edit is found; the values are the paper's (B.3).

    ``method``: ``closed``, where plain gradient descent on the paper's loss ends, without
    its steps; ``descent``, the steps themselves; ``adam``, the same loss and number of
    steps by Adam, about ten times as far; ``squared``, the minimum with the norm squared,
    which exists: -pull / (2 beta), whatever lr and epochs. ``activation`` at the source's
    step: ``gated``, the exact one, or ``gate`` alone, the paper's wording; the sign of the
    other factor can then turn an edit round.
    """

    method: str = "closed"
    beta: float = 4.0
    lr: float = 1e-3
    epochs: int = 1000
    activation: str = "gated"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}: give one of {', '.join(METHODS)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r}: give 'gated' or 'gate'")
        if self.beta < 0 or self.lr <= 0 or self.epochs < 1:
            raise ValueError(
                f"beta={self.beta}, lr={self.lr}, epochs={self.epochs}: beta must not be "
                "negative, lr positive, epochs at least 1"
            )
        if self.method == "squared" and self.beta == 0:
            raise ValueError("beta=0 leaves the squared norm without a minimum; give more")


def solve(pulls: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Find dw (n, d) float32 from the pulls (n, d), neuron by neuron (paper B, Eq. 5)."""
    if settings.method == "closed":
        return closed_form(pulls, settings.beta, settings.lr, settings.epochs)
    if settings.method == "squared":
        return squared_form(pulls, settings.beta)
    return descend(pulls, settings.beta, settings.lr, settings.epochs, settings.method == "adam")


def closed_form(pulls: torch.Tensor, beta: float, lr: float, epochs: int) -> torch.Tensor:
    """Return where gradient descent on Eq. 5 ends, from zero: (n, d) float32.

    Against the pull, with the length lr g + (epochs - 1) lr (g - beta), since the penalty
    has no gradient at zero, where the first step begins. Zero up to g = beta, the true
    minimum there: the steps themselves keep jumping about it, never further off than
    lr (g + beta), 0.008 with the paper's numbers.
    """
    pulls = pulls.double()
    g = pulls.norm(dim=1, keepdim=True)
    length = lr * g + (epochs - 1) * lr * (g - beta)
    return torch.where(g > beta, -pulls / g * length, 0.0).float()


def squared_form(pulls: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the minimum of Eq. 5 with the norm squared: -pull / (2 beta), (n, d) float32."""
    return (-pulls.double() / (2 * beta)).float()


def descend(
    pulls: torch.Tensor,
    beta: float,
    lr: float,
    epochs: int,
    adam: bool = False,
    squared: bool = False,
) -> torch.Tensor:
    """Take the steps of Algorithm 1 on all neurons at once: (n, d) float32.

    Plain gradient descent or Adam, from zero, in float64; ``squared`` takes the penalty's
    norm squared. The losses of neurons do not meet, nor do their steps.
    """
    pulls = pulls.double()
    moved = torch.zeros_like(pulls)
    optimiser = (torch.optim.Adam if adam else torch.optim.SGD)([moved], lr=lr)
    for _ in range(epochs):
        norm = moved.norm(dim=1, keepdim=True)
        slope = 2 * moved if squared else torch.where(norm > 0, moved / norm, 0.0)
        moved.grad = pulls + beta * slope
        optimiser.step()
    return moved.float()


@torch.no_grad()
def pulls_of(
    model,
    images: Sequence,
    targets: Sequence[Target],
    tokens: Sequence[Sequence[int]],
    neurons: Sequence[Sequence[Neuron]],
    activation: str = "gated",
) -> list[torch.Tensor]:
    """Measure the pulls of each image's neurons by one pass: (n, d) float32 each, on the CPU.

    They pull at the write vectors: through the norm behind an MLP, if there is one, its scale
    held, and through the scale of the logits.

    ``images[i]``, ``targets[i]``, the ``tokens[i]`` of a new word and ``neurons[i]`` belong
    together. A pull is o (v0 - v1), with o the activation at the step that predicts the
    target's token, whose row of the unembedding is v0; v1 is the row of the new word's first
    token. A word of several tokens adds a term for each: there o and the rival v0, the
    model's own choice, are read behind the tokens that go before.
    """
    every = [neuron for some in neurons for neuron in some]
    check_neurons(every, model.sizes.layers, model.sizes.units)
    prompt, first = _behind(model, images, targets, tokens)
    layers = {neuron.layer for neuron in every}
    with (
        capture(model, ACTIVATIONS[activation], layers) as seen,
        mlp_scales(model, layers) as scales,
    ):
        logits, _ = model.forward(prompt)
    wanted = torch.tensor([token for word in tokens for token in word], device=logits.device)
    rivals = logits.float().scatter(1, wanted[:, None], -torch.inf).argmax(1)
    rivals[first] = torch.tensor([target.token for target in targets], device=rivals.device)
    weight = model.unembedding[0].detach()
    apart = scaled_rows(model, weight[rivals].float() - weight[wanted].float()).cpu()  # (rows, d)
    last = prompt.ends
    found = []
    for start, word, some in zip(first, tokens, neurons, strict=True):
        steps = slice(start, start + len(word))
        o = torch.stack([_at(seen.values[n.layer][steps], last[steps], n.unit) for n in some])
        for row, n in zip(o, some, strict=True):
            if n.layer in scales:
                row /= _at(scales[n.layer][steps, :, None], last[steps], 0)
        pulls = (o @ apart[steps]).to(model.device)
        rows = [model.read_at_mlp(n.layer, row) for n, row in zip(some, pulls, strict=True)]
        found.append(torch.stack(rows).cpu())
    return found


def _behind(model, images, targets, tokens) -> tuple[Any, list[int]]:
    """Prompt for each token of each new word, behind its image, and the first row of each word."""
    prefixes = [
        (*target.prefix, *word[:step])
        for target, word in zip(targets, tokens, strict=True)
        for step in range(len(word))
    ]
    owners = [i for i, word in enumerate(tokens) for _ in word]
    first = [owners.index(i) for i in range(len(tokens))]
    return teacher_forced(model, model.prompt(images).select(owners), prefixes), first


def _at(values: torch.Tensor, places: torch.Tensor, unit: int) -> torch.Tensor:
    """Read one unit at row i's place i: (B, T, units) to (B) float32 on the CPU."""
    places = places.to(values.device)
    rows = torch.arange(len(places), device=values.device)
    return values[rows, places, unit].float().cpu()


def make_edit(
    model,
    images: Sequence,
    targets: Sequence[Target],
    word: str,
    neurons: Sequence[Neuron],
    settings: Settings | None = None,
    *,
    tokens: Sequence[int] | None = None,
    allow_empty: bool = False,
) -> Edit:
    """Find the edit that turns the targets' noun into ``word`` (paper B, Algorithm 1).

    ``images[i]`` belongs to ``targets[i]``, all of one noun; the paper takes one image, of
    several the pulls are averaged. ``neurons``: the paper takes the top 5 contributions to
    the source token. ``tokens`` of the word, by default as behind a blank. ``EmptyEdit``
    where no neuron's pull exceeds beta.
    """
    settings, neurons = settings or Settings(), tuple(neurons)
    concept, count = concept_of(model, images, targets, word, tokens, neurons), len(images)
    places = (images, targets, [concept.tokens] * count, [neurons] * count)
    pulls = torch.stack(pulls_of(model, *places, settings.activation)).mean(0)
    return _solved(model, [concept], [neurons], [pulls], settings, allow_empty)[0]


def make_edits(
    model,
    images: Sequence,
    targets: Sequence[Target],
    words: Sequence[str],
    neurons: Sequence[Sequence[Neuron]],
    settings: Settings | None = None,
    *,
    allow_empty: bool = False,
) -> list[Edit]:
    """Find an edit on each image: as many calls of ``make_edit``, by one forward pass.

    ``images[i]``, ``targets[i]``, the new word ``words[i]`` and ``neurons[i]`` belong together.
    """
    settings, neurons = settings or Settings(), [tuple(some) for some in neurons]
    concepts = [
        concept_of(model, [image], [target], word, None, some)
        for image, target, word, some in zip(images, targets, words, neurons, strict=True)
    ]
    tokens = [concept.tokens for concept in concepts]
    pulls = pulls_of(model, images, targets, tokens, neurons, settings.activation)
    return _solved(model, concepts, neurons, pulls, settings, allow_empty)


def _solved(
    model, concepts: Sequence[Concept], neurons, pulls, settings: Settings, allow_empty: bool
) -> list[Edit]:
    """Turn pulls into edits, all at once; zero, or ``EmptyEdit``, where none exceeds beta."""
    threshold = 0.0 if settings.method == "squared" else settings.beta
    g = [tuple(some.norm(dim=1).tolist()) for some in pulls]
    for concept, lengths in zip(concepts, g, strict=True):
        if max(lengths) <= threshold and not allow_empty:
            raise EmptyEdit(_why_empty(concept, lengths, settings))
    moved = solve(torch.cat(list(pulls)), settings).split([len(some) for some in pulls])
    return [
        edit_on(
            model,
            some,
            deltas if max(lengths) > threshold else torch.zeros_like(deltas),
            lengths,
            concept,
            asdict(settings),
        )
        for some, deltas, lengths, concept in zip(neurons, moved, g, concepts, strict=True)
    ]


def _why_empty(concept: Concept, g: Sequence[float], settings: Settings) -> str:
    """Name g and beta, and the ways out."""
    shown = ", ".join(f"{value:.3g}" for value in g)
    return (
        f"turning {concept.source!r} into {concept.target!r} is worth no change: g = {shown} "
        f"(activation times distance of the unembedding's rows) against beta = {settings.beta:g}."
        f" Lower beta below {max(g):.3g}, take neurons of larger activation, or "
        "method='squared', which has no threshold; allow_empty=True lets it pass"
    )
