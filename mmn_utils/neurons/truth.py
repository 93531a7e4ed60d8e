"""What a word loses without each unit of a system alone: all of them, exactly, and fast.

Taking unit u of layer l away changes what its MLP writes by exactly -a_u(t) w_u at the positions
t, so the stream that layer l + 1 reads is known without any product: that of the untouched pass
less a_u(t) w_u (behind a norm behind the MLP, less what the norm makes of it). Everything below is
computed once. From there on:

* all positions, or those of the image: units of one layer are rows of a batch in which the layers
  up to l give what is known. Of the last layer only the last position is read, elsewhere keys and
  values alone.
* the predicting step: only the last token differs, so units are tokens side by side behind the
  prompt's keys and values (``models.abreast``).
* a unit of the last layer needs the final norm and the unembedding, at the last position.

**Operations**, a multiplication and an addition each counted. Let a layer's matrices have P
entries, of which K make keys and values, its attention a width of A, and T tokens be read; V by d
is the unembedding. A token of a layer costs 2 P, and 4 T A for attention over T tokens. Then a
unit of layer l, of L, costs at all positions

    (L - 2 - l) T (2 P + 4 T A)  +  2 (T - 1) K + (2 P + 4 T A)  +  2 V d

(the layers between; the last one; the logits), at the predicting step

    (L - 1 - l) (2 P + 4 T A)  +  2 V d

and 2 V d in the last layer. One pass over the prompt serves all. ``derived_operations`` adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mmn_utils.memory import Fit, is_out_of_memory
from mmn_utils.models.abreast import ROUNDING, Abreast, is_hooked
from mmn_utils.models.capture import after_mlps, capture, output_of, spare_last
from mmn_utils.models.capture import replace as replaced
from mmn_utils.models.prompts import Prompt
from mmn_utils.models.upper import stand_in, streams_into
from mmn_utils.neurons.targets import (
    Target,
    final_norm_reads,
    logit_and_probability,
    teacher_forced,
)
from mmn_utils.neurons.together import where

AT_ONCE = 4e6  # bytes that a CPU's caches hold of the activations of rows that run together
ABREAST = 256  # tokens side by side: more waste attention on each other, fewer waste calls


@dataclass(frozen=True)
class Losses:
    """What y loses when each unit alone is off; negative where it gains.

    ``logit`` and ``probability`` (layers, units) float32, NaN for units that were not asked for;
    ``whole`` the two of the untouched model.
    """

    logit: np.ndarray
    probability: np.ndarray
    whole: tuple[float, float]


@torch.no_grad()
def exact_losses(
    model,
    prompt: Prompt,
    target: Target,
    *,
    units: Mapping[int, Sequence[int]] | None = None,
    positions: str = "all",
    batch_size: int = 32,
) -> Losses:
    """Measure what the target's logit and probability lose when each unit alone is set to zero.

    ``prompt`` of one image, behind which the target's prefix is read; ``units`` {layer: units},
    None for all. ``positions`` where they are off: ``all``, ``image`` (the pieces of the picture)
    or ``step`` (the last position, which predicts the target). At most ``batch_size`` rows run
    together, fewer on a CPU where that is faster. ``ValueError`` for a prompt of several images,
    units that are not there, and other positions.
    """
    asked = _asked(model, units)
    if len(prompt) != 1:
        raise ValueError(f"a prompt of {len(prompt)} images: give one, prompt.select([row])")
    forced = _ended(teacher_forced(model, prompt, [target.prefix]))
    last = forced.embeds.shape[1] - 1
    places = where(model, forced, positions)
    whole = _Whole.read(model, forced, asked, places)
    found = np.full((2, model.sizes.layers, model.sizes.units), np.nan, np.float32)
    before = logit_and_probability(whole.logits[None], [target])[:, 0]
    fits = {way: Fit(size, "units") for way, size in _sizes(model, last + 1, batch_size).items()}
    for layer, some in asked.items():
        way, logits_of = _way(model, whole, layer, positions)
        compute = partial(_read, logits_of, target)
        parts = fits[way].run(compute, some)
        found[:, layer, some] = (before[:, None] - torch.cat(parts, 1)).cpu().numpy()
    return Losses(found[0], found[1], (float(before[0]), float(before[1])))


def derived_operations(
    model, tokens: int, counts: Mapping[int, int], positions: str = "all"
) -> float:
    """Add up the operations of ``exact_losses`` that the module's text derives.

    ``tokens`` of the prompt with the target's prefix, ``counts`` {layer: units taken away}; one
    pass over the prompt is among them. ``image`` costs what ``all`` does. For an architecture in
    which a pass can begin at any layer.
    """
    sizes, last = model.sizes, model.sizes.layers - 1
    costs = [_costs(model, layer) for layer in range(sizes.layers)]
    whole = [2 * every + 4 * tokens * width for every, _, width in costs]  # of a token
    read = 2 * sizes.vocabulary * sizes.width
    total = tokens * sum(whole) + read
    for layer, count in counts.items():
        above = 0.0
        if positions == "step":
            above = sum(whole[layer + 1 :])
        elif layer < last:
            above = tokens * sum(whole[layer + 1 : last]) + whole[last]
            above += 2 * (tokens - 1) * costs[last][1]
        total += count * (above + read)
    return float(total)


def _costs(model, layer: int) -> tuple[int, int, int]:
    """Count a layer's entries of matrices, those that make keys and values, attention's width."""
    parts, module = model.architecture, model.layer(layer)
    every = {name: m.weight.numel() for name, m in module.named_modules() if type(m) is nn.Linear}
    mlp, out = parts.pre.rpartition(".")[0], parts.attention_of(layer)
    spared = [name for name in every if name in (parts.query, out) or name.startswith(f"{mlp}.")]
    keys = sum(every.values()) - sum(every[name] for name in spared if mlp)
    return sum(every.values()), keys, module.get_submodule(out).in_features


def _asked(model, units: Mapping[int, Sequence[int]] | None) -> dict[int, list[int]]:
    """Return the units of each layer, each once, in order; ``ValueError`` for others."""
    sizes = model.sizes
    if units is None:
        return {layer: list(range(sizes.units)) for layer in range(sizes.layers)}
    for layer, some in units.items():
        wrong = [unit for unit in some if not 0 <= unit < sizes.units]
        if not 0 <= layer < sizes.layers or wrong:
            unit = wrong[0] if wrong else 0
            raise ValueError(
                f"L{layer}.u{unit} is not in this model: it has layers 0 to {sizes.layers - 1} "
                f"of units 0 to {sizes.units - 1}"
            )
    return {layer: sorted({*map(int, some)}) for layer, some in sorted(units.items()) if len(some)}


def _ended(prompt: Prompt) -> Prompt:
    """Cut what lies behind the last real token off, so that the last position predicts."""
    length = int(prompt.ends[0]) + 1
    parts = {name: getattr(prompt, name)[:, :length] for name in ("embeds", "mask", "positions")}
    return prompt if length == prompt.embeds.shape[1] else replace(prompt, **parts)


def _read(logits_of: Callable, target: Target, units: Sequence[int]) -> Tensor:
    """Read both off the logits without each of some units: (2, N)."""
    return logit_and_probability(logits_of(units), [target] * len(units))


def _sizes(model, tokens: int, batch_size: int) -> dict[str, int]:
    """Return how many units each way takes at once: rows by what a CPU's caches hold."""
    rows, sizes = batch_size, model.sizes
    if model.device.type == "cpu" and batch_size > 1:
        held = tokens * max(sizes.units, sizes.width) * model.dtype.itemsize
        rows = max(1, min(batch_size, int(AT_ONCE // held)))
    return {"start": rows, "rows": rows, "abreast": ABREAST, "last": ABREAST}


# --- the untouched pass -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Whole:
    """What the untouched pass made of a prompt.

    ``outputs`` are what layers gave, a tensor or a tuple, ``streams[i]`` (T, d) what layer i reads,
    and behind the last one what the final norm does; ``activations`` {layer: (P, units)} of the
    units of ``columns`` at the positions ``places``; ``written`` {layer: (P, d)} what MLPs with a
    norm behind them wrote there; ``abreast`` None where no tokens can lie side by side. Where
    somebody's hooks are at work, nothing but the logits.
    """

    prompt: Prompt
    logits: Tensor
    places: slice | Tensor
    outputs: dict[int, Tensor | tuple] = field(default_factory=dict)
    streams: list[Tensor] = field(default_factory=list)
    activations: dict[int, Tensor] = field(default_factory=dict)
    columns: dict[int, dict[int, int]] = field(default_factory=dict)
    written: dict[int, Tensor] = field(default_factory=dict)
    abreast: Abreast | None = None

    @classmethod
    def read(cls, model, prompt: Prompt, asked: Mapping[int, list[int]], places) -> _Whole:
        """Run the untouched model once, and keep what is needed of it."""
        if is_hooked(model):  # what the hooks do is asked anew of every row
            return cls(prompt, model.forward(prompt)[0][0], places)
        written, outputs, layers = {}, {}, range(model.sizes.layers)
        late = asked if model.architecture.mlp_norm else ()
        with ExitStack() as stack:
            streams = [stack.enter_context(streams_into(model, layer)) for layer in layers]
            for layer in layers:
                hook = partial(_note, outputs, layer)
                stack.callback(model.layer(layer).register_forward_hook(hook).remove)
            streams.append(stack.enter_context(final_norm_reads(model)))
            seen = stack.enter_context(capture(model, "activation", asked, places))
            keep = partial(_keep, written, places)
            stack.enter_context(after_mlps(model, keep, late))
            logits, past = model.forward(prompt, use_cache=True)
        active = {i: seen.values[i][0][:, some] for i, some in asked.items()}
        columns = {i: {unit: n for n, unit in enumerate(some)} for i, some in asked.items()}
        streams = [of_layer[-1][0] for of_layer in streams]
        abreast = Abreast.of(model, prompt, past)
        return cls(
            prompt, logits[0], places, outputs, streams, active, columns, written, abreast
        )  # fmt: skip

    def shifts(self, model, layer: int, units: Sequence[int], part=slice(None)) -> Tensor:
        """Return what the stream behind a layer changes by without each unit: (N, P, d).

        At ``part`` of the positions.
        """
        columns = [self.columns[layer][unit] for unit in units]
        activation = self.activations[layer][part, columns].T.float()
        gone = activation[:, :, None] * model.write_vectors(layer)[list(units)][:, None].float()
        adds = model.adds(layer)
        if layer in self.written:
            norm = model.layer(layer).get_submodule(model.architecture.mlp_norm)
            before = self.written[layer][part]
            change = norm((before.float() - gone).to(before)).float() - norm(before).float()
        else:
            change = -gone
        return adds.whole * adds.mlp * change


# --- the ways -----------------------------------------------------------------------------


def _way(model, whole: _Whole, layer: int, positions: str) -> tuple[str, Callable]:
    """Choose how units of a layer are taken away: its name, and units -> logits (N, V)."""
    head = model.sizes.layers - 1
    if not whole.streams or not _is_rank_one(model, whole, layer):
        return "start", partial(_from_start, model, whole, layer)
    if layer == head:
        return "last", partial(_behind_last, model, whole, layer)
    if positions == "step" and whole.abreast is not None:
        stream = whole.streams[layer + 1][-1]
        if whole.abreast.agrees(model, layer + 1, stream, whole.logits):
            return "abreast", partial(_abreast, model, whole, layer)
    return "rows", partial(_rows, model, whole, layer)


def _is_rank_one(model, whole: _Whole, layer: int) -> bool:
    """Say whether the stream behind a layer, and all above, is known without one of its units.

    Not where the second matrix is no plain one. Where more than the stream may go from layer to
    layer, or a module beside the MLP could read what it wrote, the unit that writes most is tried.
    """
    second, parts = model.act_module(layer), model.architecture
    if type(second) is not nn.Linear or not second.weight.is_floating_point():
        return False
    return (parts.stacked and not parts.also) or _agrees(model, whole, layer)


def _agrees(model, whole: _Whole, layer: int) -> bool:
    """Say whether the unit that writes most is missed the short way as it is from the start."""
    active = whole.activations[layer].float().square().sum(0)
    units = list(whole.columns[layer])
    size = model.write_vectors(layer)[units].float().square().sum(1)
    unit = [units[int((active * size).argmax())]]
    short = _behind_last if layer == model.sizes.layers - 1 else _rows
    try:
        found = short(model, whole, layer, unit)
    except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return False  # a layer above asks for what the layers below have not made
    wanted = _from_start(model, whole, layer, unit)
    apart = (found.float() - wanted.float()).abs().max()
    return bool(apart <= ROUNDING.get(model.dtype, 0) / 10 * wanted.float().abs().max())


def _note(found: dict[int, Tensor | tuple], layer: int, _module, _inputs, output) -> None:
    """Note what a layer gave."""
    found[layer] = output


def _keep(found: dict[int, Tensor], places, layer: int, written: Tensor) -> None:
    """Keep what an MLP of the one row wrote at the positions."""
    found[layer] = written[0, places]


def _from_start(model, whole: _Whole, layer: int, units: Sequence[int]) -> Tensor:
    """Set each unit to zero in a row of its own, from the first layer on."""

    def silence(activation: Tensor) -> Tensor:
        activation = activation.clone()
        for row, unit in enumerate(units):
            activation[row, whole.places, unit] = 0
        return activation

    with replaced(model, {layer: silence}):
        return model.forward(whole.prompt.repeat(len(units)))[0]


def _rows(model, whole: _Whole, layer: int, units: Sequence[int]) -> Tensor:
    """Take each unit out of a row of its own of the stream that the layer gives."""
    stream = output_of(whole.outputs[layer]).expand(len(units), -1, -1).clone()
    stream[:, whole.places] += whole.shifts(model, layer, units).to(stream)
    with (
        spare_last(model, stream.shape[1] - 1, image_too=True),
        stand_in(model, layer, whole.outputs, stream),
    ):
        return model.forward(whole.prompt.repeat(len(units)))[0]


def _abreast(model, whole: _Whole, layer: int, units: Sequence[int]) -> Tensor:
    """Take each unit out of a variant of the last token, all behind the same tokens."""
    stream = whole.streams[layer + 1][-1]
    variants = stream + whole.shifts(model, layer, units)[:, 0].to(stream)
    return whole.abreast.logits(model, layer + 1, variants)


def _behind_last(model, whole: _Whole, layer: int, units: Sequence[int]) -> Tensor:
    """Take units of the last layer away from what the final norm reads at the last position."""
    places = torch.arange(len(whole.streams[-1]), device=whole.logits.device)[whole.places]
    stream = whole.streams[-1][-1].expand(len(units), -1)
    if bool(places[-1] == len(whole.streams[-1]) - 1):
        stream = stream + whole.shifts(model, layer, units, slice(-1, None))[:, 0].to(stream)
    return model.read_out(model.final_norm(stream))
