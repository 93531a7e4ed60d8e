"""A plan as a table, and as plain data."""

from __future__ import annotations

import math
from typing import Any

from mmn_utils.running.planning.costs import Cost
from mmn_utils.running.planning.devices import GIB
from mmn_utils.running.planning.measuring import Rates
from mmn_utils.running.planning.systems import Size

HEAD = ("notebook", "operations", "memory", "disk", "time", "pictures (or conditions) at a time")
FORM = "{:<30}{:>12}{:>11}{:>10}{:>10}  {}"
SLOW = 3  # times slower than float32: a type to be warned of


def size_line(size: Size, dtype: str) -> str:
    """Say how large a system is, as the plan takes it."""
    assumed = " (assumed: its configuration does not say; --image-tokens)" * size.assumed
    weights = gib(size.weights(2 if dtype in ("bfloat16", "float16") else 4))
    return (
        f"  {size.name}: {weights} of weights in {dtype}, {size.image_tokens} image tokens"
        f"{assumed}, {size.text_tokens} of text"
    )


def rate_line(name: str, rate: Rates, free: int, measured: bool) -> str:
    """Say how fast a device is and how much memory is free, or that nobody knows how fast."""
    how = "measured" if measured else "as given"
    if math.isnan(rate.operations):
        return f"  {name}: {gib(free)} of memory; no times without --rates TERAFLOPS GB/S"
    slow = rate.float32 / rate.operations
    hint = f"; float32 is {slow:.0f} times as fast here" if slow > SLOW else ""
    return (
        f"  {name}: {gib(free)} of memory, {rate.operations / 1e12:.3g} teraflops, "
        f"{rate.memory / 1e9:,.0f} GB/s ({how}), disk {rate.disk / 1e9:.2g} GB/s{hint}"
    )


def cost_lines(cost: Cost) -> list[str]:
    """Lay one notebook out, with its refusal below."""
    batches = ", ".join(f"{name} {batch}" for name, batch in cost.batches.items())
    cells = [f"{cost.operations:.1e}", gib(cost.memory), _disk(cost.disk), duration(cost.seconds)]
    if cost.refusal:
        return [FORM.format(cost.notebook, *cells[:3], "-", "").rstrip(), f"    {cost.refusal}"]
    return [FORM.format(cost.notebook, *cells, batches)]


def gib(count: float) -> str:
    """Write bytes of memory as GiB, small ones as MiB."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


def _disk(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Write seconds in the unit that reads best, a dash where nobody knows."""
    if math.isnan(seconds):
        return "-"
    for unit, length, most in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / length:.{0 if unit == 's' else 1}f} {unit}"
    return f"{seconds / 86400:.0f} days" if seconds < 1e8 else f"{seconds / 3.156e7:.0f} years"


def plain(value: Any) -> Any:
    """Turn what is no number into null, as JSON has none."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
