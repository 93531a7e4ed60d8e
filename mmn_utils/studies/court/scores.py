"""The scores on trial: for one picture and noun, a number for each unit of the model.

Some look at the image patches (paper A), some at the step that predicts the noun (paper B),
whatever is asked; the others at the positions at which the units are then switched off. A score
may claim more than an order: a sign, or the very number of logits that its unit is worth.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import capture
from mmn_utils.neurons.attribution import attribution_layers_field
from mmn_utils.neurons.contribution import contribution_layers_field
from mmn_utils.neurons.effects import path_field
from mmn_utils.neurons.gradients import activation_gradient, activation_patching
from mmn_utils.neurons.targets import Target, at_steps, positions_of, teacher_forced
from mmn_utils.neurons.together import QUESTIONS, where
from mmn_utils.studies.agreement import other_images

STEPS = (5, 20, 50)  # of integrated gradients
EXACT = "exact"  # the order by what the probability truly loses, the bound of every curve
EXACT_LOGIT = "exact_logit"  # the order by the logit, by which scores are judged
RANDOM = "random"
GRADIENT, PATH = "gradient", "integrated"


@dataclass(frozen=True, eq=False)
class Case:
    """A picture and its noun as scores see them.

    ``prompt`` (one row) ends where the noun is predicted, so ``target`` has no prefix left;
    ``mean`` and ``other`` are the same words behind the run's mean picture, and behind another
    picture of the run.
    """

    prompt: Prompt
    target: Target
    mean: Prompt
    other: Prompt


def cases(model, prompts: Prompt, targets: Sequence[Target], seed: int = 0) -> list[Case]:
    """Make a case of each picture (a row of ``prompts``) and its target.

    The other picture is the next one on a random cycle. ``ValueError`` unless there are as many
    targets, and ``TooFew`` for fewer than two pictures.
    """
    if len(prompts) != len(targets):
        raise ValueError(f"{len(prompts)} prompts for {len(targets)} targets; give one each")
    partner = other_images(len(targets), np.random.default_rng(seed))
    mean = prompts.select([0])
    extras = {name: _mean(part) for name, part in prompts.extras.items()}
    mean = replace(mean, embeds=_mean(prompts.embeds), extras=extras, names=())
    found = []
    for row, target in enumerate(targets):
        three = (prompts.select([row]), mean, prompts.select([int(partner[row])]))
        forced = (teacher_forced(model, one, [target.prefix]) for one in three)
        prompt, average, other = forced
        found.append(Case(prompt, replace(target, prefix=()), average, other))
    return found


def _mean(values: Tensor) -> Tensor:
    """Average over rows (B, ...) to (1, ...); what is no floating point number is the first's."""
    if not values.is_floating_point():
        return values[:1]
    return values.float().mean(0, keepdim=True).to(values)


# Takes a model, a case and a question; gives (layers, units) float32.
Compute = Callable[..., Tensor]


@dataclass(frozen=True)
class Score:
    """A score on trial.

    ``signed``: a value below zero says that the unit holds the noun back. ``effect``: its
    value is so many logits, what y is said to lose. ``asks``: it depends on the question.
    """

    compute: Compute
    signed: bool = True
    effect: bool = False
    asks: bool = False


def scores(model, seed: int = 0, steps: Sequence[int] | None = None) -> dict[str, Score]:
    """List the scores on trial by name; those of the gate alone where the MLPs have one.

    Integrated gradients once for each of ``steps``, None for ``STEPS``. ``ValueError`` for a number
    of steps below 1.
    """
    if steps is not None and (not steps or min(steps) < 1):
        raise ValueError(f"steps = {list(steps)}: give numbers of steps, 1 or more")
    found = {
        "attribution_max": Score(partial(_attribution, pool="max"), signed=False),
        "attribution_sum": Score(partial(_attribution, pool="sum"), effect=True),
        GRADIENT: Score(_gradient, effect=True, asks=True),
    }
    for count in steps or STEPS:
        found[f"{PATH}_{count}"] = Score(partial(_path, steps=count), effect=True, asks=True)
    for name in ("mean", "other"):
        found[f"patching_{name}"] = Score(partial(_patching, other=name), effect=True, asks=True)
    gated = model.architecture.gate is not None
    for reading in ("gated", "gate") if gated else ("gated",):
        for norm in ("none", "final"):
            compute = partial(_contribution, activation=reading, contribution_norm=norm)
            effect = norm == "final" and reading == "gated"
            found[f"contribution_{reading}_{norm}"] = Score(compute, effect=effect)
    found["activation_patches"] = Score(_at_patches, signed=False)
    found["activation_step"] = Score(_at_step, signed=False)
    found[RANDOM] = Score(partial(_random, seed=seed), signed=False, asks=True)
    return found


def compute_all(
    model,
    case: Case,
    questions: Sequence[str] = QUESTIONS,
    seed: int = 0,
    steps: Sequence[int] | None = None,
) -> dict[tuple[str, str], np.ndarray]:
    """Compute each score of a case for each question: {(question, score): (layers, units)}.

    What does not depend on the question is computed once. ``ValueError`` naming the score
    where one is not finite.
    """
    found: dict[tuple[str, str], np.ndarray] = {}
    for name, score in scores(model, seed, steps).items():
        same = None
        for question in questions:
            if same is None or score.asks:
                same = score.compute(model, case, question).float().cpu().numpy()
                if not np.isfinite(same).all():
                    raise ValueError(
                        f"{name} of {case.target.noun!r} on {case.target.image!r} is not finite; "
                        "load the model in float32 or bfloat16 and check the picture"
                    )
            found[question, name] = same
    return found


def _stacked(field: Mapping[int, Tensor]) -> Tensor:
    """Stack the layers of a field of one row, {layer: (1, ..., units)}: (layers, ..., units)."""
    return torch.stack([field[layer][0] for layer in sorted(field)]).float()


def _attribution(model, case: Case, _question: str, *, pool: str) -> Tensor:
    field = _stacked(attribution_layers_field(model, case.prompt, [case.target]))
    return field.amax(1) if pool == "max" else field.sum(1)


def _gradient(model, case: Case, question: str) -> Tensor:
    places = where(model, case.prompt, question)
    return activation_gradient(model, case.prompt, case.target, positions=places)


def _path(model, case: Case, question: str, *, steps: int) -> Tensor:
    places = where(model, case.prompt, question)
    field = path_field(model, case.prompt, [case.target], steps=steps, positions=places)
    return _stacked(field).sum(1)


def _patching(model, case: Case, question: str, *, other: str) -> Tensor:
    places = where(model, case.prompt, question)
    instead = getattr(case, other)
    return activation_patching(model, case.prompt, instead, case.target, positions=places)


def _contribution(model, case: Case, _question: str, **options: str) -> Tensor:
    return _stacked(contribution_layers_field(model, case.prompt, [case.target], **options))


@torch.no_grad()
def _at_patches(model, case: Case, _question: str) -> Tensor:
    with capture(model, positions=positions_of(model, case.prompt, None)) as seen:
        model.forward(case.prompt)
    return _stacked(seen.values).amax(1)


def _at_step(model, case: Case, _question: str) -> Tensor:
    field: dict[int, Tensor] = {}
    at_steps(model, case.prompt, [case.target], field.__setitem__)
    return _stacked(field)


def _random(model, case: Case, question: str, *, seed: int) -> Tensor:
    """Draw numbers that depend on the seed, the picture, the noun and the question alone."""
    name = f"{case.target.image}/{case.target.noun}/{question}"
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return torch.from_numpy(rng.random((model.sizes.layers, model.sizes.units), np.float32))
