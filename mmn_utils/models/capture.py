"""Read and replace what flows through the MLPs, by hooks that always come off.

Three places: ``"pre"``, the pre-activation Z (the output of a layer's ``pre_module``);
``"activation"`` (the input of its ``act_module``, what the write vectors are weighted
by); ``"gate"``, the gate activation of a gated MLP (the output of its ``gate_module``).
Hooks run in the order in which their context managers were entered, so a
``capture`` inside a ``replace`` of the same place sees the replaced values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

PLACES = ("activation", "pre", "gate")
_Change = Callable[[Tensor], Tensor | None]


@dataclass
class Captured:
    """``values[layer]`` is (B, T, units) of the latest forward pass, or its ``positions``."""

    what: str
    values: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def capture(
    model,
    what: str = "activation",
    layers: Iterable[int] | None = None,
    positions: slice | Sequence[int] | Tensor | None = None,
    *,
    grad: bool = False,
) -> Iterator[Captured]:
    """Record activations or pre-activations of ``layers`` (None: all) in each forward pass.

    Values are detached, and cut to ``positions`` (a slice or indices into the tokens of
    that pass). With ``grad`` they are the tensors in the graph, and require gradients
    although the weights are frozen; then no ``positions``: cut the gradient instead.
    """
    if grad and positions is not None:
        raise ValueError("a part of a tensor is not in the graph; give positions or grad, not both")
    if not isinstance(positions, (slice, Tensor, type(None))):
        positions = list(positions)
    seen = Captured(what)

    def reader(layer: int) -> _Change:
        def read(value: Tensor) -> None:
            if grad:
                # The first one becomes a leaf: nothing before it has a gradient.
                seen.values[layer] = value if value.requires_grad else value.requires_grad_(True)
            else:
                seen.values[layer] = (value if positions is None else value[:, positions]).detach()

        return read

    layers = range(model.sizes.layers) if layers is None else sorted(set(layers))
    with _hooks(model, what, {layer: reader(layer) for layer in layers}):
        yield seen


@contextmanager
def after_mlps(
    model, function: Callable[[int, Tensor], None], layers: Iterable[int] | None = None
) -> Iterator[None]:
    """Call ``function`` with a layer and what its MLP's second matrix wrote (B, T, d)."""

    def hook(layer: int):
        return lambda _module, _inputs, written: function(layer, written.detach())

    with ExitStack() as stack:
        for layer in range(model.sizes.layers) if layers is None else sorted(set(layers)):
            stack.callback(model.act_module(layer).register_forward_hook(hook(layer)).remove)
        yield


@contextmanager
def mlp_scales(model, layers: Iterable[int] | None = None) -> Iterator[dict[int, Tensor]]:
    """Record what the norms behind the MLPs divide tokens by in each pass: {layer: (B, T)}.

    Empty where no norm stands behind the MLPs.
    """
    seen: dict[int, Tensor] = {}

    def read(layer: int, written: Tensor) -> None:
        seen[layer] = model.mlp_scale(layer, written)

    with after_mlps(model, read, () if model.architecture.mlp_norm is None else layers):
        yield seen


def stream_of(args: tuple, kwargs: Mapping) -> Tensor:
    """Return the stream among what a layer is called with."""
    return args[0] if args else kwargs["hidden_states"]


def output_of(output: Tensor | tuple) -> Tensor:
    """Return what a module writes, of all that it returns."""
    return output[0] if isinstance(output, tuple) else output


class _Reached(Exception):
    """The layer was read after which a pass has nothing more to tell."""


@contextmanager
def stop_after(model, layer: int, what: str = "activation") -> Iterator[None]:
    """End the forward pass, and this context, once a layer's place has been read.

    Enter it after the ``capture`` that reads, which so keeps the same values and spares
    all that follows them.
    """

    def stop(_value: Tensor) -> None:
        raise _Reached

    with suppress(_Reached), _hooks(model, what, {layer: stop}):
        yield


