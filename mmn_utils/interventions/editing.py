"""Make a system say one word for another, by changing the write vectors of a few neurons.

Paper B, section 2.3 and Algorithm 1, and its relatives. For each neuron the paper descends
on o (w'v0 - w'v1) + beta ||dw||: o is its activation at the step that predicts the source
token, v0 and v1 are the source's and the target's rows of the unembedding, w' = w + dw.
Everything but the penalty is linear in dw, so the neuron's *pull* o (v0 - v1), with the norm
g, decides: up to g = beta the best dw is zero, beyond it there is none, and the paper's dw
is where its 1000 steps happen to end. That point has a closed form, which is the default.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmn_utils.cache import atomic
from mmn_utils.interventions.weights import Added, WeightReceipt, adding, entry_size, fingerprint
from mmn_utils.models.base import Sizes
from mmn_utils.models.capture import capture
from mmn_utils.neurons.table import Neuron, check_neurons
from mmn_utils.neurons.targets import ACTIVATIONS, Target, teacher_forced

METHODS = ("closed", "descent", "adam", "squared")
SHARED = ("error", "sum")
FORMAT = "multimodal-neurons edit 1"


class EmptyEdit(ValueError):
    """An edit came out as zero: it would change nothing."""


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


@dataclass(frozen=True)
class JointSettings:
    """How an edit is found through the whole model (``joint_edit``).

    Adam on all neurons' dw together, ``lr`` in units of the write vectors' entries, for at
    most ``epochs`` steps; ends when every image gives the target the probability ``stop``.
    ``keep`` weighs the divergence of the predictions to be kept, ``penalty`` the mean
    squared dw in the same units as ``lr``. ``limit``: no dw longer than so many times the
    mean write vector.
    """

    lr: float = 0.05
    epochs: int = 100
    stop: float = 0.9
    keep: float = 1.0
    penalty: float = 0.0
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.epochs < 1 or not 0 < self.stop < 1:
            raise ValueError(
                f"lr={self.lr}, epochs={self.epochs}, stop={self.stop}: lr must be positive, "
                "epochs at least 1, stop between 0 and 1"
            )
        if self.keep < 0 or self.penalty < 0 or not (self.limit is None or self.limit > 0):
            raise ValueError(
                f"keep={self.keep}, penalty={self.penalty}, limit={self.limit}: the first two "
                "must not be negative, a limit must be positive"
            )


@dataclass(frozen=True)
class Concept:
    """What an edit turns into what, and on which images it was found."""

    source: str
    target: str
    tokens: tuple[int, ...]
    images: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Edit:
    """What is added to which write vectors; small enough to be mailed.

    ``deltas`` (n, d) float32 on the CPU, a row for each neuron; ``pulls`` (n,) are the g of
    each neuron, NaN where the method has none. ``revision`` and ``sizes`` are those of the
    model it was made on, and it fits no other.
    """

    neurons: tuple[Neuron, ...]
    deltas: torch.Tensor
    pulls: tuple[float, ...]
    concepts: tuple[Concept, ...]
    settings: Mapping[str, Any] = field(repr=False)
    model: str
    revision: str
    sizes: Sizes

    def __post_init__(self) -> None:
        count = len(self.neurons)
        if self.deltas.shape != (count, self.sizes.width) or len(self.pulls) != count:
            raise ValueError(
                f"deltas of {tuple(self.deltas.shape)} and {len(self.pulls)} pulls for {count} "
                f"neurons of width {self.sizes.width}; give a row and a pull for each"
            )
        if len(set(self.neurons)) != count or not torch.isfinite(self.deltas).all():
            raise ValueError("neurons must be given once each, and deltas be finite")

    @property
    def identity(self) -> str:
        """Hash of neurons and deltas, as it joins an edited model's revision."""
        return f"edit-{fingerprint(self.neurons, self.deltas)}"

    @property
    def norms(self) -> torch.Tensor:
        """Length of each dw: (n,) float32."""
        return self.deltas.norm(dim=1)

    def table(self) -> pd.DataFrame:
        """List layer, unit, ``g`` and ``norm`` of each neuron."""
        return pd.DataFrame(
            {
                "layer": [neuron.layer for neuron in self.neurons],
                "unit": [neuron.unit for neuron in self.neurons],
                "g": self.pulls,
                "norm": self.norms.tolist(),
            }
        )

    def scaled(self, strength: float) -> Edit:
        """Return the edit with its deltas times ``strength``."""
        settings = {**self.settings, "strength": strength * self.settings.get("strength", 1.0)}
        return replace(self, deltas=self.deltas * strength, settings=settings)

    def first(self, count: int) -> Edit:
        """Keep the first ``count`` neurons.

        That is what the method finds for them alone, unless it was ``joint``.
        """
        if not 1 <= count <= len(self.neurons):
            raise ValueError(f"count={count}: the edit has {len(self.neurons)} neurons")
        return replace(
            self,
            neurons=self.neurons[:count],
            deltas=self.deltas[:count],
            pulls=self.pulls[:count],
        )


