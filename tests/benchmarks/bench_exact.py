"""The truth of every unit against one unit at a time: ``python -m tests.benchmarks.bench_exact``.

A system of the miniature's size, 202 tokens. The other way is transformers' own model with a hook
of torch's on the unit's layer: at all positions a pass for each unit, at the predicting step the
last token alone, behind the kept keys and values of those before it; both with the GELU in one
kernel that ours has, and the other way with torch's own products or with ours
(``models.products``). What both say is compared before anything is timed. Then operations,
counted by torch, against those that the derivation gives. At last all pairs of some units, of all
layers or of the upper half, against a pass for each pair.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.activations import ACT2FN

from mmn_utils.models.limber import ONE_KERNEL, fuse_attention
from mmn_utils.models.products import linear
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import teacher_forced
from mmn_utils.neurons.together import lost_together
from mmn_utils.neurons.truth import derived_operations, exact_losses
from mmn_utils.studies.concepts.cost import FORMULAS
from tests.benchmarks.timing import best_times, plainly, random_system, random_targets


@dataclass(frozen=True)
class Result:
    """Milliseconds of processor time a unit of both ways, and the measured operations."""

    positions: str
    apart: float
    ours: float
    plain: float
    alike: float  # the plain way with our products
    operations: float
    derived: float
    pace: float  # operations a millisecond of one large product

    def __str__(self) -> str:
        """Say all of it in a paragraph."""
        return (
            f"{self.positions}: one unit at a time {self.plain:.3f} ms a unit, ours "
            f"{self.ours:.4f} ms: {self.plain / self.ours:.1f} x, with our products "
            f"{self.alike / self.ours:.1f} x (apart {self.apart:.1e})\n"
            f"  operations a unit {self.operations / 1e6:.2f} M, derived {self.derived / 1e6:.2f} "
            f"M: {self.operations / self.derived:.3f} x\n"
            f"  at the pace of one large product they would take "
            f"{self.derived / self.pace:.4f} ms: no way exceeds "
            f"{self.plain * self.pace / self.derived:.1f} x"
        )


class Operations(TorchDispatchMode):
    """Count operations by torch's formulas, attention's too, but without hooks on every module.

    Those of ``FlopCounterMode`` could change what they see, so ``exact_losses`` takes no short way
    past them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        count = FORMULAS.get(function._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


class OneByOne:
    """Transformers' own model with a hook, a unit at a time: logit and probability of a target."""

    def __init__(self, model, prompt, target) -> None:
        self.language, self.target = model.language_model, target
        self.seconds = [model.act_module(layer) for layer in range(model.sizes.layers)]
        words = self.language.get_input_embeddings()(torch.tensor([target.prefix]))
        self.embeds = torch.cat([prompt.embeds, words], dim=1)
        self.past = self.language(inputs_embeds=self.embeds[:, :-1], use_cache=True).past_key_values

    @contextmanager
    def without(self, units: Iterable[tuple[int, int]]) -> Iterator[None]:
        """Switch units off: (layer, unit) each."""

        def silence(unit: int, _module, inputs: tuple) -> tuple:
            activation = inputs[0].clone()
            activation[..., unit] = 0
            return (activation,)

        hooks = [
            self.seconds[layer].register_forward_pre_hook(partial(silence, unit))
            for layer, unit in units
        ]
        yield
        for hook in hooks:
            hook.remove()

    def read(self, logits: torch.Tensor) -> tuple[float, float]:
        """Read both off the last logits."""
        logits, token = logits[0, -1], self.target.token
        return float(logits[token]), float(logits.softmax(-1)[token])

    def everywhere(self) -> tuple[float, float]:
        """Run one pass over everything."""
        return self.read(
            self.language(inputs_embeds=self.embeds, use_cache=False, logits_to_keep=1).logits
        )

    def step(self) -> tuple[float, float]:
        """Run the last token alone, behind the cache."""
        out = self.language(
            inputs_embeds=self.embeds[:, -1:], past_key_values=self.past, use_cache=True
        )
        self.past.crop(-1)
        return self.read(out.logits)

    def run(self, sets: Iterable[Iterable[tuple[int, int]]], positions: str) -> np.ndarray:
        """Run without each set of units: (sets, 2)."""
        way = self.step if positions == "step" else self.everywhere
        found = []
        for units in sets:
            with self.without(units):
                found.append(way())
        return np.array(found)


def both_ways(layers: int):
    """Build the system as the miniature loads, the plain one, and the prompt and target of both.

    The plain one has the GELU in one kernel too, but attends as transformers does.
    """
    model, prompt = random_system(1, layers)
    for layer in range(layers):
        model.layer(layer).mlp.act = ACT2FN[ONE_KERNEL["activation_function"]]
    target = random_targets(model, 1)[0]
    plain = OneByOne(model.twin(model.dtype), prompt, target)
    fuse_attention(model.language_model)
    return model, prompt, target, plain


@torch.no_grad()
def measure(
    positions: str, units: int, plain_units: int, repeats: int = 3, layers: int = 6
) -> Result:
    """Compare both ways on ``units`` of each layer, of which one at a time takes ``plain_units``.

    ``AssertionError`` where they differ by more than 1e-5.
    """
    model, prompt, target, plain = both_ways(layers)
    step = model.sizes.units // units
    asked = {layer: list(range(layer, model.sizes.units, step))[:units] for layer in range(layers)}
    few = [(layer, unit) for layer, some in asked.items() for unit in some[:plain_units]]

    def ours():
        return exact_losses(model, prompt, target, units=asked, positions=positions)

    whole = np.array(plain.everywhere())
    alone = [[place] for place in few]
    slow, fast = whole - plain.run(alone, positions), ours()
    rows, columns = np.array(few).T
    mine = np.stack([fast.logit[rows, columns], fast.probability[rows, columns]], axis=1)
    apart = float(np.abs(mine - slow).max())
    assert apart <= 1e-5 * max(1, np.abs(whole).max()), f"the ways differ by {apart}"
    with Operations() as counted:
        ours()
    square = torch.randn(2048, 2048)
    times = best_times(
        {
            "ours": ours,
            "plain": plainly(lambda: plain.run(alone, positions)),
            "alike": lambda: plain.run(alone, positions),
            "pace": lambda: linear(square, square),
        },
        repeats,
    )
    every, tokens = units * layers, teacher_forced(model, prompt, [target.prefix]).embeds.shape[1]
    derived = derived_operations(model, tokens, dict.fromkeys(asked, units), positions)
    return Result(
        positions,
        apart,
        1000 * times["ours"] / every,
        1000 * times["plain"] / len(few),
        1000 * times["alike"] / len(few),
        counted.total / every,
        derived / every,
        2 * 2048**3 / (1000 * times["pace"]),
    )


@torch.no_grad()
def measure_pairs(
    positions: str, late: bool, top: int, plain_pairs: int, repeats: int = 2, layers: int = 6
) -> tuple[int, float]:
    """Compare both ways on all pairs of ``top`` units: how many, and plain over ours for one.

    Of all layers by turns, or of the upper half if ``late``. ``AssertionError`` as ``measure``.
    """
    model, prompt, target, plain = both_ways(layers)
    lowest = layers // 2 if late else 0
    places = [(i % (layers - lowest) + lowest, 7 * i % model.sizes.units) for i in range(top)]
    sets = [tuple(Neuron(*place) for place in pair) for pair in combinations(places, 2)]
    few = [[(one.layer, one.unit) for one in pair] for pair in sets[:: len(sets) // plain_pairs]]

    def ours():
        return lost_together(model, prompt, target, sets, positions=positions)

    slow = np.array(plain.everywhere()) - plain.run(few, positions)
    fast = ours().logit[:: len(sets) // plain_pairs]
    apart = float(np.abs(fast - slow[:, 0]).max())
    assert apart <= 2e-5 * max(1, abs(plain.everywhere()[0])), f"the ways differ by {apart}"
    times = best_times({"ours": ours, "plain": plainly(lambda: plain.run(few, positions))}, repeats)
    return len(sets), times["plain"] / len(few) / (times["ours"] / len(sets))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(measure("all", units=64, plain_units=4, repeats=repeats))
    print(measure("step", units=1024, plain_units=16, repeats=repeats))
    for positions, late in product(("all", "step"), (False, True)):
        count, ratio = measure_pairs(positions, late, 50, 16, min(2, repeats))
        where = "the upper layers" if late else "all layers"
        print(f"{positions}, {count} pairs of {where}: one at a time takes {ratio:.1f} x of ours")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"memory of the process at its peak: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
