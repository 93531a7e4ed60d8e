"""What a device does in a second, and how much memory a piece of work takes at its peak."""

from __future__ import annotations

import os
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Clock = Callable[[], float]
SIDE = 1024  # of the matrices that are multiplied
MOVED = 1 << 26  # bytes
WRITTEN = 1 << 25
MOST, ENOUGH = 9, 1.0  # times that something is timed; seconds after which that is enough


@dataclass(frozen=True)
class Rates:
    """What the device at hand does in a second: operations, bytes of memory, bytes of the disk."""

    operations: float
    memory: float
    disk: float


def rates(device: str, dtype: torch.dtype, folder: Path, clock: Clock = time.perf_counter) -> Rates:
    """Measure the rates: matrices multiplied, memory copied, a file read in ``folder``."""
    matrix = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    block = torch.ones(MOVED // 4, device=device)
    multiply, copy = fastest([lambda: matrix @ matrix, block.clone], device, clock)
    return Rates(2 * SIDE**3 / multiply, 2 * MOVED / copy, disk_rate(folder))


def disk_rate(folder: Path) -> float:
    """Measure how many bytes a second are written to a file in ``folder`` and really there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        begun = time.perf_counter()
        file.write(os.urandom(1 << 20) * (WRITTEN >> 20))
        file.flush()
        os.fsync(file.fileno())
        return WRITTEN / (time.perf_counter() - begun)


def fastest(
    works: Sequence[Callable[[], object]], device: str, clock: Clock = time.perf_counter
) -> list[float]:
    """Return how long each of some works takes at its fastest, done by turns.

    Twice after one time that does not count, and more often where they are short.
    """
    found: list[list[float]] = [[] for _ in works]
    for turn in range(1 + MOST):
        for work, times in zip(works, found, strict=True):
            _wait(device)
            begun = clock()
            work()
            _wait(device)
            times.append(clock() - begun)
        if turn >= 2 and sum(map(sum, found)) > ENOUGH:
            break
    return [min(times[1:]) for times in found]


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def available(device: str) -> int:
    """Return the bytes of memory that are free on a device."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


class Gauge(Protocol):
    """What tells of memory since it was set up."""

    def phase(self) -> None:
        """End one phase of the work and begin the next."""

    def peaks(self) -> list[int]:
        """Return the most bytes that were held in each phase, beyond those of the beginning."""


@contextmanager
def gauge(device: str) -> Iterator[Gauge]:
    """Watch the memory that the block takes on a device."""
    if device.startswith("cuda"):
        yield _OnGPU(device)
        return
    with live_tensors() as live:
        yield live


def peak(work: Callable[[], object], device: str) -> int:
    """Return the bytes that some work takes at its peak, beyond what was there before."""
    with gauge(device) as seen:
        work()
    return max(seen.peaks())


class _OnGPU:
    """The gauge of a device whose allocator keeps count."""

    def __init__(self, device: str) -> None:
        torch.cuda.synchronize(device)
        self.device, self.ended = device, []
        self.before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)

    def phase(self) -> None:
        """End one phase of the work and begin the next."""
        self.ended = self.peaks()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peaks(self) -> list[int]:
        """Return the most bytes that were held in each phase, beyond those of the beginning."""
        return [*self.ended, torch.cuda.max_memory_allocated(self.device) - self.before]


@dataclass
class Live:
    """Bytes of the tensors that were made and still live, and the most there were."""

    now: int = 0
    peak: int = 0
    held: dict[int, weakref.ref] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)

    def phase(self) -> None:
        """End one phase of the work and begin the next."""
        self.ended, self.peak = self.peaks(), self.now

    def peaks(self) -> list[int]:
        """Return the most bytes that were held in each phase."""
        return [*self.ended, self.peak]

    def add(self, tensor: torch.Tensor, counts: bool = True) -> None:
        """Know a tensor's storage until it dies; it counts unless it was there before."""
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes() if counts else 0
        if place in self.held:
            return

        def gone(_ref: weakref.ref) -> None:  # another storage can come to lie at its place
            self.held.pop(place, None)
            self.now -= size

        self.held[place] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class _Counted(TorchDispatchMode):
    def __init__(self, live: Live) -> None:
        super().__init__()
        self.live = live

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # What goes in was there before, or has been counted.
        for given in tree_leaves((args, kwargs or {})):
            if isinstance(given, torch.Tensor) and given.device.type != "meta":
                self.live.add(given, counts=False)
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor) and one.device.type != "meta":
                self.live.add(one)
        return made


@contextmanager
def live_tensors() -> Iterator[Live]:
    """Count the tensors that are made in the block, on a device that keeps no count itself."""
    live = Live()
    with _Counted(live):
        yield live
