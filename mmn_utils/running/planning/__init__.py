"""What a preset needs of this machine, said before a run.

    python -m mmn_utils.running plan PRESET ... [--device cpu] [--json]

For each notebook: operations, memory at its peak, disk, time, and how many pictures go through
together. No weights are needed: sizes come from a configuration or a list of published systems,
times and memory from trials with a few random layers of these sizes on the device itself. The
time is for captions of full length, and leaves out judging texts and drawing. 1 where something
does not fit, 2 for bad parameters.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mmn_utils.cache import cache_root
from mmn_utils.exhibits.entries import load_exhibits
from mmn_utils.presets import Preset, load_preset, resolve
from mmn_utils.running.planning.costs import Cost, cost_of
from mmn_utils.running.planning.measuring import Clock, Rates, available, rates
from mmn_utils.running.planning.passes import Trials
from mmn_utils.running.planning.systems import Size, size_of


@dataclass(frozen=True)
class Plan:
    """What the notebooks of a preset need; ``rates`` by device and type, as measured."""

    preset: str
    rates: dict[str, Rates]
    costs: list[Cost]
    disk_free: int

    @property
    def fits(self) -> bool:
        """Say whether every notebook can be run here."""
        return not any(cost.refusal for cost in self.costs)

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        measured = {name: asdict(rate) for name, rate in self.rates.items()}
        costs = [cost.record() for cost in self.costs]
        return {"preset": self.preset, "rates": measured, "notebooks": costs, "fits": self.fits}


def plan(
    preset: str | Path | Preset, device: str | None = None, clock: Clock = time.perf_counter
) -> Plan:
    """Plan the notebooks of a preset on its device, or on another.

    ValueError for what ``resolve`` refuses, a device that is not here, and a system of which
    nobody says how large it is.
    """
    preset = preset if isinstance(preset, Preset) else load_preset(preset)
    stems = preset.chosen(sorted({exhibit.notebook for exhibit in load_exhibits().values()}))
    free = shutil.disk_usage(_existing(cache_root())).free
    measured: dict[str, Rates] = {}
    trials: dict[tuple, Trials] = {}
    parameters = {stem: resolve(stem, preset) for stem in stems}
    devices = {stem: device or asked.get("device", "cpu") for stem, asked in parameters.items()}
    for where in set(devices.values()):
        _check_device(where)
    costs = []
    for stem, asked in parameters.items():
        where = devices[stem]
        dtype, size = getattr(torch, asked.get("dtype", "float32")), size_of(asked["model"])
        name = f"{where}, {str(dtype).removeprefix('torch.')}"
        if name not in measured:
            measured[name] = rates(where, dtype, cache_root(), clock)
        tried = _trials(trials, size, where, dtype, measured[name].operations, clock)
        cost = cost_of(stem, asked, tried, measured[name], available(where))
        costs.append(_on_disk(cost, free))
    return Plan(preset.name, measured, costs, free)


def _trials(known: dict, size: Size, device: str, dtype, rate: float, clock: Clock) -> Trials:
    """Keep one set of trials for each system, on each device and in each type."""
    key = (size, device, dtype)
    if key not in known:
        known[key] = Trials(size, device, dtype, rate, clock)
    return known[key]


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device = {device!r} is not here ({reason}); plan on the machine that has it, or for "
            "this one with --device cpu"
        ) from None


def _existing(path: Path) -> Path:
    """Return the nearest folder above a path that is there."""
    return path if path.exists() else _existing(path.parent)


def _on_disk(cost: Cost, free: int) -> Cost:
    if cost.disk <= free or cost.refusal:
        return cost
    refusal = (
        f"does not fit: {cost.disk / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free; set "
        "HF_HOME and MMN_CACHE to a larger disk"
    )
    return Cost(**{**cost.record(), "refusal": refusal})


def shown(found: Plan) -> str:
    """Lay a plan out as a table."""
    lines = [f"Preset {found.preset}"]
    for name, rate in found.rates.items():
        lines.append(
            f"  {name}: {rate.operations / 1e9:.0f} billion operations a second, memory "
            f"{rate.memory / 1e9:.1f} GB/s, disk {rate.disk / 1e9:.2f} GB/s"
        )
    head = ("notebook", "operations", "memory", "disk", "time", "batches")
    form = "{:<30}{:>12}{:>11}{:>11}{:>10}  {}"
    lines.append(form.format(*head))
    for cost in found.costs:
        batches = ", ".join(f"{name} {batch}" for name, batch in cost.batches.items())
        cells = [f"{cost.operations:.1e}", _bytes(cost.memory), _bytes(cost.disk)]
        lines.append(form.format(cost.notebook, *cells, _time(cost.seconds), batches))
        if cost.refusal:
            lines.append(f"    {cost.refusal}")
    return "\n".join(lines)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan presets; 1 where something does not fit, 2 for bad parameters."""
    parser = argparse.ArgumentParser(
        prog="python -m mmn_utils.running plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("presets", nargs="+", metavar="PRESET", help="a name or a YAML file")
    parser.add_argument("--device", help="another device than the preset's")
    parser.add_argument("--json", action="store_true", help="for programs")
    chosen = parser.parse_args(arguments)
    try:
        plans = [plan(preset, chosen.device) for preset in chosen.presets]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps([one.record() for one in plans], indent=1))
    else:
        print("\n\n".join(map(shown, plans)))
    return 0 if all(one.fits for one in plans) else 1
