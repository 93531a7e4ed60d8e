"""What was found, judged by its sums: one pass of the model's own forward.

The parts must account for everything that enters the residual stream and the logits; what is
left over is refused by name. What is only passed on must be the same to the bit. Each layer is
run beside the pass on a copy in float32, whatever the model's type, so that no factor hides
in rounding; memory is that of one layer. How a layer adds up, ``adding`` finds out; what the
logits make of the unembedding is asked with numbers of all sizes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import Cache

from mmn_utils.models.architectures import Adds, Architecture, Scales
from mmn_utils.models.auto.adding import Layer, Parts, add_up, nearest, numbers
from mmn_utils.models.auto.modules import Unsupported, one_or_each
from mmn_utils.models.capture import output_of, stream_of
from mmn_utils.models.copies import precise_copy

SCALES = (  # of a configuration, to name what changes a sum
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
    "residual_multiplier",
    "embedding_multiplier",
)
_LARGE = 1e4  # of the numbers that the logits are asked with: far beyond any cap
_EPS = torch.finfo(torch.float32).eps


@dataclass
class Pass:
    """One own forward over one picture.

    ``positions``: those of all tokens as the decoder gets them, or None. ``layers``: how each
    adds up. ``flow``: path to what a module reads and gives at the last token, (d) each.
    ``places``: what tables of the decoder, as of learned positions, give the last token.
    ``beside``: as ``flow``, of what else the decoder has, beside its layers.
    """

    positions: Tensor | None = None
    layers: list[Layer] = field(default_factory=list)
    flow: Parts = field(default_factory=dict)
    places: list[Tensor] = field(default_factory=list)
    beside: Parts = field(default_factory=dict)

    def giver(self, model: nn.Module, read: Tensor) -> str:
        """Name what beside the layers gives just what is read (d), if something does."""
        path = next((p for p, (_, given) in self.beside.items() if torch.equal(given, read)), None)
        return f" ({path}, a {type(model.get_submodule(path)).__name__}, gives it)" if path else ""


@torch.no_grad()
def observe(model: nn.Module, found: Architecture, inputs: Mapping) -> tuple[Architecture, Pass]:
    """Run the model's own forward and judge it part by part.

    Returns the architecture with the norms and factors that were found, and the pass.
    ``Unsupported`` for what does not add up. ``inputs`` has ``input_ids``.
    """
    seen, decoder = Pass(), model.get_submodule(found.layers.rpartition(".")[0])
    layers = model.get_submodule(found.layers)

    def on_decoder(_module, _args, kwargs) -> None:
        seen.positions = kwargs.get("position_ids")

    def on_layer(layer: nn.Module, args, kwargs) -> None:
        index = len(seen.layers)
        paths, where = (found.attention_of(index), found.act), f"{found.layers}.{index}"
        try:
            seen.layers.append(_examine(layer, paths, where, args, kwargs))
        except Unsupported as error:
            raise Unsupported(f"{type(model).__name__}: {error}{_suspects(model)}") from error

    def on_table(_module, _args, output: Tensor) -> None:
        seen.places.append(output[0, -1].clone())

    probe = _Probe()
    with ExitStack() as stack:
        for table in decoder.children():
            if isinstance(table, nn.Embedding) and table is not model.get_input_embeddings():
                stack.callback(table.register_forward_hook(on_table).remove)
        for module, hook in [(decoder, on_decoder), *((layer, on_layer) for layer in layers)]:
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        paths = [f"{found.layers}.{index}" for index in range(len(layers))]
        for path in [*paths, found.norm]:
            stack.enter_context(_noted(model, path, seen.flow, _last))
        for path in _beside(model, found):
            stack.enter_context(_noted(model, path, seen.beside, _last))
        stack.enter_context(probe.put(model.get_submodule(found.unembed)))
        logits = model(**accepted(model.forward, inputs), logits_to_keep=1).logits
    token = model.get_input_embeddings()(inputs["input_ids"][:1, -1])[0]
    found = _alike(model, found, seen)
    scales = Scales(_begin(model, found, seen, token), found.scales.layers)
    _passed_on(model, found, seen, probe)
    scales = _read_out(model, found, scales, probe, logits)
    return replace(found, scales=scales, positions=_placed(seen, found, token)), seen


def _beside(model: nn.Module, found: Architecture) -> Iterator[str]:
    """Go through the modules of the decoder, and of lists in it, beside its layers."""
    decoder = found.layers.rpartition(".")[0]
    for name, part in model.get_submodule(decoder).named_children():
        path = f"{decoder}.{name}".strip(".")
        if path not in (found.layers, found.norm):
            yield from [f"{path}.{i}" for i in range(len(part))] if _is_list(part) else [path]


def _is_list(part: nn.Module) -> bool:
    return isinstance(part, nn.ModuleList)


def _examine(layer: nn.Module, paths: tuple[str, str], where: str, args, kwargs) -> Layer:
    """Run one layer in float32, or finer, on what it is about to read, and add it up."""
    stream = stream_of(args, kwargs)
    if stream.ndim != 3:
        raise Unsupported(
            f"{where} reads {tuple(stream.shape)}, several streams at once, so nothing is "
            "written to one residual stream"
        )
    # weights that are not in memory come as the layer runs, in their own type
    away = any(parameter.is_meta for parameter in layer.parameters())
    dtype = stream.dtype if away else torch.promote_types(stream.dtype, torch.float32)
    module = layer if away else precise_copy(layer, dtype)
    args, kwargs = _precise(args, dtype), _precise(kwargs, dtype)
    parts: Parts = {}
    with ExitStack() as stack:
        for name, _ in list(module.named_modules())[1:]:
            stack.enter_context(_noted(module, name, parts))
        out = output_of(module.forward(*args, **kwargs))
    return add_up(layer, paths, where, parts, stream.to(dtype), out)


def _precise(value, dtype: torch.dtype):
    """Put all floating point tensors of a layer's arguments into a type; leave caches out."""
    if isinstance(value, Tensor):
        return value.to(dtype, copy=True) if value.is_floating_point() else value
    if isinstance(value, Cache):
        return None
    if isinstance(value, (tuple, list)):
        return type(value)(_precise(item, dtype) for item in value)
    if isinstance(value, Mapping):
        return {key: _precise(item, dtype) for key, item in value.items()}
    return value


