"""Keys and values of the tokens that a model has read, with room for those that follow.

transformers' plain cache copies the whole of itself for each token that it takes in.
Behind a picture of 196 tokens that is a good part of a caption's time. Here a token is
written beside those that are there, wherever nobody else could be looking.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 24  # tokens at a time: a caption of the papers fits


class RoomyLayer(DynamicLayer):
    """One layer's keys and values (B, heads, T, width), the front of larger tensors of its own.

    While gradients are recorded it behaves as its parent: nothing in a graph is written over.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.__dict__.update(layer.__dict__)
        self._held: tuple[Tensor, ...] = ()

    def __copy__(self) -> RoomyLayer:
        """Share what was read, never the room behind it."""
        return RoomyLayer(self)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Take tokens in; returns all keys and all values."""
        if torch.is_grad_enabled() or not self.is_initialized:
            self._held = ()
            return super().update(key_states, value_states, *args, **kwargs)
        old, new = (self.keys, self.values), (key_states, value_states)
        begin = old[0].shape[-2]
        end = begin + new[0].shape[-2]
        if not (self._held and all(map(_is_front, old, self._held)) and end <= self._room()):
            self._held = tuple(_with_room(tensor, end + ROOM) for tensor in old)
        for held, tokens in zip(self._held, new, strict=True):
            held[..., begin:end, :] = tokens
        self.keys, self.values = (held[..., :end, :] for held in self._held)
        return self.keys, self.values

    def _room(self) -> int:
        """Count the tokens that there is room for in all."""
        return self._held[0].shape[-2]


def _is_front(part: Tensor, whole: Tensor) -> bool:
    """Say whether a tensor still is the front of another: not selected from, nor repeated."""
    return part.data_ptr() == whole.data_ptr() and part.shape[0] == whole.shape[0]


def _with_room(tensor: Tensor, length: int) -> Tensor:
    """Copy (B, heads, T, width) to the front of a new tensor (B, heads, ``length``, width)."""
    held = tensor.new_empty(*tensor.shape[:-2], length, tensor.shape[-1])
    held[..., : tensor.shape[-2], :] = tensor
    return held


def roomy(past):
    """Give room to the plain layers of a cache, in place; others, as windows, stay as they are."""
    if isinstance(past, DynamicCache):
        past.layers = [
            RoomyLayer(layer) if type(layer) is DynamicLayer else layer for layer in past.layers
        ]
    return past


class StillLayer(DynamicLayer):
    """Keys and values of a picture, which cross-attention reads: no token is added or cut off."""

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.__dict__.update(layer.__dict__)

    def crop(self, *_args, **_kwargs) -> None:
        """Keep the picture, whatever tokens go."""


def hold_still(past, layers: Iterable[int]) -> None:
    """Let some layers of a cache keep what they hold when tokens are cut off, in place."""
    for layer in layers:
        if not isinstance(past.layers[layer], StillLayer):
            past.layers[layer] = StillLayer(past.layers[layer])
