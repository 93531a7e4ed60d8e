"""``smol`` against the plain way: ``python -m tests.benchmarks.bench_smol``.

The plain way is transformers' LLaMA with torch's hooks and its own ``generate``, one photograph
and one condition at a time (``plain``). Each question is answered both ways and the answers are
compared before anything is timed: scores and probabilities to 1e-4 of themselves, captions but
for changes that the sweep itself marks as rounding. Processor time on one thread, in turns;
ratios only. What is aimed at:

- ``attribution``, with its top units, takes at most 1.1 x of the bare passes forward and back;
- ``captions`` of 32 photographs take a quarter of the time;
- ``sweep``, a photograph's ablations, an eighth;
- ``edits``, several sizes of some edits on the same photographs, a sixth;
- ``memory``: notebook 02 on twelve photographs stays under 1.6 GB.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from mmn_utils.datasets import Photograph, load_dataset
from mmn_utils.interventions.below import Below
from mmn_utils.interventions.edit import Edit
from mmn_utils.interventions.editing import Settings
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.models import load_model
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.captions import Caption, caption_images
from mmn_utils.neurons.table import Neuron, neurons_of
from mmn_utils.neurons.targets import Target, caption_targets
from mmn_utils.studies import edits
from mmn_utils.studies.ablation import ablation_rows, scaled_counts
from tests.benchmarks.plain import Plain
from tests.benchmarks.timing import best_times

AIMS = {"attribution": 1 / 1.1, "captions": 4.0, "sweep": 8.0, "edits": 6.0}  # plain over ours
MEMORY = 1.6e9  # bytes
TOP = 100
SETTINGS = [(count, strength) for count in (1, 5) for strength in (0.5, 1.0, 2.0)]
Ways = dict[str, Callable[[], object]]


@dataclass(eq=False)
class Bench:
    """A system, the same system written down plainly, and photographs with their captions."""

    model: object
    photographs: list[Photograph]
    tokens: int = 20

    @cached_property
    def plain(self) -> Plain:
        return Plain(self.model)

    @cached_property
    def images(self) -> list:
        return [photograph.open() for photograph in self.photographs]

    @cached_property
    def captions(self) -> list[Caption]:
        return caption_images(self.model, self.images, self.tokens)

    @cached_property
    def embeds(self) -> list[torch.Tensor]:
        return [self.plain.embeds(image) for image in self.images]

    @cached_property
    def targets(self) -> list[Target]:
        """The first noun of each caption, or its last token where it has none."""
        found = []
        for photograph, caption in zip(self.photographs, self.captions, strict=True):
            last = Target(photograph.id, "", caption.ids[-1], caption.ids[:-1])
            found.append([*caption_targets(self.model, photograph.id, caption), last][0])
        return found

    # --- questions, each as two ways ------------------------------------------------------

    def attribution(self, count: int = 10) -> Ways:
        """Ask for the top units of some photographs; plainly, for the bare gradients."""
        model, plain, targets = self.model, self.plain, self.targets[:count]
        prompt = model.prompt(self.images[: len(targets)])
        forced = [plain.forced(e, t.prefix) for e, t in zip(self.embeds, targets, strict=False)]
        top = min(TOP, model.sizes.units)
        found = attribution(model, prompt, targets, k=top).groupby("image")["score"]
        for one, target in zip(forced, targets, strict=True):
            mine, expected = found.get_group(target.image), plain.scores(one, target.token, top)
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)

        def bare() -> None:
            for one, target in zip(forced, targets, strict=True):
                plain.gradients(one, target.token)

        return {"plain": bare, "ours": lambda: attribution(model, prompt, targets, k=top)}

    def captioning(self) -> Ways:
        """Ask for captions, from pictures on."""

        def one_by_one() -> list[tuple[int, ...]]:
            return [self.plain.caption(self.plain.embeds(i), self.tokens) for i in self.images]

        def together() -> list[Caption]:
            return caption_images(self.model, self.images, self.tokens, len(self.images))

        assert [caption.ids for caption in together()] == one_by_one()
        return {"plain": one_by_one, "ours": together}

    def sweep(self, place: int = 1) -> Ways:
        """Ask what one photograph's ablations do to its noun and its caption."""
        model, target = self.model, self.targets[place]
        rows, prompt = self._rows(place), model.prompt([self.images[place]])

        def one_by_one() -> list[tuple[float, tuple[int, ...]]]:
            found, embeds = [], self.embeds[place]
            forced = self.plain.forced(embeds, target.prefix)
            for row in rows:
                with self.plain.without([(neuron.layer, neuron.unit) for neuron in row]):
                    probability = self.plain.probability(forced, target.token)
                    found.append((probability, self.plain.caption(embeds, self.tokens)))
            return found

        together = sweep(model, prompt, target, rows, self.tokens)
        alone = one_by_one()
        np.testing.assert_allclose(
            together.probability, [p for p, _ in alone], rtol=1e-4, atol=1e-7
        )
        clear = ~together.within_rounding
        pairs = zip(together.captions, alone, clear, strict=True)
        assert all(mine.ids == ids for mine, (_, ids), certain in pairs if certain)
        return {
            "plain": one_by_one,
            "ours": lambda: sweep(model, prompt, target, rows, self.tokens),
        }

    def _rows(self, place: int) -> list[list[Neuron]]:
        """Make the conditions of paper A's Fig. 6, every second unit taken for readable."""
        sizes, counts = self.model.sizes, scaled_counts(self.model)
        prompt, target = self.model.prompt([self.images[place]]), self.targets[place]
        deep = min(sizes.layers * sizes.units, 3 * max(counts) + 2)
        ranked = neurons_of(attribution(self.model, prompt, [target], k=deep))
        readable = {neuron: neuron.unit % 2 == 0 for neuron in ranked}
        rng = np.random.default_rng(0)
        return ablation_rows(ranked, readable, counts, sizes.units, rng)[0]

    def edit_trials(self, concepts: int = 6, count: int = 32) -> Ways:
        """Ask what edits of several sizes do to captions, a photograph for each edit."""
        model, shown = self.model, self.photographs
        said = edits.findings.nouns_said(model, shown, self.captions)
        pairs = edits.findings.choose_concepts(model, said, concepts)
        first = edits.findings.find_on_first(model, shown, said, pairs, 5)
        ground = edits.trials.Ground.of(model, shown, first, max_new_tokens=self.tokens)
        made = edits.making.edits_of(model, first, Settings())
        chosen = edits.trials.thinned(ground.rows, count)
        each = edits.trials._for_rows(made, chosen)
        images = list(chosen["image"])
        pictures = dict(zip((p.id for p in shown), self.images, strict=True))

        def one_by_one() -> list[tuple[int, ...]]:
            found = []
            for size in SETTINGS:
                for edit, image in zip(sized(each, *size), images, strict=True):
                    units = [(neuron.layer, neuron.unit) for neuron in edit.neurons]
                    with self.plain.written(units, edit.deltas):
                        embeds = self.plain.embeds(pictures[image])
                        found.append(self.plain.caption(embeds, self.tokens))
            return found

        def together() -> list[Caption]:
            anew = replace(ground, drafts=replace(ground.drafts, below=Below()))
            return [
                c for size in SETTINGS for c in anew.captions(model, sized(each, *size), images)
            ]

        assert [caption.ids for caption in together()] == one_by_one()
        return {"plain": one_by_one, "ours": together}


