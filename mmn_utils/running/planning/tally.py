"""What a piece of work takes, counted while it runs: memory, operations, bytes moved, calls.

On the device ``meta`` tensors have a shape and nothing else: there the work of a system of any
size is counted in no time and without its memory. What it reads out, a token or whether numbers
are finite, is made up.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
FLASH = aten._scaled_dot_product_flash_attention_for_cpu.default
FLASH_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
# Of what these take in, they read no more than they put out.
PICKING = {aten.embedding, aten.index, aten.gather, aten.index_select}


@dataclass(frozen=True)
class Phase:
    """A phase of some work: the most bytes that lived, its calls of operators.

    ``works``: for each call that computes, its operations and the bytes that it moves.
    """

    peak: int
    calls: int
    works: tuple[tuple[float, int], ...]

    @property
    def operations(self) -> float:
        """Count the operations of matrix products, attention's included."""
        return sum(operations for operations, _ in self.works)


@dataclass
class Tally:
    """Tensors that were made and still live, the most there were, and the calls that made them."""

    now: int = 0
    peak: int = 0
    calls: int = 0
    works: list[tuple[float, int]] = field(default_factory=list)
    held: dict[int, weakref.ref] = field(default_factory=dict)
    ended: list[Phase] = field(default_factory=list)

    def phase(self) -> None:
        """End one phase of the work and begin the next."""
        self.ended = self.phases()
        self.peak, self.calls, self.works = self.now, 0, []

    def phases(self) -> list[Phase]:
        """Return what each phase took; bytes are those beyond what was there before."""
        return [*self.ended, Phase(self.peak, self.calls, tuple(self.works))]

    def peaks(self) -> list[int]:
        """Return the most bytes that were held in each phase."""
        return [phase.peak for phase in self.phases()]

    def add(self, tensor: Tensor, counts: bool = True) -> bool:
        """Know a tensor's storage until it dies; True where it was not known.

        It counts unless it was there before.
        """
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes() if counts else 0
        if place in self.held:
            return False

        def gone(_ref: weakref.ref) -> None:  # another storage can come to lie at its place
            self.held.pop(place, None)
            self.now -= size

        self.held[place] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
        return True


class _Counted(TorchDispatchMode):
    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # What goes in was there before, or has been counted.
        given = _tensors([*args, *kwargs.values()])
        for one in given:
            self.tally.add(one, counts=False)
        self.tally.calls += 1
        if any(one.is_meta for one in given) and func in _READ_OUT:
            return _READ_OUT[func](*args, **kwargs)
        made = func(*args, **kwargs)
        out = _tensors([made])
        new = [self.tally.add(one) for one in out]
        if any(new) or func._schema.is_mutable:
            self.tally.works.append(_work(func, args, kwargs, given, made, out))
        return made


def _tensors(values: Sequence) -> list[Tensor]:
    """List the tensors among values and among their own lists; trees go no deeper here."""
    found = []
    for one in values:
        found += _tensors(one) if isinstance(one, list | tuple) else [one]
    return [one for one in found if isinstance(one, Tensor)]


def _work(func, args, kwargs, given: list[Tensor], made, out: list[Tensor]) -> tuple[float, int]:
    """Count the operations of a call, and the bytes that it reads and writes."""
    packet = func._overloadpacket
    count = flop_registry.get(packet) or _ATTENTION.get(func)
    operations = float(count(*args, **kwargs, out_val=made)) if count else 0.0
    written = sum(map(_bytes, out))
    return operations, 2 * written if packet in PICKING else written + sum(map(_bytes, given))


def _bytes(tensor: Tensor) -> int:
    """Count the bytes of a tensor; one that is a part of itself over and over, once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _attention(query, key, *_arguments, **_options) -> float:
    """Count the operations of attention (B, heads, T, head), each a product and a sum."""
    return 4.0 * query.numel() * key.shape[-2]


_ATTENTION = {
    FLASH: _attention,
    FLASH_BACKWARD: lambda _, query, key, *rest, **given: 2.5 * _attention(query, key),
}


def _moved(tensor: Tensor, device=None, dtype=None, **options) -> Tensor:
    """Move a tensor; from nowhere to the processor come ones: tokens, or yes, all are finite."""
    if device is not None and torch.device(device).type == "cpu":
        return torch.ones(tensor.shape, dtype=dtype or tensor.dtype)
    return aten._to_copy.default(tensor, device=device, dtype=dtype, **options)


def _equal(one: Tensor, other: float) -> Tensor:
    """Compare; a single number is what it should be: so transformers asks if a mask is full."""
    return aten.eq.Scalar(one, other) if one.ndim else torch.tensor(True)


# What a tensor without numbers says: nothing is wrong, whatever is asked for one by one.
_READ_OUT: dict = {
    aten._to_copy.default: _moved,
    aten._local_scalar_dense.default: lambda one: 0 if one.dtype == torch.bool else 1,
    aten.eq.Scalar: _equal,
    aten.nonzero.default: lambda one: torch.empty(0, one.ndim, dtype=torch.long, device="meta"),
    aten.equal.default: lambda _first, _second: True,
}


class _Fused(TorchFunctionMode):
    """Attention in one kernel on ``meta``, as every device has it; there it would be in parts."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        fused = func is torch.nn.functional.scaled_dot_product_attention
        return _fused(*args, **kwargs) if fused and args[0].is_meta else func(*args, **kwargs)


def _fused(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
) -> Tensor:
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = attn_mask.to(query.dtype)
    return FLASH(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


@contextmanager
def counted() -> Iterator[Tally]:
    """Count what the block takes, of tensors that it makes itself."""
    tally = Tally()
    with _Fused(), _Counted(tally):
        yield tally


def peak(work: Callable[[], object]) -> int:
    """Return the bytes that some work takes at its peak, beyond what was there before."""
    with counted() as tally:
        work()
    return max(tally.peaks())
