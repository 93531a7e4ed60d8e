"""The truth of every unit against one unit at a time: ``python -m tests.benchmarks.bench_exact``.

A system of the miniature's size, 202 tokens. The other way is transformers' own model with a hook
of torch's on the unit's layer: at all positions a pass for each unit, at the predicting step the
last token alone, behind the kept keys and values of those before it; both with the GELU in one
kernel that ours has. What both say is compared before anything is timed. Then operations,
counted by torch, against those that the derivation gives.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers.activations import ACT2FN

from mmn_utils.models.limber import ONE_KERNEL
from mmn_utils.neurons.targets import teacher_forced
from mmn_utils.neurons.truth import derived_operations, exact_losses
from tests.benchmarks.timing import best_times, random_system, random_targets


@dataclass(frozen=True)
class Result:
    """Milliseconds of processor time a unit of both ways, and the measured operations."""

    positions: str
    apart: float
    ours: float
    plain: float
    operations: float
    derived: float
    pace: float  # operations a millisecond of one large product

    def __str__(self) -> str:
        """Say all of it in a paragraph."""
        return (
            f"{self.positions}: one unit at a time {self.plain:.3f} ms a unit, ours "
            f"{self.ours:.4f} ms: {self.plain / self.ours:.1f} x (apart {self.apart:.1e})\n"
            f"  operations a unit {self.operations / 1e6:.2f} M, derived {self.derived / 1e6:.2f} "
            f"M: {self.operations / self.derived:.3f} x\n"
            f"  at the pace of one large product they would take "
            f"{self.derived / self.pace:.4f} ms: no way exceeds "
            f"{self.plain * self.pace / self.derived:.1f} x"
        )


class Operations(TorchDispatchMode):
    """Count operations as torch's ``FlopCounterMode``, but without its hooks on every module.

    Hooks could change what they see, so ``exact_losses`` takes no short way past them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        count = flop_registry.get(function._overloadpacket)
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
    def without(self, layer: int, unit: int) -> Iterator[None]:
        """Switch a unit off."""

        def silence(_module, inputs: tuple) -> tuple:
            activation = inputs[0].clone()
            activation[..., unit] = 0
            return (activation,)

        hook = self.seconds[layer].register_forward_pre_hook(silence)
        yield
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

    def run(self, places, positions: str) -> np.ndarray:
        """Run all units: (units, 2)."""
        way = self.step if positions == "step" else self.everywhere
        found = []
        for layer, unit in places:
            with self.without(layer, unit):
                found.append(way())
        return np.array(found)


@torch.no_grad()
def measure(
    positions: str, units: int, plain_units: int, repeats: int = 3, layers: int = 6
) -> Result:
    """Compare both ways on ``units`` of each layer, of which one at a time takes ``plain_units``.

    ``AssertionError`` where they differ by more than 1e-5.
    """
    model, prompt = random_system(1, layers)
    for layer in range(layers):
        model.layer(layer).mlp.act = ACT2FN[ONE_KERNEL["activation_function"]]
    target = random_targets(model, 1)[0]
    plain = OneByOne(model, prompt, target)
    step = model.sizes.units // units
    asked = {layer: list(range(layer, model.sizes.units, step))[:units] for layer in range(layers)}
    few = [(layer, unit) for layer, some in asked.items() for unit in some[:plain_units]]

    def ours():
        return exact_losses(model, prompt, target, units=asked, positions=positions)

    whole = np.array(plain.everywhere())
    slow, fast = whole - plain.run(few, positions), ours()
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
            "plain": lambda: plain.run(few, positions),
            "pace": lambda: square @ square,
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
        counted.total / every,
        derived / every,
        2 * 2048**3 / (1000 * times["pace"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(measure("all", units=64, plain_units=4, repeats=repeats))
    print(measure("step", units=1024, plain_units=16, repeats=repeats))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"memory of the process at its peak: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
