"""The doctor: six checks that every adapter must pass, each with its worst deviation.

==================  =================================================================
own forward         the adapter's logits are those of transformers' own forward, at
                    the last token and with the cache
completeness        embeddings + attention + every unit's activation times its write
                    vector + biases, through final norm and unembedding, are the logits
ablate nothing      a replacement that changes nothing changes no bit, one by zeros
                    leaves the bias of the second matrix, and Z = 0 is activation = 0
finite differences  sums of Z times gradient are the slopes of a logit
batch = single      a row's logits do not depend on its neighbours, nor on padding
no trace            hooks come off, also after an error; weights stay frozen, modules
                    in evaluation mode, logits the same to the bit
==================  =================================================================

Deviations are relative to the largest reference value, except where the note says
otherwise. Completeness and finite differences are taken in float64 where a copy of the
language model is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from mmn_utils.models.base import Prompt, VisionLanguageModel
from mmn_utils.models.capture import capture, replace

CHEAP = 300_000_000  # parameters up to which a copy in float64 is made
_ROUNDING = {  # deviations that the order of summation may cause
    torch.float64: 1e-5,  # parts of the language models compute in float32 even then
    torch.float32: 1e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
_STEP = 0.04  # of finite differences, as a fraction of Z
_DIRECTIONS = 3
_SEED = 0


@dataclass(frozen=True)
class _Patient:
    """A system under examination: two prompts or more, and a precise copy of the system."""

    model: VisionLanguageModel
    precise: VisionLanguageModel
    images: Sequence[Image.Image]
    prompt: Prompt

    @property
    def rounding(self) -> float:
        """Deviation that the order of summation may cause in the model's own type."""
        return _ROUNDING[self.model.dtype]