def sized(some: Sequence[Edit], count: int, strength: float) -> list[Edit]:
    """Take the first neurons of edits, times so much."""
    return [edit.first(count).scaled(strength) for edit in some]


def measure(bench: Bench, repeats: int = 2, only: Sequence[str] = tuple(AIMS)) -> dict[str, float]:
    """Time the questions: how many times as long the plain way takes."""
    asked = {"attribution": bench.attribution, "captions": bench.captioning,
             "sweep": bench.sweep, "edits": bench.edit_trials}  # fmt: skip
    ratios = {}
    for name in only:
        times = best_times(asked[name](), repeats)
        ratios[name] = times["plain"] / times["ours"]
    return ratios


def notebook_memory(settings: dict[str, str], preset: str = "miniature") -> int:
    """Run notebook 02 on a preset with other settings: bytes that its kernel took at most."""
    pairs = [part for pair in settings.items() for part in ("-p", *pair)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mmn_utils.running", "02_attribution", "--preset", preset,
                   "--output-root", folder, *pairs]  # fmt: skip
        subprocess.run(command, check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--projection", help="another file than data/smol's")
    parser.add_argument("--data", help="the folder of the stamps")
    parser.add_argument("--photographs", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=[*AIMS, "memory"], default=[*AIMS, "memory"])
    chosen = parser.parse_args()
    asked = [name for name in chosen.only if name in AIMS]
    if "memory" in chosen.only:
        settings = {"model": "smol", "dataset": "stamps", "n_images": "12", "run": "memory"}
        found = notebook_memory(settings | ({"data_root": chosen.data} if chosen.data else {}))
        print(f"memory: {found / 1e9:.2f} GB, at most {MEMORY / 1e9} are aimed at")
    if asked:
        torch.set_num_threads(1)
        model = load_model("smol", projection=chosen.projection)
        shown = load_dataset("stamps", chosen.data).sample(chosen.photographs, 0)
        for name in asked:
            ratio = measure(Bench(model, shown, chosen.tokens), chosen.repeats, [name])[name]
            print(f"{name}: plain over ours {ratio:.2f} x, aimed at {AIMS[name]:.2f}", flush=True)


if __name__ == "__main__":
    main()
