"""The passes that notebooks ask for, counted on a few layers and drawn out to all of them.

What runs are the project's own functions, on a system without numbers (``tally``) that has the
true width, vocabulary and batch: peak memory, operations and bytes moved are counted, not timed.
Each grows by the same for every further layer, and for every further token of a caption. Time is
what a device needs at its measured rates: a call of an operator takes as long as its operations
or as moving its bytes, whichever is more, and the call itself as long as on a system so small
that it has nothing else to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch

from mmn_utils.interventions.sweeps import sweep
from mmn_utils.neurons.attribution import attributions, rows_on
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.methods import by_readings
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from mmn_utils.running.planning.measuring import Clock, Rates, fastest
from mmn_utils.running.planning.proxy import Proxy
from mmn_utils.running.planning.systems import Size
from mmn_utils.running.planning.tally import Phase, counted

LAYERS = (3, 4)  # of the proxies: first and last are passed in other ways than those between
LENGTHS = (3, 5)  # of captions, where a step for each token makes a pass longer
NOUN = 3  # tokens of a caption before its noun
SMALL = {"width": 32, "units": 64, "heads": 2, "key_heads": 2, "head": 16, "vocabulary": 64}


@dataclass(frozen=True)
class Pass:
    """One kind of pass over ``rows`` rows of a batch, with captions of ``length`` tokens.

    ``run(model, rows, length)`` does it.
    """

    name: str
    run: Callable[[Proxy, int, int], object]
    least: int = 1  # the fewest rows; a sweep has one that is whole
    steps: bool = False  # whether it writes captions, token by token


def _targets(rows: int, nouns: int = 1) -> list[Target]:
    prefix = (2, 3, 4, 5, 6)
    return [
        Target(str(row), f"noun {i}", 2 + i, prefix[: NOUN + i])
        for row in range(rows)
        for i in range(nouns)
    ]


def _caption(model: Proxy, rows: int, length: int) -> object:
    return generate(model, model.prompt(range(rows)), length)


@torch.no_grad()
def _forward(model: Proxy, rows: int, length: int) -> object:
    said = model.embed(torch.ones(rows, length, dtype=torch.long))
    return model.forward(model.prompt(range(rows)).extend(said))


def _attribution(model: Proxy, rows: int, _length: int) -> object:
    k = min(256, model.sizes.layers * model.sizes.units)
    return attributions(model, model.prompt(range(rows)), _targets(rows), k=k)


def _concepts(model: Proxy, rows: int, _length: int) -> object:
    k = min(100, model.sizes.layers * model.sizes.units)
    images = [picture for picture in range(rows) for _ in range(2)]
    gated = model.architecture.gate is not None
    readings = ("gated", "gate") if gated else ("gated",)
    return by_readings(model, images, _targets(rows, 2), k=k, readings=readings)


def _sweep(model: Proxy, rows: int, length: int) -> object:
    sets = [[Neuron(0, unit)] for unit in range(rows - 1)]  # none can begin further up
    return sweep(model, model.prompt([0]), _targets(1)[0], sets, length, batch_rows=rows)


PASSES = {
    one.name: one
    for one in (
        Pass("caption", _caption, steps=True),
        Pass("forward", _forward),
        Pass("attribution", _attribution),
        Pass("concepts", _concepts),
        Pass("sweep", _sweep, least=2, steps=True),
    )
}


@dataclass(frozen=True)
class Taken:
    """What a pass takes: bytes at its peak beside the weights, operations, seconds."""

    memory: int
    operations: float
    seconds: float


class Trials:
    """Passes counted on proxies of a system, at the rates of a device.

    ``clock`` counts seconds of this machine's processor, which calls the operators of any device.
    """

    def __init__(
        self,
        size: Size,
        dtype: torch.dtype,
        rates: Rates,
        clock: Clock = time.process_time,
        device: str = "cpu",
    ) -> None:
        self.size, self.dtype, self.rates, self.clock = size, dtype, rates, clock
        self.device = torch.device(device)

    def together(self, name: str) -> int:
        """Say how many rows a pass takes at once where there are more."""
        if name != "attribution":
            return 2**20
        tokens = self.size.image_tokens + self.size.text_tokens + NOUN
        return rows_on(self.device, self.size, self.dtype, tokens)

    @cache  # noqa: B019  (a Trials lives as long as its plan)
    def taken(self, name: str, rows: int, length: int) -> Taken:
        """Return what a pass over ``rows`` rows takes, with captions of ``length`` tokens."""
        if not PASSES[name].steps or length <= LENGTHS[-1]:
            peaks, totals = self._of_all_layers(name, rows, length)
        else:
            ends = [self._of_all_layers(name, rows, few) for few in LENGTHS]
            further = (length - LENGTHS[0]) / (LENGTHS[1] - LENGTHS[0])
            (first, short), (second, long) = ends
            # the last steps hold the longest cache; what comes before them stays as it is
            peaks = np.append(first, _drawn_out(first[-2:], second[-2:], further))
            totals = _drawn_out(short, long, further)
        operations, work, calls = totals
        seconds = self.rates.together(work, calls * self._call(name))
        return Taken(int(max(0, peaks.max())), float(operations), float(seconds))

    def _of_all_layers(self, name: str, rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return each phase's peak, and operations, seconds of work and calls together."""
        few, more = (self._phases(name, layers, rows, length) for layers in LAYERS)
        further = (self.size.layers - LAYERS[0]) / (LAYERS[1] - LAYERS[0])
        peaks = ([float(phase.peak) for phase in phases] for phases in (few, more))
        totals = (self._totals(phases) for phases in (few, more))
        return _drawn_out(*peaks, further), _drawn_out(*totals, further)

    def _totals(self, phases: list[Phase]) -> list[float]:
        work = sum(self.rates.seconds(*one) for phase in phases for one in phase.works)
        operations = sum(phase.operations for phase in phases)
        return [operations, work, float(sum(phase.calls for phase in phases))]

    def _phases(self, name: str, layers: int, rows: int, length: int) -> list[Phase]:
        """Count a pass on a proxy without numbers; a phase begins with each call of the model."""
        model = Proxy(self.size.with_layers(layers), "meta", self.dtype)
        with counted() as tally, model.before_forward(tally.phase):
            PASSES[name].run(model, rows, length)
        return tally.phases()

    @cache  # noqa: B019
    def _call(self, name: str) -> float:
        """Time a call of an operator, on a system with next to nothing to compute."""
        model = Proxy(replace(self.size, layers=2, image_tokens=4, **SMALL), "cpu", torch.float32)
        work = partial(PASSES[name].run, model, PASSES[name].least, LENGTHS[0])
        with counted() as tally:
            work()
        (seconds,) = fastest([work], "cpu", self.clock)
        return seconds / sum(phase.calls for phase in tally.phases())


def _drawn_out(few: Sequence[float], more: Sequence[float], further: float) -> np.ndarray:
    """Go on from ``few`` by ``further`` times the way to ``more``."""
    first, second = np.asarray(few), np.asarray(more)
    return first + further * (second - first)
