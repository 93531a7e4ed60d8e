"""Variants of one prompt, each run from where it first differs from the whole model.

Below the lowest layer in which a variant differs it is what the whole model is, so one pass of
one row, the trunk, answers for all of them. A variant that first differs in the MLP of layer l
starts with the stream that l reads. There, too, attention and all up to the activation are one
row still: rows part at the activation, where the second matrix is multiplied, and the stream
that the layer adds to it is shared by broadcasting. In the last layer nothing is computed where
nobody reads it (``spare_last``).

In layers of a pass over the prompt, with u the share of the second matrix in a layer (an eighth
in GPT-J, a quarter in LLaMA, less where the prompt is long), a variant of layer l therefore
costs L - 2 - l + u and the keys and values of the last; one of the last layer next to nothing.
Keys and values are laid out for all rows once, in the room where the caption's follow. Where no
caption follows, and what rows differ by behind a layer is known, they begin above it
(``begun_above``).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from mmn_utils.models.capture import has_hooks, spare_last
from mmn_utils.models.past import ROOM, RoomyLayer
from mmn_utils.models.prompts import Prompt
from mmn_utils.models.upper import begin_at, stand_in, streams_into

FAST = 2**25  # bytes; the allocator maps larger tensors anew each time, page by page


@dataclass(frozen=True, eq=False)
class Trunk:
    """The whole model's pass over a prompt of one row: what rows that branch off begin with.

    ``streams`` (1, T, d) are what layers read; ``logits`` (1, V) behind the prompt; ``past``
    is its cache, ``plain`` where that holds nothing but keys and values of all tokens.
    """

    prompt: Prompt
    streams: Mapping[int, Tensor]
    logits: Tensor
    past: DynamicCache

    @property
    def plain(self) -> bool:
        """Whether rows with a cache can branch off."""
        past = self.past
        return isinstance(past, DynamicCache) and all(type(o) is RoomyLayer for o in past.layers)


@dataclass(frozen=True, eq=False)
class Branch:
    """Rows that parted in one layer: their ``logits`` (rows, V), and a cache from there on."""

    layer: int
    logits: Tensor
    past: DynamicCache


def can_branch(model, prompt: Prompt) -> bool:
    """Say whether variants of a prompt can branch off one pass over it.

    Not where layers are told more than the stream, where the prompt has gaps or further inputs,
    or where somebody's hook on the language model would see other batches than it was told of.
    """
    if not model.architecture.stacked or len(prompt) != 1 or prompt.extras:
        return False
    if prompt.embeds.shape[1] != prompt.mask.shape[1] or bool((prompt.mask == 0).any()):
        return False
    return not has_hooks(model.language_model.modules())


def trunk_of(model, prompt: Prompt, layers: Collection[int]) -> Trunk:
    """Run the whole model on a prompt, and keep what ``layers`` read."""
    with ExitStack() as stack:
        stack.enter_context(spare_last(model, prompt.embeds.shape[1] - 1))
        seen = {layer: stack.enter_context(streams_into(model, layer)) for layer in layers}
        logits, past = model.forward(prompt, use_cache=True)
    return Trunk(prompt, {layer: found[-1] for layer, found in seen.items()}, logits, past)


def rows_at_once(model, tokens: int) -> int:
    """Say how many rows of so many tokens go fastest in one batch."""
    if model.device.type != "cpu":
        return 2**20
    return max(1, FAST // (tokens * model.sizes.units * model.dtype.itemsize))


@contextmanager
def parting(model, layer: int, rows: int) -> Iterator[None]:
    """Let the one row of a pass become several at a layer's activation (1, T, units)."""

    def part(_module: nn.Module, inputs: tuple) -> tuple:
        return (inputs[0].expand(rows, -1, -1), *inputs[1:])

    hook = model.act_module(layer).register_forward_pre_hook(part)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def begun_above(
    model, layer: int, kinds: Mapping[int, Tensor | tuple], stream: Tensor
) -> Iterator[None]:
    """Begin passes above a layer, for rows whose ``stream`` (B, T, d) behind it is known.

    Of such a pass the logits behind the last token are good. ``kinds`` as ``upper.stand_in``.
    """
    with (
        spare_last(model, stream.shape[1] - 1, image_too=True),  # it looks for hooks: none of ours
        stand_in(model, layer, kinds, stream),
    ):
        yield


def run_branch(model, trunk: Trunk, layer: int) -> Branch:
    """Run rows that part in a layer: ``parting`` and what makes them differ are in place."""
    with begin_at(model, layer):
        streams = replace(trunk.prompt, embeds=trunk.streams[layer])
        logits, past = model.forward(streams, use_cache=True, last_only=False, last=1)
    return Branch(layer, logits[:, 0], past)


def past_of_all(trunk: Trunk, branches: Sequence[Branch], whole: int) -> DynamicCache:
    """Lay keys and values out for ``whole`` rows of the trunk, then those of branches in turn.

    What branches hold is given up on the way, so that it is in memory once.
    """
    past, layers = copy.copy(trunk.past), []
    for layer in range(len(past.layers)):
        layers.append(_layer_of_all(trunk, branches, whole, layer))
        for branch in branches:
            branch.past.layers[layer] = None
    past.layers = layers
    return past


def _layer_of_all(trunk: Trunk, branches: Sequence[Branch], whole: int, layer: int) -> RoomyLayer:
    own = trunk.past.layers[layer]
    counts = [whole, *(len(branch.logits) for branch in branches)]
    parts = [own]
    for branch in branches:  # keys and values of the layer where rows part are the trunk's still
        parts.append(own if layer <= branch.layer else branch.past.layers[layer])
    return RoomyLayer.of(
        [(part.keys, part.values) for part in parts], counts, own.keys.shape[-2] + ROOM
    )
