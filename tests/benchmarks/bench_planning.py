"""Plans against what they plan: ``python -m tests.benchmarks.bench_planning``.

The time that a plan gives passes of small systems, over the time that they take: processor time
on one thread. What a plan counts is tested without a clock (``tests/running/planning``); how long
a call of an operator takes is the machine's affair, and changes with what else it is doing.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch

from mmn_utils.cache import cache_root
from mmn_utils.models.products import quicken
from mmn_utils.running.planning.measuring import rates
from mmn_utils.running.planning.passes import PASSES, Trials
from mmn_utils.running.planning.proxy import Proxy
from mmn_utils.running.planning.systems import Size
from tests.benchmarks.timing import best_times

SYSTEMS = {
    "gptj 6 layers": Size("x", "gptj", 6, 64, 256, 4, 300, 36),
    "llama 5 layers, few key heads": Size("x", "llama", 5, 64, 176, 8, 900, 16, key_heads=2),
    "llama 5 layers": Size("x", "llama", 5, 64, 176, 8, 900, 16),
    "llama 8 layers, wide": Size("x", "llama", 8, 512, 1408, 8, 4000, 144),
}
ROWS, LENGTH = 4, 6


def measure(
    system: str, names: tuple[str, ...] = tuple(PASSES), repeats: int = 9
) -> dict[str, float]:
    """Estimate and time passes of a system: {pass: estimate over time}."""
    torch.set_num_threads(1)
    size = SYSTEMS[system]
    model = Proxy(size, "cpu")
    quicken(model.language_model)  # as what ``load_model`` loads
    found = rates("cpu", torch.float32, cache_root(), time.process_time)
    ratios = {}
    for name in names:
        work = partial(PASSES[name].run, model, ROWS, LENGTH)
        work()  # the first has more to do
        estimate = Trials(size, torch.float32, found).taken(name, ROWS, LENGTH).seconds
        ratios[name] = estimate / best_times({"true": work}, repeats)["true"]
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    chosen = parser.parse_args()
    for system in SYSTEMS:
        for name, ratio in measure(system, repeats=chosen.repeats).items():
            print(f"{system}, {name}: planned over measured {ratio:.2f}")


if __name__ == "__main__":
    main()
