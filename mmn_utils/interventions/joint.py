"""An edit found through the whole model, by the likelihood of the new word.

Sees what Algorithm 1 leaves out: the final norm, other neurons, other positions, later layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from mmn_utils.interventions.concept import concept_of
from mmn_utils.interventions.edit import Edit, EmptyEdit, edit_on
from mmn_utils.interventions.weights import entry_size
from mmn_utils.neurons.table import Neuron, check_neurons
from mmn_utils.neurons.targets import Target


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
    concept = concept_of(model, images, targets, word, tokens, neurons)
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
    return edit_on(model, neurons, free.deltas(), nothing, concept, found)


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