@contextmanager
def spare_last(
    model, first_read: int, *, besides: Collection[int] = (), image_too: bool = False
) -> Iterator[None]:
    """Leave out what the last layer computes at positions where nothing can read it.

    For a pass over a whole prompt of which nothing is read before position ``first_read``.
    If that lies behind the image, the last MLP, and attention's queries and output map, begin
    behind it: their outputs are there what they always are, and zero before; what a ``capture``
    entered inside sees of the last layer begins behind the image. Otherwise, or where its MLP
    is no module of its own, or somebody's hook could see it, on the layer, on what follows, or
    on what it lies in, everything is computed. ``besides`` are ids of hooks that take any
    number of positions, and of which nothing is asked at the image either. With ``image_too``
    they begin at ``first_read`` itself, wherever the image lies.
    """
    layer = model.layer(model.sizes.layers - 1)
    end = model.image_tokens.start + model.image_tokens.count
    end = first_read if image_too else end
    parts = model.architecture
    path = parts.pre.rpartition(".")[0]
    if not path or first_read < end or _is_watched(model, set(besides)):
        yield
        return

    def cut(_module: nn.Module, inputs: tuple) -> tuple:
        return (inputs[0][:, end:], *inputs[1:])

    def pad(_module: nn.Module, _inputs: tuple, output: Tensor | tuple):
        if isinstance(output, tuple):  # experts may tell of their routes too
            return (nn.functional.pad(output[0], (0, 0, end, 0)), *output[1:])
        return nn.functional.pad(output, (0, 0, end, 0))

    with ExitStack() as stack:
        for name in (path, *((parts.query, parts.attention) if parts.query else ())):
            module = layer.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(cut).remove)
            stack.callback(module.register_forward_hook(pad).remove)
        if parts.attend:
            stack.enter_context(_fewer_queries(layer, parts.attend, end))
        yield


@contextmanager
def _fewer_queries(layer: nn.Module, path: str, start: int) -> Iterator[None]:
    """Let a method ``(query, key, value, mask)`` attend from position ``start`` on, zero before."""
    owner, name = layer.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
    attend, own = getattr(owner, name), vars(owner).get(name)

    def attend_from(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None):
        rows = None if mask is None else mask[..., start:, :]
        mixed, weights = attend(query[:, :, start:], key, value, rows)
        return nn.functional.pad(mixed, (0, 0, start, 0)), weights

    setattr(owner, name, attend_from)
    try:
        yield
    finally:
        delattr(owner, name) if own is None else setattr(owner, name, own)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _is_watched(model, besides: set[int]) -> bool:
    """Say whether a hook other than those can see what the last layer computes at the image.

    One on any module of that layer, of what is behind it, or of what they are parts of.
    """
    parts = model.architecture
    ends = [f"{parts.layers}.{model.sizes.layers - 1}", parts.norm, parts.unembed]
    return has_hooks(around(model.language_model, ends), besides)


def around(root: nn.Module, paths: Iterable[str]) -> Iterator[nn.Module]:
    """Give the modules at paths, all in them, and those that they lie in, ``root`` first."""
    for path in paths:
        names = path.split(".")
        yield from (root.get_submodule(".".join(names[:depth])) for depth in range(len(names)))
        yield from root.get_submodule(path).modules()


def has_hooks(modules: Iterable[nn.Module], besides: Collection[int] = ()) -> bool:
    """Say whether a hook is on one of the modules, or on all there are anywhere.

    ``besides`` are ids of hooks that do not count.
    """
    own = {hook for module in modules for kind in HOOKS for hook in getattr(module, kind)}
    everywhere = (vars(global_hooks).get(f"_global{kind}", ()) for kind in HOOKS)
    return bool(own.difference(besides)) or any(everywhere)


@contextmanager
def replace(
    model, fn_by_layer: Mapping[int, Callable[[Tensor], Tensor]], what: str = "activation"
) -> Iterator[None]:
    """Let ``fn_by_layer[layer]`` replace the activation (B, T, units), or Z, in each pass.

    A function gets the tensor and returns one of the same shape; it must not change its
    argument in place. T is 1 in steps that follow a cache. ``ValueError`` for another
    shape, raised in the forward pass.
    """

    def changer(layer: int, function: Callable[[Tensor], Tensor]) -> _Change:
        def change(value: Tensor) -> Tensor:
            new = function(value)
            if not isinstance(new, Tensor) or new.shape != value.shape:
                got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
                raise ValueError(
                    f"the function for layer {layer} gave {got}; give {tuple(value.shape)}"
                )
            return new.to(value)

        return change

    changes = {layer: changer(layer, function) for layer, function in fn_by_layer.items()}
    with _hooks(model, what, changes):
        yield


@contextmanager
def _hooks(model, what: str, changes: Mapping[int, _Change]) -> Iterator[None]:
    """Hang one function on each layer's place; take all off again whatever happens."""
    if what not in PLACES:
        raise ValueError(f"what={what!r}: give one of {', '.join(map(repr, PLACES))}")
    with ExitStack() as stack:
        for layer, change in changes.items():
            handle = _hang(model, what, layer, change)
            stack.callback(handle.remove)
        yield


def _hang(model, what: str, layer: int, change: _Change):
    """Hang a function on one place; what it returns, unless None, takes the value's place."""
    if what != "activation":
        module = model.pre_module(layer) if what == "pre" else model.gate_module(layer)
        return module.register_forward_hook(lambda _module, _inputs, output: change(output))

    def before(_module: nn.Module, inputs: tuple) -> tuple | None:
        new = change(inputs[0])
        return None if new is None else (new, *inputs[1:])

    return model.act_module(layer).register_forward_pre_hook(before)
