"""What scores cost in processor time and memory: ``python -m tests.benchmarks.bench_scores``.

Every score on trial in the method court, and the exact losses of all units, for one picture and
its noun, in units of one forward pass over the same prompt. All take turns in one run, on one
thread. What they say is first compared with transformers' own model, hooks and autograd (but for
the gate's readings and the final norm, which have tests of their own). Memory is the most that
torch's allocator held beside what it held before, as torch's profiler sees it.

Writes data/court/times.csv, which notebook 09 shows beside the operations; rows of systems that
are not asked for stay.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mmn_utils.datasets import load_dataset
from mmn_utils.exhibits.entries import MINIATURES
from mmn_utils.exhibits.formats import to_csv, write_text
from mmn_utils.models import load_model
from mmn_utils.neurons.targets import positions_of
from mmn_utils.neurons.truth import exact_losses
from mmn_utils.presets import load_preset, resolve
from mmn_utils.studies import subjects
from mmn_utils.studies.court import times
from mmn_utils.studies.court.scores import EXACT, Case, cases, scores
from tests.benchmarks.timing import best_times

NOTEBOOK, QUESTION = "09_method_court", "all"
SYSTEMS = (*MINIATURES, "smol")
UNITS = 64  # of each layer, whose exact losses are timed
CLOSE = 1e-3  # of the largest value: float32, summed in another order


class Plain:
    """Transformers' own model behind one prompt, with torch's hooks on its MLPs."""

    def __init__(self, model, case: Case) -> None:
        self.model, self.case = model, case
        self.layers = range(model.sizes.layers)
        self.seconds = [model.act_module(layer) for layer in self.layers]

    def run(self, prompt, instead: list[Tensor] | None = None):
        """Run a prompt: the target's logit, activations and Z, (1, T, units) of each layer.

        ``instead``: what the activations are replaced by.
        """
        acts, pres, hooks = [], [], []

        def see(_module, inputs: tuple) -> tuple | None:
            given = None if instead is None else (instead[len(acts)],)
            acts.append(given[0] if given else inputs[0])
            return given

        for layer, second in zip(self.layers, self.seconds, strict=True):
            hooks.append(second.register_forward_pre_hook(see))
            keep = lambda _module, _inputs, output: pres.append(output)  # noqa: E731
            hooks.append(self.model.pre_module(layer).register_forward_hook(keep))
        embeds = prompt.embeds.detach().requires_grad_()
        logits = self.model.language_model(inputs_embeds=embeds, use_cache=False).logits
        for hook in hooks:
            hook.remove()
        return logits[0, -1, self.case.target.token], acts, pres

    def fields(self) -> dict[str, Tensor]:
        """Compute scores as one writes them down: {name: (layers, units)}."""
        y, acts, pres = self.run(self.case.prompt)
        count = len(acts)
        gradients = torch.autograd.grad(y, [*acts, *pres])
        act, z = (torch.cat(some).detach() for some in (acts, pres))
        by_act, by_z = torch.cat(gradients[:count]), torch.cat(gradients[count:])
        places = positions_of(self.model, self.case.prompt, None)
        patches = (z * by_z)[:, places]
        row = self.model.unembedding[0][self.case.target.token]
        written = torch.stack([self.model.write_vectors(layer) @ row for layer in self.layers])
        found = {
            "attribution_max": patches.amax(1),
            "attribution_sum": patches.sum(1),
            "gradient": (act * by_act).sum(1),
            "integrated_5": self._path(act, 5),
            "contribution_gated_none": act[:, -1] * written,
            "activation_patches": act[:, places].amax(1),
            "activation_step": act[:, -1],
        }
        for name in ("mean", "other"):
            other = torch.cat(self.run(getattr(self.case, name))[1]).detach()
            found[f"patching_{name}"] = ((act - other) * by_act).sum(1)
        return found

    def _path(self, act: Tensor, steps: int) -> Tensor:
        total = torch.zeros_like(act)
        for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
            points = [(one[None] * (node + 1) / 2).requires_grad_() for one in act]
            y = self.run(self.case.prompt, points)[0]
            total += float(weight) / 2 * torch.cat(torch.autograd.grad(y, points)) * act
        return total.sum(1)

    @torch.no_grad()
    def lost(self, layer: int, unit: int) -> float:
        """Return what the logit loses without a unit."""
        acts = self.run(self.case.prompt)[1]
        without = [one.clone() for one in acts]
        without[layer][..., unit] = 0

        def silence(_module, _inputs: tuple) -> tuple:
            return (without[layer],)

        hook = self.seconds[layer].register_forward_pre_hook(silence)
        logits = self.model.language_model(inputs_embeds=self.case.prompt.embeds).logits
        hook.remove()
        whole = self.run(self.case.prompt)[0]
        return float(whole - logits[0, -1, self.case.target.token])


def agree(model, case: Case) -> float:
    """Return by how much scores and plain hooks differ at most, over the largest value.

    ``AssertionError`` naming the score where that is more than ``CLOSE``.
    """
    plain, known = Plain(model, case), scores(model)
    pairs = {name: (known[name].compute(model, case, QUESTION), field)
             for name, field in plain.fields().items()}  # fmt: skip
    some = {0: [0, 1], model.sizes.layers - 1: [2]}
    lost = exact_losses(model, case.prompt, case.target, units=some).logit
    places = [(layer, unit) for layer, units in some.items() for unit in units]
    pairs[EXACT] = (torch.tensor([float(lost[place]) for place in places]),
                    torch.tensor([plain.lost(*place) for place in places]))  # fmt: skip
    worst = 0.0
    for name, (ours, theirs) in pairs.items():
        size = 1.0 if name == EXACT else float(theirs.abs().max())
        apart = float((ours - theirs).abs().max()) / size
        assert apart <= CLOSE, f"{name} differs from plain hooks by {apart:.1e} of its largest"
        worst = max(worst, apart)
    return worst


def peak(function: Callable[[], object]) -> int:
    """Return the most bytes that torch's allocator held at once beside what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        function()
    events = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    sizes = [one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())]
    return int(max(np.cumsum(sizes), default=0))


