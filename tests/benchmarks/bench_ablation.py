"""The ablation sweep against one row at a time: ``python -m tests.benchmarks.bench_ablation``.

One image, nine k in three conditions, captions of ten tokens: the paper's Fig. 6 and S.3.
The other way runs each of the 27 rows by itself and every token from the start, without a
cache. Captions are compared before the ratio is printed.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import objective, teacher_forced
from mmn_utils.studies.ablation import ablation_rows
from tests.benchmarks.timing import best_times, random_system, random_targets

FRACTIONS = np.array([0, 50, 100, 200, 400, 800, 1600, 3200, 6400]) / 458_752  # of all units


def one_row(model, prompt, target, row, tokens: int) -> list[int]:
    """Run one row: the target's probability, then a caption, every pass from the start."""
    logits, _ = model.forward(teacher_forced(model, prompt, [target.prefix]))
    objective(logits, [target], "probability")
    ids: list[int] = []
    for _ in range(tokens):
        logits, _ = model.forward(teacher_forced(model, prompt, [ids]))
        ids.append(int(logits.argmax()))
        if ids[-1] in model.end_tokens:
            break
    return ids


@torch.no_grad()
def one_at_a_time(model, prompt, target, rows, tokens: int) -> list[list[int]]:
    """Run all rows one after the other."""
    captions = []
    for row in rows:
        if row:
            with ablate(model, Ablation(tuple(row)), hash_weights=False):
                captions.append(one_row(model, prompt, target, row, tokens))
        else:
            captions.append(one_row(model, prompt, target, row, tokens))
    return captions


def measure(tokens: int = 10, repeats: int = 1, layers: int = 6) -> tuple[int, int, float]:
    """Time both ways: rows whose captions are equal, rows, and how many times as long one takes."""
    model, prompt = random_system(1, layers)
    target = random_targets(model, 1)[0]
    units, rng = model.sizes.units, np.random.default_rng(0)
    ks = [round(float(f) * units * layers) for f in FRACTIONS]
    order = rng.permutation(units * layers)[: 3 * max(ks)]
    ranked = [Neuron(int(i) // units, int(i) % units) for i in order]
    rows, labels = ablation_rows(ranked, {n: n.unit % 2 == 0 for n in ranked}, ks, units, rng)
    every = [rows[row] for row in labels.row]  # k = 0 in each condition, as one would write it
    results = {}
    times = best_times(
        {
            "sweep": lambda: results.update(sweep=sweep(model, prompt, target, rows, tokens)),
            "single": lambda: results.update(
                single=one_at_a_time(model, prompt, target, every, tokens)
            ),
        },
        repeats,
    )
    swept = [list(results["sweep"].captions[row].ids) for row in labels.row]
    equal = sum(a == [i for i in b if i not in model.end_tokens]
                for a, b in zip(swept, results["single"], strict=True))  # fmt: skip
    return equal, len(every), times["single"] / times["sweep"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--layers", type=int, default=6)
    equal, rows, ratio = measure(**vars(parser.parse_args()))
    print(f"{equal} of {rows} captions equal")
    print(f"one row at a time without a cache, over the sweep: {ratio:.1f} x")


if __name__ == "__main__":
    main()
