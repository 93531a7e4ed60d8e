"""What a preset needs of a device, said before a run.

    python -m mmn_utils.running plan PRESET ... [--device cpu] [--json]
    python -m mmn_utils.running plan PRESET ... --memory 24 --rates 80 900

For each notebook: operations, memory at its peak, disk, time, and how many pictures go through
together. No weights are needed: sizes come from a configuration or a list of published systems,
and the project's own functions are counted on tensors without numbers. Times are those counts at
the rates of the device, which are measured in a second or two; for a device that is not at hand,
give its memory, and for times what it does in a second (two thirds of the data sheet is usual).
The time is for captions of full length, and leaves out judging texts and drawing. 1 where
something does not fit, 2 for bad parameters.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmn_utils.cache import cache_root
from mmn_utils.commands import parser_of, refusing
from mmn_utils.exhibits.entries import load_exhibits
from mmn_utils.presets import Preset, load_preset, resolve
from mmn_utils.running.planning.costs import Cost, cost_of
from mmn_utils.running.planning.devices import Given, is_here, named
from mmn_utils.running.planning.measuring import Clock, Rates
from mmn_utils.running.planning.passes import Trials
from mmn_utils.running.planning.shown import FORM, HEAD, cost_lines, plain, rate_line, size_line
from mmn_utils.running.planning.systems import Size, size_of

AT_HAND = Given()


@dataclass(frozen=True)
class Where:
    """A device and a type in which a system is planned, how fast it is, the bytes that are free."""

    device: str
    dtype: str
    rates: Rates
    free: int
    measured: bool

    @property
    def name(self) -> str:
        """Name both."""
        return f"{self.device}, {self.dtype}"


@dataclass(frozen=True)
class Plan:
    """What the notebooks of a preset need, of which systems, and where."""

    preset: str
    places: list[Where]
    systems: list[tuple[Size, str]]
    costs: list[Cost]

    @property
    def fits(self) -> bool:
        """Say whether every notebook can be run there."""
        return not any(cost.refusal for cost in self.costs)

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        rates = {one.name: asdict(one.rates) for one in self.places}
        costs = [cost.record() for cost in self.costs]
        whole = {"preset": self.preset, "rates": rates, "notebooks": costs, "fits": self.fits}
        return plain(whole)


def plan(
    preset: str | Path | Preset,
    device: str | None = None,
    clock: Clock = time.perf_counter,
    given: Given = AT_HAND,
    image_tokens: int | None = None,
) -> Plan:
    """Plan the notebooks of a preset on its device, or on another.

    ValueError for what ``resolve`` refuses, a device that is not here and of which nothing is
    ``given``, and a system of which nobody says how large it is: all before anything is counted.
    """
    preset = preset if isinstance(preset, Preset) else load_preset(preset)
    stems = preset.chosen(sorted({exhibit.notebook for exhibit in load_exhibits().values()}))
    asked = {stem: resolve(stem, preset) for stem in stems}
    wanted = {
        stem: (named(device or one.get("device", "cpu")), one.get("dtype", "float32"))
        for stem, one in asked.items()
    }
    for where, _ in wanted.values():
        given.check(where)
    sizes = {
        model: _size(model, image_tokens) for model in {one["model"] for one in asked.values()}
    }
    places = {pair: _place(*pair, given, clock) for pair in dict.fromkeys(wanted.values())}
    trials: dict[tuple, Trials] = {}
    costs = []
    for stem, one in asked.items():
        place, size = places[wanted[stem]], sizes[one["model"]]
        new = Trials(size, getattr(torch, place.dtype), place.rates, device=place.device)
        tried = trials.setdefault((size, place.name), new)
        costs.append(cost_of(stem, one, tried, place.free))
    systems = list(dict.fromkeys((sizes[asked[stem]["model"]], wanted[stem][1]) for stem in stems))
    return Plan(preset.name, list(places.values()), systems, _on_disk(costs, given))


def _size(model: str, image_tokens: int | None) -> Size:
    size = size_of(model)
    return replace(size, image_tokens=image_tokens, assumed=False) if image_tokens else size


def _place(device: str, dtype: str, given: Given, clock: Clock) -> Where:
    rates = given.rates_of(device, getattr(torch, dtype), clock)
    measured = given.rates is None and is_here(device)
    return Where(device, dtype, rates, given.free(device), measured)


def _on_disk(costs: list[Cost], given: Given) -> list[Cost]:
    """Refuse what this disk has no place for; of another machine's nothing is known."""
    free = shutil.disk_usage(_existing(cache_root())).free
    if given != AT_HAND:
        return costs
    return [
        cost
        if cost.disk <= free or cost.refusal
        else replace(
            cost,
            refusal=f"does not fit: {cost.disk / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are "
            "free; set HF_HOME and MMN_CACHE to a larger disk",
        )
        for cost in costs
    ]


def _existing(path: Path) -> Path:
    """Return the nearest folder above a path that is there."""
    return path if path.exists() else _existing(path.parent)


def shown(found: Plan) -> str:
    """Lay a plan out as a table."""
    lines = [f"Preset {found.preset}"]
    lines += [size_line(size, dtype) for size, dtype in found.systems]
    lines += [rate_line(one.name, one.rates, one.free, one.measured) for one in found.places]
    lines.append(FORM.format(*HEAD))
    return "\n".join([*lines, *(line for cost in found.costs for line in cost_lines(cost))])


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Plan presets; 1 where something does not fit, 2 for bad parameters."""
    parser = parser_of("mmn_utils.running plan", __doc__)
    parser.add_argument("presets", nargs="+", metavar="PRESET", help="a name or a YAML file")
    parser.add_argument("--device", help="another device than the preset's")
    parser.add_argument("--memory", type=float, metavar="GIB", help="of the device, as planned")
    parser.add_argument(
        "--rates",
        type=float,
        nargs=2,
        metavar=("TERAFLOPS", "GB/S"),
        help="of the device in the preset's type, as planned; float32: a tenth of 16 bits",
    )
    parser.add_argument("--image-tokens", type=int, metavar="N", help="where the system has others")
    parser.add_argument("--json", action="store_true", help="for programs")
    chosen = parser.parse_args(arguments)
    given = Given(chosen.memory, tuple(chosen.rates) if chosen.rates else None)
    ask = {"given": given, "image_tokens": chosen.image_tokens}
    plans = [plan(preset, chosen.device, **ask) for preset in chosen.presets]
    if chosen.json:
        print(json.dumps([one.record() for one in plans], indent=1))
    else:
        print("\n\n".join(map(shown, plans)))
    return 0 if all(one.fits for one in plans) else 1
