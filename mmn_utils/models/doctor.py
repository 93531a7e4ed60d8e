"""The doctor: six checks that every adapter must pass, each with its worst deviation.

==================  =================================================================
own forward         the adapter's logits are those of transformers' own forward, at
                    the last token and with the cache
completeness        embeddings + attention + every unit's activation times its write
                    vector + biases, each as it reaches the stream, and what of the picture
                    enters between layers, through final norm, unembedding, scale and cap,
                    are the logits
ablate nothing      a replacement that changes nothing changes nothing, one by zeros
                    leaves the bias of the second matrix, and Z = 0 is activation = 0,
                    each to the bit or, where sums are added up otherwise, to rounding
finite differences  sums of Z times gradient are the slopes of a logit; a model that
                    rounds its activations has none
batch = single      a row's logits do not depend on its neighbours, nor on padding
no trace            hooks come off, also after an error; weights stay frozen, modules
                    in evaluation mode, logits the same to the bit
==================  =================================================================

Deviations are relative to the largest reference value, except where the note says
otherwise. Completeness and finite differences are taken in float64 where a copy of the
language model is cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from mmn_utils.models.base import Prompt, VisionLanguageModel
from mmn_utils.models.capture import (
    after_mlps,
    capture,
    mlp_scales,
    output_of,
    replace,
    stream_of,
)
from mmn_utils.models.copies import precise_copy

CHEAP = 300_000_000  # parameters up to which a copy in float64 is made
_ROUNDING = {  # deviations that the order of summation may cause
    torch.float64: 1e-5,  # parts of the language models compute in float32 even then
    torch.float32: 1e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
# Of finite differences, as fractions of Z. A wide one, as LLaMA's norms round to float32 whatever
# the model's type; narrower ones for kinked activations, of which a wide one passes many kinks.
_STEPS = (0.04, 0.004, 0.0004)
_QUANTISED = 0.05  # most that rounding what a matrix reads changes, relative
_DIRECTIONS = 3
_SEED = 0


@dataclass(frozen=True, eq=False)
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

    @cached_property
    def rounded(self) -> str:
        """Say that the second matrices round what they read, and how much; empty if they do not."""
        apart = _rounds(self.precise)
        if not _ROUNDING[self.precise.dtype] < apart < _QUANTISED:
            return ""
        return f"the MLPs' second matrices round what they read (off by {apart:.1%})"


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
    reference = model.language_model(
        inputs_embeds=longer.embeds, use_cache=False, **longer.extras
    ).logits
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
def completeness(patient: _Patient) -> tuple[float | None, float, str]:
    """Rebuild the logits of every token from what each part writes."""
    model = patient.precise
    prompt = model.prompt(patient.images[:1])
    layers = range(model.sizes.layers)
    rounded = patient.rounded
    if rounded:
        return None, 0.0, f"{rounded}, so units' shares sum up to that rounding only"
    with (
        _outputs(model.attention_module, layers) as attended,
        _others(model, layers) as others,
        _between(model) as between,
        mlp_scales(model) as scales,
        capture(model) as seen,
    ):
        logits, _ = model.forward(prompt, last_only=False)
    own = model.architecture.scales.embeddings * prompt.embeds
    image = slice(model.image_tokens.start, model.image_tokens.start + model.image_tokens.count)
    if model.architecture.positions:
        own = between[0]
    own[:, image] = between[0][:, image]  # features of the picture may be added there too
    stream = model.carried(0) * own
    for layer in layers:
        if layer and layer in between:  # features of the picture, added behind a layer
            stream[:, image] += model.carried(layer) * between[layer][:, image]
        units = seen.values[layer] @ model.written_vectors(layer) + _reached_bias(model, layer)
        units = units / scales[layer][..., None] if layer in scales else units
        stream += units + model.always_added(layer)
        adds = model.adds(layer)
        beside = zip((adds.attention, *adds.also), (attended, *others), strict=True)
        stream += model.carried(layer) * sum(factor * part[layer] for factor, part in beside)
    rebuilt = model.read_out(model.final_norm(stream))
    tolerance = 1e-6 if model.dtype == torch.float64 else patient.rounding
    return _deviation(rebuilt, logits), tolerance, f"every token of one picture, {model.dtype}"


@torch.no_grad()
def ablate_nothing(patient: _Patient) -> tuple[float, float, str]:
    """Replace every activation and every Z by itself, then by zero."""
    model, prompt = patient.model, patient.prompt
    layers = range(model.sizes.layers)
    same, zero = dict.fromkeys(layers, torch.clone), dict.fromkeys(layers, torch.zeros_like)
    with _sizes(model) as (active, written):
        before, _ = model.forward(prompt)
    with replace(model, same), replace(model, same, "pre"):
        after, _ = model.forward(prompt)
    with _outputs(model.act_module, layers) as left, replace(model, zero):
        model.forward(prompt)
    apart = [_deviation(after, before)]
    for layer in layers:
        rest = left[layer] - _bias(model.act_module(layer))
        apart.append(_largest(rest) / written[layer])
    apart += [_largest(rest) / active[layer] for layer, rest in _left_by_zero_z(patient)]
    note = "bit for bit" if max(apart) == 0 else "not bit for bit, but within rounding"
    worst = max(apart, key=lambda value: value if value == value else float("inf"))
    return worst, patient.rounding, note if worst <= patient.rounding else ""


@contextmanager
def _sizes(model) -> Iterator[tuple[dict[int, float], dict[int, float]]]:
    """Note the largest activation of each layer, and the largest entry that its MLP writes."""
    active, written = {}, {}

    def note(layer: int, activation: Tensor) -> Tensor:
        active[layer] = _largest(activation) or 1.0
        return activation

    def note_written(layer: int, output: Tensor) -> None:
        written[layer] = _largest(output) or 1.0

    functions = {layer: partial(note, layer) for layer in range(model.sizes.layers)}
    with replace(model, functions), after_mlps(model, note_written):
        yield active, written


def _left_by_zero_z(patient: _Patient) -> Iterator[tuple[int, Tensor]]:
    """Set Z to zero in some layers and yield them with their activations: zero, if all is well.

    In one pass for each binary digit of the layers' numbers from 1, so that a Z which
    belongs to another layer's activation cannot hide.
    """
    model = patient.model
    for digit in range(model.sizes.layers.bit_length()):
        chosen = [layer for layer in range(model.sizes.layers) if (layer + 1) >> digit & 1]
        zero = dict.fromkeys(chosen, torch.zeros_like)
        with capture(model, layers=chosen) as silent, replace(model, zero, "pre"):
            model.forward(patient.prompt)
        yield from silent.values.items()


def finite_differences(patient: _Patient) -> tuple[float | None, float, str]:
    """Compare sums of Z times gradient, under random signs, with slopes of the top logit.

    Along Z (1 + t s), s random signs of all tokens and units, the slope at t = 0 is the
    sum of s Z dy/dZ. Deviations are relative to the root of the summed squares.
    """
    model = patient.precise
    if patient.rounded:
        return None, 0.0, f"{patient.rounded}: a staircase has no slopes"
    if torch.finfo(model.dtype).bits < 32:
        return None, 0.0, f"{model.dtype} is too coarse for slopes; load the model in float32"
    prompt = model.prompt(patient.images[:1])
    with torch.enable_grad(), capture(model, "pre", grad=True) as seen:
        logits, _ = model.forward(prompt)
        token = int(logits[0].argmax())
        z = [seen.values[layer] for layer in range(model.sizes.layers)]
        gradients = torch.autograd.grad(logits[0, token], z)
    generator = torch.Generator().manual_seed(_SEED)
    worst, tolerance = 0.0, 1e-3 if model.dtype == torch.float64 else 2e-2
    for layer, (value, gradient) in enumerate(zip(z, gradients, strict=True)):
        scores = (value.detach() * gradient)[0]
        signs = torch.randint(0, 2, (_DIRECTIONS, *scores.shape), generator=generator) * 2.0 - 1
        signs = signs.to(scores)
        expected = (signs * scores).sum((1, 2))
        scale = scores.square().sum().sqrt()
        best = math.inf
        for step in _STEPS:  # the narrower ones only where a kink lies within the wide one
            slopes = _slopes(model, prompt, layer, token, signs, step)
            best = min(best, float((slopes - expected).abs().max() / scale))
            if best <= tolerance:
                break
        worst = max(worst, best)
    return worst, tolerance, f"{_DIRECTIONS} directions in each layer, {model.dtype}"


@torch.no_grad()
def _slopes(model, prompt: Prompt, layer: int, token: int, signs: Tensor, step: float) -> Tensor:
    """Differentiate a logit along each of ``signs`` (N, T, units): (N), error O(step^6)."""
    steps = torch.tensor([1, -1, 2, -2, 3, -3], device=signs.device, dtype=signs.dtype) * step
    scale = 1 + (signs[:, None] * steps[:, None, None]).flatten(0, 1)
    with replace(model, {layer: lambda z: z * scale}, "pre"):
        logits, _ = model.forward(prompt.repeat(len(scale)))
    ahead, behind = logits[:, token].view(-1, 3, 2).unbind(-1)
    return (ahead - behind) @ logits.new_tensor([45, -9, 1]) / (60 * step)


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


@contextmanager
def _others(model, layers: Iterable[int]) -> Iterator[list[dict[int, Tensor]]]:
    """Record the outputs of what else layers add, beside attention and MLP."""
    with ExitStack() as stack:
        places = range(len(model.architecture.also))
        yield [
            stack.enter_context(_outputs(lambda layer, i=i: model.also_modules(layer)[i], layers))
            for i in places
        ]


@contextmanager
def _between(model) -> Iterator[dict[int, Tensor]]:
    """Record what enters the stream between a layer and the one before: {layer: (B, T, d)}.

    Of the first layer all that it reads.
    """
    between: dict[int, Tensor] = {}
    last: list[Tensor] = []

    def reads(layer: int):
        def hook(_module, args, kwargs) -> None:
            stream = stream_of(args, kwargs)
            if layer == 0:
                between[0] = stream
            elif last and stream.shape == last[-1].shape:
                between[layer] = stream - last[-1]

        return hook

    def gives(_module, _args, output) -> None:
        last[:] = [output_of(output)]

    with ExitStack() as stack:
        for index in range(model.sizes.layers):
            layer = model.layer(index)
            before = layer.register_forward_pre_hook(reads(index), with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(layer.register_forward_hook(gives).remove)
        yield between


def _reached_bias(model, layer: int) -> Tensor | float:
    """Return what the bias of an MLP's second matrix adds, but for the scale of a norm behind."""
    bias = getattr(model.act_module(layer), "bias", None)
    return 0.0 if bias is None else model.reached(layer, bias[None])[0]