# --- words ------------------------------------------------------------------------------


def word_tokens(model, word: str) -> tuple[int, ...]:
    """Return the token ids of a word as it stands within a caption, behind a blank.

    ``ValueError`` for no word, and one that the tokenizer does not know.
    """
    tokenizer, anchor = model.tokenizer, "a"
    before = tokenizer.encode(anchor, add_special_tokens=False)
    ids = tokenizer.encode(f"{anchor} {word.strip()}", add_special_tokens=False)
    found = tuple(ids[len(before) :])
    if ids[: len(before)] != before or not word.strip() or not found:
        raise ValueError(f"the tokenizer has no ids of its own for the word {word!r}; give tokens")
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in found:
        raise ValueError(f"the tokenizer does not know the word {word!r}; take another")
    if max(found) >= model.sizes.vocabulary:
        raise ValueError(f"{word!r} has tokens {found} beyond the model's vocabulary")
    return found


# --- Algorithm 1 and its relatives --------------------------------------------------------


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


def pull_of(
    model,
    image,
    target: Target,
    tokens: Sequence[int],
    neurons: Sequence[Neuron],
    activation: str = "gated",
) -> torch.Tensor:
    """Measure each neuron's pull on one image: (n, d) float32 on the CPU; see ``pulls_of``."""
    return pulls_of(model, [image], [target], [tokens], [neurons], activation)[0]


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

    ``images[i]``, ``targets[i]``, the ``tokens[i]`` of a new word and ``neurons[i]`` belong
    together. A pull is o (v0 - v1), with o the activation at the step that predicts the
    target's token, whose row of the unembedding is v0; v1 is the row of the new word's first
    token. A word of several tokens adds a term for each: there o and the rival v0, the
    model's own choice, are read behind the tokens that go before.
    """
    every = [neuron for some in neurons for neuron in some]
    check_neurons(every, model.sizes.layers, model.sizes.units)
    prompt, first = _behind(model, images, targets, tokens)
    with capture(model, ACTIVATIONS[activation], {neuron.layer for neuron in every}) as seen:
        logits, _ = model.forward(prompt)
    wanted = torch.tensor([token for word in tokens for token in word], device=logits.device)
    rivals = logits.float().scatter(1, wanted[:, None], -torch.inf).argmax(1)
    rivals[first] = torch.tensor([target.token for target in targets], device=rivals.device)
    weight = model.unembedding[0].detach()
    apart = (weight[rivals].float() - weight[wanted].float()).cpu()  # (rows, d)
    last = (prompt.mask * torch.arange(prompt.mask.shape[1], device=prompt.mask.device)).argmax(1)
    found = []
    for start, word, some in zip(first, tokens, neurons, strict=True):
        steps = slice(start, start + len(word))
        o = torch.stack([_at(seen.values[n.layer][steps], last[steps], n.unit) for n in some])
        found.append(o @ apart[steps])
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
    concept, count = _concept(model, images, targets, word, tokens, neurons), len(images)
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
        _concept(model, [image], [target], word, None, some)
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
        _edit(
            model,
            some,
            deltas if max(lengths) > threshold else torch.zeros_like(deltas),
            lengths,
            concept,
            asdict(settings),
        )
        for some, deltas, lengths, concept in zip(neurons, moved, g, concepts, strict=True)
    ]


def _concept(model, images, targets, word, tokens, neurons: tuple[Neuron, ...]) -> Concept:
    """Check what an edit is asked for, and put it in words."""
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
        raise ValueError(
            f"{word!r} begins with the token {tokens[:1]} of {targets[0].noun!r}; the edit tells "
            "words apart by their first token: take another word"
        )
    return Concept(targets[0].noun, word.strip(), tokens, tuple(t.image for t in targets))


def _why_empty(concept: Concept, g: Sequence[float], settings: Settings) -> str:
    """Name g and beta, and the ways out."""
    shown = ", ".join(f"{value:.3g}" for value in g)
    return (
        f"turning {concept.source!r} into {concept.target!r} is worth no change: g = {shown} "
        f"(activation times distance of the unembedding's rows) against beta = {settings.beta:g}."
        f" Lower beta below {max(g):.3g}, take neurons of larger activation, or "
        "method='squared', which has no threshold; allow_empty=True lets it pass"
    )


def _edit(model, neurons, deltas, pulls, concept: Concept, settings: dict) -> Edit:
    deltas = deltas.detach().float().cpu()
    about = (model.name, model.revision, model.sizes)
    return Edit(tuple(neurons), deltas, tuple(pulls), (concept,), settings, *about)


# --- through the whole model ------------------------------------------------------------


def joint_edit(
    model,
    images: Sequence,
    targets: Sequence[Target],
    word: str,
    neurons: Sequence[Neuron],
    settings: JointSettings | None = None,
    *,
    keep: Sequence[tuple[Any, Sequence[int]]] = (),
    tokens: Sequence[int] | None = None,
    allow_empty: bool = False,
) -> Edit:
    """Find an edit by the target's likelihood through the whole model.

    Minimises -log p of the word's tokens behind each caption's prefix, over all neurons'
    dw together; the gradient reaches nothing else. Predictions to be kept: those of the
    prefixes themselves, and of the captions ``keep``, pairs of an image and caption ids;
    their divergence KL(before || after) is averaged over steps. Sees what Algorithm 1
    leaves out: the final norm, other neurons, other positions, later layers. ``EmptyEdit``
    where the target is likely enough from the start.
    """
    settings = settings or JointSettings()
    neurons = tuple(neurons)
    concept = _concept(model, images, targets, word, tokens, neurons)
    check_neurons(neurons, model.sizes.layers, model.sizes.units)
    model.require_editable()
    free = _Free(model, neurons)
    texts = [
        _Text.of(model, image, (*target.prefix, *concept.tokens), len(target.prefix))
        for image, target in zip(images, targets, strict=True)
    ]
    texts += [_Text.of(model, image, ids, len(ids)) for image, ids in keep if len(ids)]
    steps, reached = _optimise(model, free, texts, settings)
    if steps == 0 and not allow_empty:
        raise EmptyEdit(
            f"{word!r} already has the probability {reached:.3g} on every image, and stop is "
            f"{settings.stop}; raise stop, or let it pass with allow_empty=True"
        )
    found = {"method": "joint", **asdict(settings), "steps": steps, "probability": reached}
    nothing = [float("nan")] * len(neurons)
    return _edit(model, neurons, free.deltas(), nothing, concept, found)


class _Free:
    """The dw of some neurons as parameters, in units of the write vectors' entries."""

    def __init__(self, model, neurons: tuple[Neuron, ...]) -> None:
        self.model, self.neurons = model, neurons
        self.unit = float(entry_size(model, neurons).mean()) or 1.0
        self.moved = torch.zeros(len(neurons), model.sizes.width, requires_grad=True)

    def deltas(self) -> torch.Tensor:
        """Return dw (n, d)."""
        return self.moved * self.unit

    @contextmanager
    def added(self) -> Iterator[None]:
        """Let the layers write as if dw were in their weights, with a gradient to it."""
        deltas = self.deltas()
        with ExitStack() as stack:
            for layer in sorted({neuron.layer for neuron in self.neurons}):
                module = self.model.act_module(layer)
                rows = [row for row, n in enumerate(self.neurons) if n.layer == layer]
                units = [self.neurons[row].unit for row in rows]
                hook = _writer(units, deltas[rows].to(module.weight.device))
                stack.callback(module.register_forward_hook(hook).remove)
            yield

    def shorten(self, limit: float | None) -> None:
        """Cut each dw to ``limit`` times the mean write vector."""
        if limit is None:
            return
        with torch.no_grad():
            longest = limit * self.model.sizes.width**0.5
            norms = self.moved.norm(dim=1, keepdim=True)
            self.moved.mul_((longest / norms.clamp(min=1e-30)).clamp(max=1.0))


