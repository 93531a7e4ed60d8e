"""What a device does in a second, and how much memory it has."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch

from mmn_utils.models.products import linear

Clock = Callable[[], float]
SIDES = (256, 512, 1024, 2048, 4096, 8192)  # of matrices that are multiplied
LONG = 0.02  # seconds for which one product tells enough
MOVED = 1 << 26  # bytes
WRITTEN = 1 << 25
MOST, ENOUGH = 9, 0.3  # times that something is timed; seconds after which that is enough


@dataclass(frozen=True)
class Rates:
    """What a device does in a second: operations in a system's type and in float32, bytes.

    ``memory`` and ``disk`` are bytes read and written. A device that is ``apart`` from the
    processor computes while the next operators are called.
    """

    operations: float
    float32: float
    memory: float
    disk: float
    apart: bool = False

    def seconds(self, operations: float, moved: int) -> float:
        """Return how long a call takes that computes and moves so much."""
        return max(operations / self.operations, moved / self.memory)

    def together(self, work: float, calling: float) -> float:
        """Return how long work takes, in seconds, with the calls that ask for it."""
        return max(work, calling) if self.apart else work + calling


def rates(device: str, dtype: torch.dtype, folder: Path, clock: Clock = time.perf_counter) -> Rates:
    """Measure the rates: matrices multiplied, memory copied, a file written in ``folder``."""
    block, other = torch.ones(2, MOVED // 4, device=device)
    (copy,) = fastest([partial(other.copy_, block)], device, clock)
    multiplied = {kind: multiply_rate(device, kind, clock) for kind in {dtype, torch.float32}}
    return Rates(
        multiplied[dtype],
        multiplied[torch.float32],
        2 * MOVED / copy,
        disk_rate(folder),
        device.startswith("cuda"),
    )


def multiply_rate(device: str, dtype: torch.dtype, clock: Clock = time.perf_counter) -> float:
    """Measure the operations of matrix products, of larger ones until one takes long enough."""
    for side in SIDES:
        matrix = torch.ones(side, side, dtype=dtype, device=device)
        (taken,) = fastest([lambda matrix=matrix: linear(matrix, matrix)], device, clock)
        if taken > LONG:
            break
    return 2 * side**3 / taken


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
    works: Sequence[Callable[[], object]],
    device: str,
    clock: Clock = time.perf_counter,
    enough: float = ENOUGH,
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
        if turn >= 2 and sum(map(sum, found)) > enough:
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