def _bias(module: torch.nn.Module) -> Tensor | float:
    bias = getattr(module, "bias", None)
    return 0.0 if bias is None else bias


def _deviation(value: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest reference; infinite where a value is not a number."""
    difference = (value.double() - reference.double()).abs().max()
    worst = float(difference / reference.double().abs().max())
    return worst if worst == worst else float("inf")


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


@torch.no_grad()
def _rounds(model) -> float:
    """Measure how far the MLPs' second matrices are from their weight times what they read.

    Relative, the worst layer's; what quantises its input is as far from it as it rounds. Asked
    with numbers of normal distribution.
    """
    generator, worst = torch.Generator().manual_seed(_SEED), 0.0
    for layer in range(model.sizes.layers):
        module = model.act_module(layer)
        if not module.weight.is_floating_point() or module.weight.is_meta:
            continue
        module = precise_copy(module, module.weight.dtype)  # nobody's hooks on it
        read = torch.randn(1, 4, model.sizes.units, generator=generator).to(module.weight)
        linear = torch.nn.functional.linear(read, module.weight, getattr(module, "bias", None))
        worst = max(worst, float((module(read) - linear).norm() / linear.norm()))
    return worst


def _count_hooks(model: VisionLanguageModel) -> int:
    """Count hooks of every kind on every module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    parts = chain.from_iterable(part.modules() for part in model.modules())
    return sum(len(getattr(module, kind, ())) for module in parts for kind in kinds)