def _writer(units: list[int], deltas: torch.Tensor):
    """Make the hook that adds what the units write by their dw (k, d)."""

    def hook(_module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return output + (inputs[0][..., units].float() @ deltas).to(output)

    return hook


@dataclass(frozen=True)
class _Text:
    """A caption behind its prompt: what to keep up to ``kept`` tokens, what to reach after."""

    prompt: Any
    ids: torch.Tensor  # (tokens,)
    kept: int
    before: torch.Tensor  # log probabilities of the kept steps, (kept, V)

    @classmethod
    def of(cls, model, image, ids: Sequence[int], kept: int) -> _Text:
        """Embed a caption and look at it without any edit."""
        with torch.no_grad():
            prompt = model.prompt([image])
            if len(ids) > 1:
                prompt = prompt.extend(model.embed(torch.tensor([list(ids[:-1])])))
            text = cls(prompt, torch.tensor(list(ids)), kept, torch.empty(0))
            return replace(text, before=text.predict(model)[:kept])

    def predict(self, model) -> torch.Tensor:
        """Return the log probabilities of each token's step: (tokens, V) float32."""
        logits, _ = model.forward(self.prompt, last_only=False, last=len(self.ids))
        return logits[0].float().log_softmax(-1)

    def look(self, model) -> tuple[torch.Tensor, torch.Tensor]:
        """Return -log p of what is to be reached, and the divergence of each kept step."""
        after = self.predict(model)
        wanted = self.ids[self.kept :].to(after.device)
        reached = -after[self.kept :].gather(1, wanted[:, None]).sum()
        before = self.before.to(after.device)
        return reached, (before.exp() * (before - after[: self.kept])).sum(-1)


def _optimise(model, free: _Free, texts: list[_Text], settings: JointSettings):
    """Move dw until the target is likely; the steps taken, and the least probability reached."""
    optimiser = torch.optim.Adam([free.moved], lr=settings.lr)
    goals = sum(len(text.ids) > text.kept for text in texts)
    kept = max(sum(text.kept for text in texts), 1)
    for step in range(settings.epochs + 1):
        optimiser.zero_grad()
        worst = 0.0
        for text in texts:  # one at a time: only its own graph is in memory
            with torch.enable_grad(), free.added():
                reached, strayed = text.look(model)
                loss = reached / goals + settings.keep * strayed.sum() / kept
            loss.backward()
            worst = max(worst, float(reached.detach()))
        probability = float(torch.tensor(-worst).exp())
        if probability >= settings.stop or step == settings.epochs:
            break
        with torch.enable_grad():
            (settings.penalty * free.moved.square().mean(1).sum()).backward()
        if not torch.isfinite(free.moved.grad).all():
            raise ValueError(
                f"the gradient is not finite at step {step}; load the model in float32 or "
                "bfloat16, or lower lr"
            )
        optimiser.step()
        free.shorten(settings.limit)
    return step, probability


# --- in and out of a model ----------------------------------------------------------------


def check_fits(model, edit: Edit) -> None:
    """Raise ``ValueError`` where an edit was made on another model than this one.

    A model that bears other edits already is still the one that they were made on.
    """
    ours, theirs = model.sizes, edit.sizes
    if (ours.layers, ours.units, ours.width) != (theirs.layers, theirs.units, theirs.width):
        raise ValueError(
            f"the edit was made on {edit.model}, of {theirs.layers} layers, {theirs.units} units "
            f"and width {theirs.width}; {model.name} has {ours.layers}, {ours.units} and "
            f"{ours.width}: make it again on this model"
        )
    if edit.revision not in (model.revision, model.revision.split("+")[0]):
        raise ValueError(
            f"the edit was made on {edit.model} of revision {edit.revision}, this {model.name} "
            f"is {model.revision}: load those weights, or make the edit again"
        )


@contextmanager
def apply(
    model,
    edit: Edit,
    *,
    prompt=None,
    max_new_tokens: int = 20,
    hash_weights: bool = True,
    allow_empty: bool = False,
) -> Iterator[WeightReceipt]:
    """Edit the model while the context lasts; hands a ``WeightReceipt`` out.

    Arguments and errors as ``weights.adding``; ``ValueError`` for another model's edit.
    """
    check_fits(model, edit)
    options = {"prompt": prompt, "max_new_tokens": max_new_tokens}
    options |= {"hash_weights": hash_weights, "allow_empty": allow_empty}
    with adding(model, edit.neurons, edit.deltas, edit.identity, **options) as receipt:
        yield receipt


def install(model, edit: Edit) -> Added:
    """Edit the model for good; ``undo()`` of what is returned puts the very same bits back.

    Edits that share a neuron come off in the reverse of the order in which they went in.
    """
    check_fits(model, edit)
    return Added(model, edit.neurons, edit.deltas, edit.identity)


def combine(edits: Sequence[Edit], shared: str = "error") -> Edit:
    """Put edits of several concepts into one, for the same model.

    A neuron that two of them change is an error, as what it writes for one concept it then
    writes for the other; ``shared="sum"`` adds its deltas all the same.
    """
    if not edits or shared not in SHARED:
        raise ValueError(f"{len(edits)} edits, shared={shared!r}: give one, 'error' or 'sum'")
    first = edits[0]
    for edit in edits[1:]:
        if (edit.revision, edit.sizes) != (first.revision, first.sizes):
            raise ValueError(
                f"edits of {first.model} {first.revision} and of {edit.model} {edit.revision} "
                "cannot be combined; make them on one model"
            )
    deltas: dict[Neuron, torch.Tensor] = {}
    for edit in edits:
        for neuron, delta in zip(edit.neurons, edit.deltas, strict=True):
            if neuron in deltas and shared == "error":
                raise ValueError(
                    f"{neuron} belongs to two of the edits; leave it out of one, or add up "
                    "with shared='sum'"
                )
            deltas[neuron] = deltas.get(neuron, 0) + delta
    pulls = {n: g for edit in edits for n, g in zip(edit.neurons, edit.pulls, strict=True)}
    shares = [n for edit in edits for n in edit.neurons]
    lone = tuple(pulls[n] if shares.count(n) == 1 else float("nan") for n in deltas)
    return replace(
        first,
        neurons=tuple(deltas),
        deltas=torch.stack(list(deltas.values())),
        pulls=lone,
        concepts=tuple(concept for edit in edits for concept in edit.concepts),
        settings={"method": "combined", "edits": [dict(edit.settings) for edit in edits]},
    )


def save_edit(edit: Edit, path: str | Path) -> Path:
    """Write an edit to one safetensors file, whole or not at all; return the path.

    Tensors ``deltas`` (n, d) and ``pulls`` (n,) float32 and ``neurons`` (n, 2) int32 of
    layer and unit; all else as JSON in the file's metadata. The same edit, the same bytes.
    """
    path = Path(path)
    about = {
        "concepts": [asdict(concept) for concept in edit.concepts],
        "settings": dict(edit.settings),
        "model": edit.model,
        "revision": edit.revision,
        "sizes": asdict(edit.sizes),
    }
    tensors = {
        "deltas": edit.deltas.contiguous(),
        "neurons": torch.tensor([(n.layer, n.unit) for n in edit.neurons], dtype=torch.int32),
        "pulls": torch.tensor(edit.pulls, dtype=torch.float32),
    }
    with atomic(path) as part:
        # One entry only: the order of several would differ from run to run.
        save_file(tensors, part, {FORMAT: json.dumps(about, sort_keys=True)})
    return path


def load_edit(path: str | Path, model=None) -> Edit:
    """Read an edit; with a ``model`` it must be the one that the edit was made on.

    ``FileNotFoundError`` for no file, ``ValueError`` for one that is no edit, and for another
    model's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no edit at {path}; save_edit writes one")
    try:
        with safe_open(path, "pt") as stored:
            about = json.loads((stored.metadata() or {})[FORMAT])
            tensors = {name: stored.get_tensor(name) for name in ("deltas", "neurons", "pulls")}
        edit = _read(about, tensors)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no edit of this kind ({error!r}); save it again") from error
    if model is not None:
        check_fits(model, edit)
    return edit


def _read(about: dict, tensors: dict[str, torch.Tensor]) -> Edit:
    concepts = tuple(
        Concept(c["source"], c["target"], tuple(c["tokens"]), tuple(c["images"]))
        for c in about["concepts"]
    )
    return Edit(
        tuple(Neuron(layer, unit) for layer, unit in tensors["neurons"].tolist()),
        tensors["deltas"],
        tuple(tensors["pulls"].tolist()),
        concepts,
        about["settings"],
        about["model"],
        about["revision"],
        Sizes(**about["sizes"]),
    )
