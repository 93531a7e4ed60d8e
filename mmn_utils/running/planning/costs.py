"""What notebooks of a preset need: passes counted, and priced by trials on the device at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmn_utils.plain_yaml import load_yaml
from mmn_utils.presets import NOTEBOOKS
from mmn_utils.running.planning.devices import GIB
from mmn_utils.running.planning.passes import PASSES, Trials

COSTS = NOTEBOOKS / "costs.yaml"
SPARE = 0.9  # of the free memory that a plan counts on
LENGTH = 20  # tokens of a caption where the notebook has no parameter for it
FIGURES = 50e6  # bytes of a run's figures and pages


@dataclass(frozen=True)
class Ask:
    """A pass that a notebook asks for: ``times`` rows in batches of ``batch``."""

    name: str
    times: int
    batch: int
    length: int


@dataclass(frozen=True)
class Need:
    """What one pass of a notebook needs; ``batch`` is what fits of ``asked``, 0 for nothing."""

    name: str
    times: int
    asked: int
    batch: int
    operations: float
    memory: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What a notebook needs: operations, bytes of memory and of disk, seconds; why not, if so."""

    notebook: str
    operations: float
    memory: int
    disk: int
    seconds: float
    batches: dict[str, int]
    refusal: str = ""

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def number(value: Any, parameters: Mapping[str, Any]) -> int:
    """Read a number of ``costs.yaml``: itself, a parameter's, or a product of such.

    KeyError for a parameter that the notebook does not have.
    """
    if isinstance(value, list):
        product = 1
        for one in value:
            product *= number(one, parameters)
        return product
    if isinstance(value, int):
        return value
    found: Any = parameters
    for part in value.split("."):
        found = found[part]
    return len(found) if isinstance(found, list) else int(found)


def asks_of(notebook: str, parameters: Mapping[str, Any]) -> list[Ask]:
    """List what a notebook asks with these parameters; ValueError for one without an entry."""
    entry = _entry(notebook)
    length = int(parameters.get("max_new_tokens", LENGTH))
    return [
        Ask(one["pass"], number(one["times"], parameters), number(one["batch"], parameters), length)
        for one in entry["passes"]
    ]


def _entry(notebook: str) -> dict[str, Any]:
    known = load_yaml(COSTS)
    if notebook not in known:
        raise ValueError(f"{notebook} has no entry in {COSTS.name}; say there what it asks")
    return known[notebook]


def need_of(ask: Ask, trials: Trials, free: float) -> Need:
    """Price one pass; its batch is halved until it fits into ``free`` bytes beside the weights."""
    least = PASSES[ask.name].least
    batch = max(min(ask.batch, ask.times, trials.together(ask.name)), least)
    while _memory(ask, trials, batch) > free and batch > least:
        batch = max(least, batch // 2)
    memory, encoding = _memory(ask, trials, batch), ask.times * _encoding(ask, trials)
    taken, turns = trials.taken(ask.name, batch, ask.length), ask.times / batch
    seconds = turns * taken.seconds + encoding / trials.rates.float32
    operations = turns * taken.operations + encoding
    fits = memory <= free
    return Need(ask.name, ask.times, ask.batch, batch if fits else 0, operations, memory, seconds)


def _memory(ask: Ask, trials: Trials, batch: int) -> int:
    """Bound the bytes of a batch beside the weights: of the language model, or of the tower."""
    tower = trials.size.encoder.held * batch if trials.size.encoder else 0
    return max(tower, trials.taken(ask.name, batch, ask.length).memory)


def _encoding(ask: Ask, trials: Trials) -> float:
    """Count a tower's operations; the conditions of a sweep share a picture's tokens."""
    tower = trials.size.encoder
    return tower.operations if tower and ask.name != "sweep" else 0.0


def cost_of(notebook: str, parameters: Mapping[str, Any], trials: Trials, free: int) -> Cost:
    """Price a notebook; ``free`` bytes of memory are there, weights included."""
    bytes_each = trials.dtype.itemsize
    weights = trials.size.weights(bytes_each)
    left = SPARE * free - weights
    disk = int(weights + FIGURES + 1000 * _entry(notebook)["kilobytes"] * parameters["n_images"])
    if left <= 0:
        return Cost(notebook, 0.0, weights, disk, 0.0, {}, _refusal(weights, 0, free, bytes_each))
    needs = [need_of(ask, trials, left) for ask in asks_of(notebook, parameters)]
    most = max(need.memory for need in needs)
    missed = [need for need in needs if not need.batch]
    return Cost(
        notebook,
        sum(need.operations for need in needs),
        weights + most,
        disk,
        weights / trials.rates.disk + sum(need.seconds for need in needs),
        _smallest(needs),
        _refusal(weights, most, free, bytes_each) if missed else "",
    )


def _smallest(needs: Sequence[Need]) -> dict[str, int]:
    """Return the batch of each kind of pass, the smallest of those in a notebook."""
    batches: dict[str, int] = {}
    for need in needs:
        batches[need.name] = min(need.batch, batches.get(need.name, need.batch))
    return batches


def _refusal(weights: int, work: int, free: int, bytes_each: int) -> str:
    """Say what does not fit, and what would help."""
    smaller = "" if bytes_each <= 2 else "set dtype: bfloat16, "
    beside = f" and {work / GIB:.1f} GiB for one picture" if work else ""
    return (
        f"does not fit: {weights / GIB:.1f} GiB of weights{beside}, of {free / GIB:.1f} GiB free "
        f"{SPARE:.0%} count; {smaller}take a device with more memory, or a smaller system"
    )