def measure(
    model,
    case: Case,
    steps: Sequence[int] | None = None,
    *,
    repeats: int = 3,
    units: int = UNITS,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Measure scores, by default all, and the exact losses: score, time and memory.

    In units of a forward pass; ``steps`` of integrated gradients as of ``scores``. The exact losses
    of all units are those of ``units`` of each layer and as much again for each further one, as all
    of a layer cost the same.
    """
    agree(model, case)
    ways: dict[str, Callable[[], object]] = {"forward": torch.no_grad()(
        partial(model.forward, case.prompt))}  # fmt: skip
    for name, score in scores(model, steps=steps).items():
        if names is None or name in names:
            ways[name] = partial(score.compute, model, case, QUESTION)
    count = min(units, model.sizes.units)
    some = dict.fromkeys(range(model.sizes.layers), range(count))
    ways[EXACT] = partial(exact_losses, model, case.prompt, case.target, units=some)
    for warm in ("forward", "gradient"):
        ways[warm]() if warm in ways else None
    seconds = best_times(ways, repeats)
    once = seconds["forward"]
    seconds[EXACT] = once + (seconds[EXACT] - once) * model.sizes.units / count
    held = {name: peak(way) for name, way in ways.items()}
    rows = [(name, seconds[name] / once, held[name] / held["forward"])
            for name in ways if name != "forward"]  # fmt: skip
    return pd.DataFrame(rows, columns=["score", "time", "memory"])


def of_preset(name: str) -> tuple[object, Case, list[int]]:
    """Load the system that a preset's court sits over; its first picture's case, and the steps."""
    asked = resolve(NOTEBOOK, load_preset(name))
    model = load_model(asked["model"], dtype=asked["dtype"])
    shown = load_dataset(asked["dataset"], asked["data_root"] or None).sample(4, asked["seed"])
    some = subjects.subjects(model, shown, max_new_tokens=asked["max_new_tokens"], progress=False)
    with torch.no_grad():
        prompts = model.prompt([photograph.open() for photograph in some.photographs])
    return model, cases(model, prompts, some.targets, asked["seed"])[0], asked["steps"]


def machine() -> str:
    """Say in general terms what this was measured on."""
    kind = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores"
    return f"{kind}, torch {version('torch').partition('+')[0]}"


def kept(found: Mapping[str, pd.DataFrame], path: str | Path | None = None) -> Path:
    """Write the tables of models into the one that is kept, in the place of their older rows."""
    path = Path(path or times.times_path())
    before = times.read(path)
    about = {"threads": 1, "measured": machine()}
    new = [table.assign(model=name, **about)[times.COLUMNS] for name, table in found.items()]
    old = before[~before["model"].isin(list(found))]
    every = pd.concat([part for part in (old, *new) if len(part)], ignore_index=True)
    write_text(path, to_csv(every))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=list(SYSTEMS), metavar="PRESET")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--units", type=int, default=UNITS, help="of each layer, ablated exactly")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for preset in chosen.presets:
        model, case, steps = of_preset(preset)
        found = measure(model, case, steps, repeats=chosen.repeats, units=chosen.units)
        path = kept({model.name: found})
        print(f"{preset}\n{found.round(2).to_string(index=False)}", flush=True)
    print(f"Times: {path}")


if __name__ == "__main__":
    main()