@contextmanager
def _noted(root: nn.Module, path: str, flow: Parts, at: Callable = Tensor.clone) -> Iterator[None]:
    """Note what a module reads and gives, (1, T, d) each or what ``at`` takes of it."""

    def hook(_module, args, kwargs, output) -> None:
        read = args[0] if args else kwargs.get("hidden_states")
        given = output_of(output)
        if all(isinstance(value, Tensor) and value.ndim == 3 for value in (read, given)):
            flow[path] = at(read), at(given)

    handle = root.get_submodule(path).register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _last(value: Tensor) -> Tensor:
    return value[0, -1].clone()


def accepted(function, inputs: Mapping) -> dict:
    """Keep the inputs that a function takes by name; labels would only cost a loss."""
    names = set(inspect.signature(function).parameters) - {"labels"}
    return {name: value for name, value in inputs.items() if name in names}


# --- judged -----------------------------------------------------------------------------


def _alike(model: nn.Module, found: Architecture, seen: Pass) -> Architecture:
    """Put into the architecture what all layers have alike, and each one's factors."""
    first = seen.layers[0]
    units = [
        layer.get_submodule(found.act).weight.shape for layer in model.get_submodule(found.layers)
    ]
    for index, layer in enumerate(seen.layers):
        here = (layer.mlp_norm, layer.also, units[index])
        if here != (first.mlp_norm, first.also, units[0]):
            raise Unsupported(
                f"{found.layers}.{index} of {type(model).__name__} is not like {found.layers}.0 "
                f"({here} against {(first.mlp_norm, first.also, units[0])}); all layers must be "
                "alike"
            )
    adds = tuple(layer.adds for layer in seen.layers)
    plain = all(one == replace(Adds(), also=(1.0,) * len(first.also)) for one in adds)
    return replace(
        found,
        attention=one_or_each([layer.attention for layer in seen.layers]),
        mlp_norm=first.mlp_norm,
        also=first.also,
        scales=Scales(layers=() if plain and not first.also else adds),
    )


