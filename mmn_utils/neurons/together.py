"""What a word loses without several neurons at once: pairs of them, or whole lists.

Each set begins where it first differs from the whole model, or from another set (``without``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from mmn_utils.models.prompts import Prompt
from mmn_utils.neurons.table import Neuron, by_layer, check_neurons
from mmn_utils.neurons.targets import Target, logit_and_probability, positions_of, teacher_forced
from mmn_utils.neurons.without import Part, Without

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
    forced = ended(teacher_forced(model, prompt, [target.prefix]))
    parts, asked = [_parts(some) for some in sets], dict(_parts(chain.from_iterable(sets)))
    without = Without.of(model, forced, asked, where(model, forced, positions), batch_size)
    read = partial(both, target)
    whole = read(without.logits)
    lost = (whole - without.together(parts, read)).cpu().numpy()
    return Lost(lost[0], lost[1], (float(whole[0]), float(whole[1])))


def _parts(some: Iterable[Neuron]) -> list[Part]:
    """Group neurons by layer, each once, both in order."""
    return [(layer, tuple(sorted(units.tolist()))) for layer, units in by_layer(some).items()]


def both(target: Target, logits: Tensor) -> Tensor:
    """Read a target's logit and probability off the logits of rows: (2, N)."""
    return logit_and_probability(logits, [target] * len(logits))


def ended(prompt: Prompt) -> Prompt:
    """Cut what lies behind the last real token off, so that the last position predicts."""
    length = int(prompt.ends[0]) + 1
    parts = {name: getattr(prompt, name)[:, :length] for name in ("embeds", "mask", "positions")}
    return prompt if length == prompt.embeds.shape[1] else replace(prompt, **parts)
