"""Passes that begin at a layer, with what the layers below it made of the same tokens before.

Where only upper layers change, the layers below need to run once. What they hand on is the
stream, and what is read of their tokens later lies in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from mmn_utils.models.capture import has_hooks, stream_of
from mmn_utils.models.past import RoomyLayer


def can_begin_at(model, layer: int) -> bool:
    """Say whether a pass can begin at a layer: nothing but the stream comes from below it.

    Not where somebody's hook could see or change what the layers below do.
    """
    if not (model.architecture.stacked and 0 < layer < model.sizes.layers):
        return False
    below = [module for i in range(layer) for module in model.layer(i).modules()]
    return not has_hooks(below)


@contextmanager
def begin_at(model, layer: int) -> Iterator[None]:
    """Let passes begin at a layer: the embeddings given are the stream that it reads.

    The cache of such a pass holds nothing of the layers below; see ``put_below``. Enter it last,
    as others look for layers by their place.
    """
    path, _, name = model.architecture.layers.rpartition(".")
    parent = model.language_model.get_submodule(path)
    layers = getattr(parent, name)
    setattr(parent, name, layers[layer:])
    try:
        yield
    finally:
        setattr(parent, name, layers)


@contextmanager
def stand_in(
    model, layer: int, kinds: Mapping[int, Tensor | tuple], stream: Tensor
) -> Iterator[None]:
    """Let layers up to one compute nothing, and give what is read above it: ``stream`` (B, T, d).

    ``kinds`` are what each of them gave in a pass, whose form is kept. Also where layers are told
    more than the stream, as long as that is nothing that the layers below make.
    """

    def given(kind: Tensor | tuple):
        out = (stream, *kind[1:]) if isinstance(kind, tuple) else stream
        return lambda *_args, **_options: out

    with ExitStack() as stack:
        for i in range(layer + 1):
            module = model.layer(i)
            own = vars(module).get("forward")
            stack.callback(_put_back, module, own)
            module.forward = given(kinds[i])
        yield


def _put_back(module: nn.Module, own) -> None:
    """Give a module back its class's forward, or one of its own that somebody had given it."""
    del module.forward
    if own is not None:
        module.forward = own


@contextmanager
def streams_into(model, layer: int) -> Iterator[list[Tensor]]:
    """Collect the stream (B, T, d) that a layer reads in each pass."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append(stream_of(args, kwargs).detach())

    hook = model.layer(layer).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def kept_below(past, layer: int) -> list[tuple[Tensor, Tensor]] | None:
    """Return keys and values (B, heads, T, width) of the layers below; None of another cache."""
    plain = isinstance(past, DynamicCache) and len(past.layers) >= layer
    if not plain or any(type(one) not in (DynamicLayer, RoomyLayer) for one in past.layers[:layer]):
        return None
    return [(one.keys, one.values) for one in past.layers[:layer]]


def put_below(past, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Put keys and values into the layers of a cache that a pass has begun above, in place."""
    for layer, (keys, values) in zip(past.layers, pairs, strict=False):
        layer.update(keys, values)