def _placed(seen: Pass, found: Architecture, token: Tensor) -> bool:
    """Say whether a table of the decoder, as of learned positions, adds to the embedding (d)."""
    read = seen.flow[f"{found.layers}.0"][0]
    places = (place for place in seen.places if place.shape == token.shape)
    return any(torch.equal(read, token + place) for place in places)


def _begin(model: nn.Module, found: Architecture, seen: Pass, token: Tensor) -> float:
    """Find what the embedding (d) of the last token is multiplied with before the first layer."""
    read = seen.flow[f"{found.layers}.0"][0]
    if torch.equal(read, token) or _placed(seen, found, token):
        return 1.0
    eps = torch.finfo(read.dtype).eps
    read, token = read.double(), token.double()
    factor = float(read @ token / (token @ token))
    decoder = model.get_submodule(found.layers.rpartition(".")[0])
    factor = nearest(factor, numbers(decoder), eps)
    if not bool(((read - factor * token).abs() <= eps * read.abs()).all()):
        kind = type(model).__name__
        raise Unsupported(
            f"{kind} changes its embeddings before {found.layers}.0"
            f"{seen.giver(model, seen.flow[f'{found.layers}.0'][0])}{_suspects(model)}"
        )
    return factor


def _passed_on(model: nn.Module, found: Architecture, seen: Pass, probe: _Probe) -> None:
    """Check that between layers, final norm and unembedding nothing changes the stream."""
    kind, flow = type(model).__name__, seen.flow
    paths = [f"{found.layers}.{index}" for index in range(len(seen.layers))] + [found.norm]
    for before, after in pairwise(paths):
        if not torch.equal(flow[before][1], flow[after][0]):
            raise Unsupported(
                f"{kind} changes the stream between {before} and {after}"
                f"{seen.giver(model, flow[after][0])}"
            )
    if not torch.equal(flow[found.norm][1], probe.read):
        raise Unsupported(f"{kind} has more than {found.norm} before {found.unembed}")


class _Probe:
    """Numbers of all sizes in the unembedding's place, to see what becomes of them.

    ``given`` (V) float32; ``read`` (d) is what the unembedding read at the last token.
    """

    given: Tensor
    read: Tensor

    @contextmanager
    def put(self, unembed: nn.Module) -> Iterator[None]:
        """Let the unembedding give these numbers at every token."""

        def hook(_module, args, output: Tensor) -> Tensor:
            self.read = _last(args[0])
            count = output.shape[-1]
            sizes = torch.logspace(math.log10(_LARGE), -2, count, device=output.device)
            sizes[::2] *= -1
            sizes[0], sizes[1] = _LARGE, 1.0
            self.given = sizes
            return sizes.repeat(*output.shape[:-1], 1)  # a model may write into it

        handle = unembed.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def _read_out(model, found: Architecture, scales: Scales, probe: _Probe, logits: Tensor) -> Scales:
    """Find the factor and the soft cap by which the probe's numbers become logits (1, T, V)."""
    given = probe.given.double()
    became = logits[0, -1].double()
    if became.shape == given.shape:
        factor, cap = float(became[1]), float(became[0].abs())
        if _close(became, factor * given):
            return replace(scales, logits=nearest(factor, [1.0], 2 * _EPS))
        if abs(factor) < cap:
            factor = nearest(cap * math.atanh(factor / cap), [1.0], 1e-6)
            if _close(became, cap * torch.tanh(factor * given / cap)):
                return replace(scales, logits=factor, cap=cap)
    kind = type(model).__name__
    same = int((became == given).sum()) if became.shape == given.shape else 0
    never = int((became <= torch.finfo(logits.dtype).min / 2).sum())
    said = f", {never} become the least number there is" if never else ""
    raise Unsupported(
        f"{kind} changes its logits after {found.unembed} in a way that is no factor and no soft "
        f"cap ({same} of {len(given)} stay as they are{said}){_suspects(model)}"
    )


def _close(became: Tensor, expected: Tensor) -> bool:
    return bool(((became - expected).abs() <= 1e-5 * expected.abs()).all())


def _suspects(model: nn.Module) -> str:
    """Name what in a configuration scales or caps."""
    config = model.config.get_text_config()
    values = {name: getattr(config, name, None) for name in SCALES}
    said = [f"{name} = {value}" for name, value in values.items() if value not in (None, 1, 1.0)]
    return f" ({', '.join(said)})" if said else ""
