"""What a word loses without several neurons at once: pairs of them, or whole lists.

Each set is a row of a batch. What lies below the lowest neuron of a batch is the same for all of
its rows and is computed once, and where neurons are off at the predicting step alone, so is all
that was read before it: one token goes through the layers for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mmn_utils.memory import in_batches
from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import replace as replaced
from mmn_utils.models.upper import begin_at, can_begin_at, streams_into
from mmn_utils.neurons.table import Neuron, by_layer, check_neurons
from mmn_utils.neurons.targets import Target, logit_and_probability, positions_of, teacher_forced

QUESTIONS = ("all", "image", "step")  # where neurons are off: all positions, patches, last one


@dataclass(frozen=True)
class Lost:
    """What y loses without each set: ``logit`` and ``probability`` (sets,) float32.

    ``whole`` has both of the untouched model.
    """

    logit: np.ndarray
    probability: np.ndarray
    whole: tuple[float, float]


def where(model, prompt: Prompt, positions: str) -> slice | Tensor:
    """Return the places of a teacher-forced prompt that a question is about.

    ``all``, the ``image`` tokens that are pieces of the picture, or the last one, the ``step``.
    ``ValueError`` for another question.
    """
    if positions not in QUESTIONS:
        raise ValueError(f"positions={positions!r}: give one of {', '.join(QUESTIONS)}")
    if positions == "all":
        return slice(None)
    return slice(-1, None) if positions == "step" else positions_of(model, prompt, None)


@torch.no_grad()
def lost_together(
    model,
    prompt: Prompt,
    target: Target,
    sets: Sequence[Sequence[Neuron]],
    *,
    positions: str = "all",
    batch_size: int = 32,
) -> Lost:
    """Measure what y loses when all neurons of a set are set to zero, for each of many sets.

    ``prompt`` of one picture; ``positions`` ``all``, ``image`` or ``step``. ``ValueError`` for
    several pictures, an unknown question, and neurons that the model does not have.
    """
    if len(prompt) != 1:
        raise ValueError(f"{len(prompt)} pictures at once; give the prompt of one")
    for some in sets:
        check_neurons(some, model.sizes.layers, model.sizes.units)
    forced, goal = teacher_forced(model, prompt, [target.prefix]), replace(target, prefix=())
    places = where(model, forced, positions)
    runner = _Step(model, forced) if positions == "step" else _Upper(model, forced, places)
    whole = _both(runner.whole, [goal])[:, 0]
    order = sorted(range(len(sets)), key=lambda i: min((n.layer for n in sets[i]), default=0))

    def compute(rows: Sequence[int]) -> np.ndarray:
        return whole[:, None] - _both(runner.run([sets[i] for i in rows]), [goal] * len(rows))

    lost = np.empty((2, len(sets)), np.float32)
    if order:
        lost[:, order] = np.concatenate(in_batches(compute, order, batch_size, "sets"), axis=1)
    return Lost(lost[0], lost[1], tuple(whole.tolist()))


def _both(logits: Tensor, goals: Sequence[Target]) -> np.ndarray:
    """Read logit and probability of each row: (2, rows) float32."""
    return logit_and_probability(logits, goals).cpu().numpy()


class _Upper:
    """Passes over the whole prompt that begin at the lowest layer in which their rows differ."""

    def __init__(self, model, prompt: Prompt, places: slice | Tensor) -> None:
        self.model, self.prompt, self.places = model, prompt, places
        self.streams: dict[int, Tensor] = {}
        with ExitStack() as stack:
            layers = [i for i in range(model.sizes.layers) if can_begin_at(model, i)]
            seen = {i: stack.enter_context(streams_into(model, i)) for i in layers}
            self.whole, _ = model.forward(prompt)
        self.streams = {layer: kept[-1] for layer, kept in seen.items()}

    def run(self, sets: Sequence[Sequence[Neuron]]) -> Tensor:
        """Return the logits (rows, V) without each set."""
        rows = self.prompt.repeat(len(sets))
        first = min((n.layer for some in sets for n in some), default=0)
        with ExitStack() as stack:
            stack.enter_context(replaced(self.model, _zeros(sets, self.places)))
            if first in self.streams:
                stack.enter_context(begin_at(self.model, first))
                stream = self.streams[first].expand(len(sets), -1, -1)
                rows = replace(rows, embeds=stream)
            return self.model.forward(rows)[0]


class _Step:
    """Passes of the last token alone, behind keys and values of all before it."""

    def __init__(self, model, prompt: Prompt) -> None:
        self.model, self.prompt = model, prompt
        parts = {name: getattr(prompt, name)[:, :-1] for name in ("embeds", "mask", "positions")}
        self.front = replace(prompt, **parts)
        self.past, self.rows = None, 0
        self.whole = self.run([()])

    def run(self, sets: Sequence[Sequence[Neuron]]) -> Tensor:
        """Return the logits (rows, V) without each set."""
        if self.rows != len(sets):
            _, self.past = self.model.forward(self.front, use_cache=True)
            self.past.batch_repeat_interleave(len(sets))
            self.rows = len(sets)
        last = self.prompt.tail(1).repeat(len(sets))
        with replaced(self.model, _zeros(sets, slice(None))):
            logits, _ = self.model.forward(last, past=self.past, use_cache=True)
        self.past.crop(-1)
        return logits


def _zeros(
    sets: Sequence[Sequence[Neuron]], places: slice | Tensor
) -> Mapping[int, Callable[[Tensor], Tensor]]:
    """Make the replacements that set the neurons of set i to zero in row i."""
    rows: dict[int, list[tuple[int, Tensor]]] = {}
    for row, some in enumerate(sets):
        for layer, units in by_layer(some).items():
            rows.setdefault(layer, []).append((row, units))

    def zero(cells: Sequence[tuple[int, Tensor]]) -> Callable[[Tensor], Tensor]:
        def function(activation: Tensor) -> Tensor:
            keep = activation.new_ones(len(activation), 1, activation.shape[2])
            for row, units in cells:
                keep[row, 0, units.to(keep.device)] = 0
            if isinstance(places, slice) and places == slice(None):
                return activation * keep
            changed = activation.clone()
            changed[:, places] = changed[:, places] * keep
            return changed

        return function

    return {layer: zero(cells) for layer, cells in rows.items()}
