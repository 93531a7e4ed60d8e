"""The device that a plan is for: at hand and measured, or given as its data sheet has it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from mmn_utils.cache import cache_root
from mmn_utils.models.placement import why_absent
from mmn_utils.running.planning.measuring import Clock, Rates, available, disk_rate, rates

GIB = 1 << 30
SLOWER = 10  # times that float32 is slower than 16 bits where a rate is given for these


@dataclass(frozen=True)
class Given:
    """What is said of a device: GiB of memory; 10^12 operations and 10^9 bytes a second."""

    memory: float | None = None
    rates: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, value in (("memory", self.memory), *(("rates", one) for one in self.rates or ())):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} = {value!r}: give a number above 0")

    def free(self, device: str) -> int:
        """Return the bytes that a system can have: as given, or those that are free now."""
        return available(device) if self.memory is None else int(self.memory * GIB)

    def rates_of(self, device: str, dtype: torch.dtype, clock: Clock = time.perf_counter) -> Rates:
        """Return rates: as given, else measured; NaN of a device that is not here."""
        if self.rates is None and is_here(device):
            return rates(device, dtype, cache_root(), clock)
        operations, moved = self.rates or (math.nan, math.nan)
        single = operations if dtype == torch.float32 else operations / SLOWER
        disk = disk_rate(cache_root())
        return Rates(operations * 1e12, single * 1e12, moved * 1e9, disk, device != "cpu")

    def check(self, device: str) -> None:
        """Raise ``ValueError`` for a device that is not here and of which no memory is given."""
        reason = why_absent(device)
        if reason and self.memory is None:
            raise ValueError(
                f"device = {device!r} is not here ({reason}); plan on the machine that has it, for "
                "this one with --device cpu, or ahead: --memory GIB of the device, with --rates "
                "TERAFLOPS GB/S for times as well"
            )


def named(device: str) -> str:
    """Say which device is meant; ``auto`` is the GPUs where there are some."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def is_here(device: str) -> bool:
    """Say whether a device can be used."""
    return not why_absent(device)