def doctor(
    model: VisionLanguageModel,
    images: Sequence[Image.Image],
    checks: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Examine a system on two pictures or more (four are used at most); one row per check.

    ``checks`` None runs all of ``CHECKS``. Columns check, passed (nullable boolean: NA where
    the type is too coarse to tell), worst, tolerance, note. A check that raises has failed,
    and its note says how.
    """
    if len(images) < 2:
        raise ValueError(f"{len(images)} pictures: the doctor needs two to compare a batch")
    checks = list(CHECKS if checks is None else checks)
    if not set(checks) <= set(CHECKS):
        raise ValueError(f"checks = {checks}: choose from {', '.join(CHECKS)}")
    images = list(images[:4])
    small = sum(p.numel() for p in model.language_model.parameters()) <= CHEAP
    precise = model.twin(torch.float64) if small else model
    patient = _Patient(model, precise, images, model.prompt(images))
    rows = [_examine(name, CHECKS[name], patient) for name in checks]
    return pd.DataFrame(rows).astype({"passed": "boolean"})


def _examine(name: str, check: Callable, patient: _Patient) -> dict:
    """Run one check; a broken adapter may break it in any way, which is a finding."""
    try:
        worst, tolerance, note = check(patient)
    except Exception as error:
        worst, tolerance, note = float("inf"), 0.0, f"{type(error).__name__}: {error}"
    passed = pd.NA if worst is None else worst <= tolerance
    worst = float("nan") if worst is None else float(worst)
    return {"check": name, "passed": passed, "worst": worst, "tolerance": tolerance, "note": note}


# --- the checks: worst deviation (None: not testable), tolerance, note -------------------


@torch.no_grad()
def own_forward(patient: _Patient) -> tuple[float, float, str]:
    """Compare with the language model called as transformers documents it."""
    model, prompt = patient.model, patient.prompt
    ids = model.forward(prompt)[0].argmax(-1, keepdim=True)
    longer = prompt.extend(model.embed(ids))
    reference = model.language_model(inputs_embeds=longer.embeds, use_cache=False).logits
    reference = reference[..., : model.sizes.vocabulary]
    first, past = model.forward(prompt, use_cache=True)
    second, _ = model.forward(longer.tail(1), past=past)
    every, _ = model.forward(longer, last_only=False)
    worst = max(
        _deviation(every, reference),
        _deviation(first, reference[:, -2]),
        _deviation(second, reference[:, -1]),
    )
    return worst, patient.rounding, "all tokens, the last one alone, the next one with the cache"


@torch.no_grad()
def completeness(patient: _Patient) -> tuple[float, float, str]:
    """Rebuild the logits of every token from what each part writes."""
    model = patient.precise
    prompt = model.prompt(patient.images[:1])
    layers = range(model.sizes.layers)
    with _outputs(model.attention_module, layers) as attended, capture(model) as seen:
        logits, _ = model.forward(prompt, last_only=False)
    stream = prompt.embeds.clone()
    for layer in layers:
        units = seen.values[layer] @ model.write_vectors(layer)
        stream += attended[layer] + units + _bias(model.act_module(layer))
    rebuilt = torch.nn.functional.linear(model.final_norm(stream), *model.unembedding)
    tolerance = 1e-6 if model.dtype == torch.float64 else patient.rounding
    return _deviation(rebuilt, logits), tolerance, f"every token of one picture, {model.dtype}"


@torch.no_grad()
def ablate_nothing(patient: _Patient) -> tuple[float, float, str]:
    """Replace every activation and every Z by itself, then by zero."""
    model, prompt = patient.model, patient.prompt
    layers = range(model.sizes.layers)
    before, _ = model.forward(prompt)
    same, zero = dict.fromkeys(layers, torch.clone), dict.fromkeys(layers, torch.zeros_like)
    with replace(model, same), replace(model, same, "pre"):
        after, _ = model.forward(prompt)
    with _outputs(model.act_module, layers) as written, replace(model, zero):
        model.forward(prompt)
    left = [after - before, *_left_by_zero_z(patient)]
    left += [written[layer] - _bias(model.act_module(layer)) for layer in layers]
    worst = max(float(rest.abs().max()) for rest in left)
    return worst, 0.0, "absolute; the tolerance is zero"


def _left_by_zero_z(patient: _Patient) -> Iterator[Tensor]:
    """Set Z to zero in some layers and yield their activations, which must then be zero.

    In one pass for each binary digit of the layers' numbers from 1, so that a Z which
    belongs to another layer's activation cannot hide.
    """
    model = patient.model
    for digit in range(model.sizes.layers.bit_length()):
        chosen = [layer for layer in range(model.sizes.layers) if (layer + 1) >> digit & 1]
        zero = dict.fromkeys(chosen, torch.zeros_like)
        with capture(model, layers=chosen) as silent, replace(model, zero, "pre"):
            model.forward(patient.prompt)
        yield from silent.values.values()


def finite_differences(patient: _Patient) -> tuple[float | None, float, str]:
    """Compare sums of Z times gradient, under random signs, with slopes of the top logit.

    Along Z (1 + t s), s random signs of all tokens and units, the slope at t = 0 is the
    sum of s Z dy/dZ. Deviations are relative to the root of the summed squares.
    """
    model = patient.precise
    if torch.finfo(model.dtype).bits < 32:
        return None, 0.0, f"{model.dtype} is too coarse for slopes; load the model in float32"
    prompt = model.prompt(patient.images[:1])
    with torch.enable_grad(), capture(model, "pre", grad=True) as seen:
        logits, _ = model.forward(prompt)
        token = int(logits[0].argmax())
        z = [seen.values[layer] for layer in range(model.sizes.layers)]
        gradients = torch.autograd.grad(logits[0, token], z)
    generator = torch.Generator().manual_seed(_SEED)
    worst = 0.0
    for layer, (value, gradient) in enumerate(zip(z, gradients, strict=True)):
        scores = (value.detach() * gradient)[0]
        signs = torch.randint(0, 2, (_DIRECTIONS, *scores.shape), generator=generator) * 2.0 - 1
        signs = signs.to(scores)
        slopes = _slopes(model, prompt, layer, token, signs)
        expected = (signs * scores).sum((1, 2))
        scale = scores.square().sum().sqrt()
        worst = max(worst, float((slopes - expected).abs().max() / scale))
    tolerance = 1e-3 if model.dtype == torch.float64 else 2e-2
    return worst, tolerance, f"{_DIRECTIONS} directions in each layer, {model.dtype}"


@torch.no_grad()
def _slopes(model, prompt: Prompt, layer: int, token: int, signs: Tensor) -> Tensor:
    """Differentiate a logit along each of ``signs`` (N, T, units): (N), error O(step^6).

    The step is wide, as LLaMA's norms round to float32 whatever the model's type.
    """
    steps = torch.tensor([1, -1, 2, -2, 3, -3], device=signs.device, dtype=signs.dtype) * _STEP
    scale = 1 + (signs[:, None] * steps[:, None, None]).flatten(0, 1)
    with replace(model, {layer: lambda z: z * scale}, "pre"):
        logits, _ = model.forward(prompt.repeat(len(scale)))
    ahead, behind = logits[:, token].view(-1, 3, 2).unbind(-1)
    return (ahead - behind) @ logits.new_tensor([45, -9, 1]) / (60 * _STEP)


@torch.no_grad()
def batch_is_single(patient: _Patient) -> tuple[float, float, str]:
    """Compare rows of a batch with the same pictures alone, also beside a longer row."""
    model, batch = patient.model, patient.prompt
    together, _ = model.forward(batch)
    alone = torch.cat([model.forward(model.prompt([image]))[0] for image in patient.images])
    worst = _deviation(together, alone)
    more = model.embed(together.argmax(-1, keepdim=True))
    mask = torch.ones(len(batch), 1, dtype=torch.long)
    mask[0] = 0
    padded, _ = model.forward(batch.extend(more, mask))
    longer, _ = model.forward(batch.select([1]).extend(more[1:2]))
    worst = max(worst, _deviation(padded[:1], alone[:1]), _deviation(padded[1:2], longer))
    note = f"{len(batch)} pictures, equal and unequal lengths, {model.dtype}"
    return worst, patient.rounding, note


@torch.no_grad()
def no_trace(patient: _Patient) -> tuple[float, float, str]:
    """Hook everything, fail in the middle of it, and look what is left."""
    model, prompt = patient.model, patient.prompt
    hooks = _count_hooks(model)
    before, _ = model.forward(prompt)
    zero = dict.fromkeys(range(model.sizes.layers), torch.zeros_like)
    try:
        with capture(model, "pre", grad=True), replace(model, zero), capture(model):
            model.forward(prompt)
            raise _Interruption
    except _Interruption:
        pass
    after, _ = model.forward(prompt)
    left = abs(_count_hooks(model) - hooks)
    awake = sum(module.training for part in model.modules() for module in part.modules())
    moving = sum(p.requires_grad for part in model.modules() for p in part.parameters())
    changed = int((before != after).sum())
    note = f"{left} hooks, {awake} modules in training, {moving} weights unfrozen, {changed} logits"
    return float(left + awake + moving + changed), 0.0, note


class _Interruption(Exception):
    """Raised on purpose."""


CHECKS = {
    "own forward": own_forward,
    "completeness": completeness,
    "ablate nothing": ablate_nothing,
    "finite differences": finite_differences,
    "batch = single": batch_is_single,
    "no trace": no_trace,
}


@contextmanager
def _outputs(module_of: Callable, layers: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """Record the output of one module of each layer."""
    store: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:

            def keep(_module, _inputs, output: Tensor, layer: int = layer) -> None:
                store[layer] = output.detach()

            stack.callback(module_of(layer).register_forward_hook(keep).remove)
        yield store


def _bias(module: torch.nn.Module) -> Tensor | float:
    bias = getattr(module, "bias", None)
    return 0.0 if bias is None else bias


def _deviation(value: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest reference; infinite where a value is not a number."""
    difference = (value.double() - reference.double()).abs().max()
    worst = float(difference / reference.double().abs().max())
    return worst if worst == worst else float("inf")


def _count_hooks(model: VisionLanguageModel) -> int:
    """Count hooks of every kind on every module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    parts = chain.from_iterable(part.modules() for part in model.modules())
    return sum(len(getattr(module, kind, ())) for module in parts for kind in kinds)
