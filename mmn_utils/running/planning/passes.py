"""The passes that notebooks ask for, tried on a few layers and drawn out to all of them.

Operations come from a formula. Time and peak memory are those of the project's own functions
on a proxy with the system's true width and two and four layers: time grows by the same for
each layer, and so does the peak of each phase, as it does for each row of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch

from mmn_utils.interventions.sweeps import sweep
from mmn_utils.neurons.attribution import attributions
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.methods import by_readings
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from mmn_utils.running.planning.measuring import Clock, fastest, gauge
from mmn_utils.running.planning.proxy import Proxy
from mmn_utils.running.planning.systems import Size

LAYERS = (2, 4)  # of the proxies
NOUN = 3  # tokens of a caption before its noun
WORK = 1.5  # seconds that a pass over a proxy of four layers may take, more or less


@dataclass(frozen=True)
class Pass:
    """One kind of pass over ``rows`` rows of a batch, with captions of ``length`` tokens.

    ``run(model, rows, length)`` does it. ``operations(size, length)`` counts those of one row.
    """

    name: str
    run: Callable[[Proxy, int, int], object]
    operations: Callable[[Size, int], float]
    least: int = 1  # the fewest rows; a sweep has one that is whole


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
    sets = [[Neuron(model.sizes.layers - 1, unit)] for unit in range(rows - 1)]
    return sweep(model, model.prompt([0]), _targets(1)[0], sets, length, batch_rows=rows)


def _steps(size: Size, length: int) -> float:
    one = size.operations(1)
    attention = 4.0 * size.layers * size.tokens * size.width
    return max(0, length - 1) * (one + attention)


def _backward(size: Size, tokens: int) -> float:
    """Count what gradients of activations take: as much as forward, for attention twice."""
    attention = 4.0 * tokens**2 * size.width * size.layers
    return size.operations(tokens) + attention


PASSES = {
    one.name: one
    for one in (
        Pass(
            "caption",
            _caption,
            lambda s, n: s.operations(s.tokens) + _steps(s, n),
        ),
        Pass("forward", _forward, lambda s, n: s.operations(s.tokens + n)),
        Pass(
            "attribution",
            _attribution,
            lambda s, _: s.operations(s.tokens + NOUN) + _backward(s, s.tokens + NOUN),
        ),
        Pass(
            "concepts",
            _concepts,
            lambda s, _: 3 * s.operations(s.tokens + NOUN + 1) + 2 * _backward(s, s.tokens + NOUN),
        ),
        Pass(
            "sweep",
            _sweep,
            lambda s, n: s.operations(s.tokens) + _steps(s, n),
            least=2,
        ),
    )
}


class Trials:
    """Passes on proxies of a system: time and peak memory, drawn out to its layers.

    ``clock`` counts seconds; ``rate`` is what the device multiplies in a second, by which
    batches are chosen that are tried soon.
    """

    def __init__(
        self,
        size: Size,
        device: str,
        dtype: torch.dtype,
        rate: float,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.size, self.device, self.dtype = size, device, dtype
        self.rate, self.clock = rate, clock

    @cache  # noqa: B019  (a Trials lives as long as its plan)
    def proxy(self, layers: int) -> Proxy:
        """Return a proxy of so many layers."""
        return Proxy(self.size.with_layers(layers), self.device, self.dtype)

    def time(self, name: str, rows: int, length: int) -> float:
        """Return the seconds of a pass over ``rows`` rows."""
        tried = self._tried(name, rows, length)
        few, many = LAYERS
        short, long = self._seconds(name, tried, length)
        each = max(0.0, (long - short) / (many - few))
        return (short + (self.size.layers - few) * each) * rows / tried

    def _tried(self, name: str, rows: int, length: int) -> int:
        """Return the rows of a batch that a proxy goes through in about ``WORK`` seconds."""
        size = self.size.with_layers(LAYERS[1])
        one = PASSES[name].operations(size, length) / self.rate
        return min(rows, max(PASSES[name].least, int(WORK / one)))

    @cache  # noqa: B019
    def _seconds(self, name: str, rows: int, length: int) -> list[float]:
        """Time both proxies by turns, so that what else the machine does meets both."""
        works = [partial(PASSES[name].run, self.proxy(layers), rows, length) for layers in LAYERS]
        return fastest(works, self.device, self.clock)

    def memory(self, name: str, rows: int, length: int) -> int:
        """Return the bytes that a pass over ``rows`` rows takes at its peak, beside the weights.

        Of its phases, each of which begins with a call of the model, another can be the
        largest in a deeper system or a larger batch: each is drawn out by itself.
        """
        few = PASSES[name].least + 1  # one row alone takes shorter ways
        tried = [self._peaks(name, layers, r, length) for layers in LAYERS for r in (few, few + 1)]
        more = (rows - few, (self.size.layers - LAYERS[0]) / (LAYERS[1] - LAYERS[0]))
        return int(max(0, *(_drawn_out(*phase, *more) for phase in zip(*tried, strict=True))))

    @cache  # noqa: B019
    def _peaks(self, name: str, layers: int, rows: int, length: int) -> list[int]:
        """Measure the peak of each phase on a proxy."""
        model = self.proxy(layers)
        with gauge(self.device) as seen, model.before_forward(seen.phase):
            PASSES[name].run(model, rows, length)
        return seen.peaks()


def _drawn_out(a: float, b: float, c: float, d: float, rows: float, steps: float) -> float:
    """Draw (few layers, few rows), one row more, more layers, both, out to more of both."""
    small, large = a + rows * (b - a), c + rows * (d - c)
    return small + steps * (large - small)
