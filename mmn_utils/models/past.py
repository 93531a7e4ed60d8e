"""Keys and values of the tokens that a model has read, with room for those that follow.

transformers' plain cache copies the whole of itself for each token that it takes in.
Behind a picture of 196 tokens that is a good part of a caption's time. Here a token is
written beside those that are there, wherever nobody else could be looking.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, LinearAttentionLayer

ROOM = 24  # tokens at a time: a caption of the papers fits


class RoomyLayer(DynamicLayer):
    """One layer's keys and values (B, heads, T, width), the front of larger tensors of its own.

    While gradients are recorded it behaves as its parent: nothing in a graph is written over.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.__dict__.update(layer.__dict__)
        self._held: tuple[Tensor, ...] = ()

    @classmethod
    def of(
        cls, parts: Sequence[tuple[Tensor, Tensor]], counts: Sequence[int], length: int
    ) -> RoomyLayer:
        """Lay keys and values of several parts out in one, with room for ``length`` tokens.

        ``counts`` rows of each part (rows or 1, heads, T, width), whose one row may stand for all.
        """
        layer, first = cls(DynamicLayer()), parts[0][0]
        layer.lazy_initialization(first, first)
        held = []
        for tensors in zip(*parts, strict=True):
            shape = sum(counts), tensors[0].shape[1], length, tensors[0].shape[-1]
            held.append(tensors[0].new_empty(shape))
            begin = 0
            for tensor, count in zip(tensors, counts, strict=True):
                held[-1][begin : begin + count, :, : tensor.shape[-2]] = tensor
                begin += count
        layer._held = tuple(held)
        layer.keys, layer.values = (whole[..., : first.shape[-2], :] for whole in held)
        return layer

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


class StateLayer(LinearAttentionLayer):
    """States (B, ...) of a layer that mixes tokens by a recurrence or a short convolution.

    They hold all that was read in one, so tokens cannot be cut off one by one: the states before
    the last step are kept too, and ``crop`` takes back that step, whole. A step begins with its
    convolution. Nothing is written in place, so copies can go on each by itself.
    """

    def __init__(self, number_of_states: int = 1) -> None:
        super().__init__(number_of_states)
        self.record_past = True  # a model then hands over every step, and writes into no state
        self.before: tuple[int, dict] | None = None  # tokens of the last step, states before it

    def __copy__(self) -> StateLayer:
        """Share tensors, not the places where they are noted."""
        other = StateLayer(self.number_of_states)
        other.__dict__.update(self.__dict__, **self._noted())
        return other

    def _noted(self) -> dict:
        return {name: dict(value) for name, value in vars(self).items() if isinstance(value, dict)}

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **_
    ) -> Tensor:
        """Take in what a convolution reads (B, C, T); returns it behind what it needs before."""
        if state_idx == 0:
            self.before = conv_states.shape[-1], self._noted()
        self.dtype, self.device = conv_states.dtype, conv_states.device
        size = conv_kernel_size or self.conv_kernel_size[state_idx] or conv_states.shape[-1]
        held = self.conv_states[state_idx] if self.has_previous_state[state_idx] else None
        if held is None:
            held = conv_states.new_zeros(*conv_states.shape[:-1], size)
        whole = torch.cat([held, conv_states], dim=-1)
        self.conv_states[state_idx], self.conv_kernel_size[state_idx] = whole[..., -size:], size
        self.is_conv_states_initialized[state_idx] = self.has_previous_state[state_idx] = True
        return whole

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **_) -> Tensor:
        """Take the state (B, ...) behind the tokens that were read last."""
        self.recurrent_states[state_idx] = recurrent_states
        self.is_recurrent_states_initialized[state_idx] = True
        return recurrent_states

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last step; ``ValueError`` for another number of tokens than it had."""
        last = None if self.before is None else self.before[0]
        if last != -tokens_to_remove:
            raise ValueError(
                f"{-tokens_to_remove} tokens cannot be cut off a recurrent state, which knows only "
                f"the one before its last step of {last}; read the prompt again"
            )
        self.__dict__.update({name: dict(states) for name, states in self.before[1].items()})
        self.before = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._map(lambda state: state.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._map(lambda state: state[indices])

    def _map(self, function: Callable[[Tensor], Tensor]) -> None:
        self.before = None
        for states in (self.conv_states, self.recurrent_states):
            states.update({i: function(state) for i, state in states.items() if state is not None})


def with_states(config, layers: Container[int]) -> DynamicCache:
    """Make a cache that can be cut and branched, where some layers mix tokens by a recurrence.

    ``config`` is the text part's; the other layers hold keys and values of all tokens.
    """
    past = DynamicCache()
    count = config.num_hidden_layers
    states = getattr(config, "number_of_conv_states", 1)
    past.layers = [StateLayer(states) if i in layers else DynamicLayer() for i in range(count)]
    return past
