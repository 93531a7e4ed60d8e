"""``smol`` against the plain way: ``python -m tests.benchmarks.bench_smol``.

The plain way is transformers' LLaMA with torch's hooks and its own ``generate``, one photograph
and one condition at a time (``plain``). Each question is answered both ways and the answers are
compared before a ratio is given: scores and probabilities to 1e-4 of themselves, captions but
for changes that the sweep itself marks as rounding. Processor time on one thread, in turns;
ratios only, each with its ``ceiling``: what it would be if ours were the least operations at the
pace of one large product. What is aimed at:

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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from mmn_utils.datasets import Photograph, load_dataset
from mmn_utils.interventions.below import Below
from mmn_utils.interventions.edit import Edit
from mmn_utils.interventions.editing import Settings
from mmn_utils.interventions.row_masks import lowest_layer
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.models import load_model
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.captions import Caption, caption_images
from mmn_utils.neurons.table import Neuron, neurons_of
from mmn_utils.neurons.targets import Target, caption_targets
from mmn_utils.studies import edits
from mmn_utils.studies.ablation import ablation_rows, scaled_counts
from tests.benchmarks.ceiling import Found, Meter, Operations, pace, shared
from tests.benchmarks.plain import Plain
from tests.benchmarks.timing import plainly

AIMS = {"attribution": 1 / 1.1, "captions": 4.0, "sweep": 8.0, "edits": 6.0}  # plain over ours
MEMORY = 1.6e9  # bytes
TOP = 100
SETTINGS = [(count, strength) for count in (1, 5) for strength in (0.5, 1.0, 2.0)]


@dataclass(frozen=True)
class Asked:
    """A question as two ways; what compares their answers, and what counts the least operations.

    ``agree`` takes the plain answer and ours; ``least`` takes ours, None where nothing is gained
    by order.
    """

    plain: Callable[[], object]
    ours: Callable[[], object]
    agree: Callable[[object, object], None]
    least: Callable[[object], float] | None = None


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
    def operations(self) -> Operations:
        return Operations(self.model)

    @cached_property
    def length(self) -> int:
        """Tokens of a prompt."""
        return self.embeds[0].shape[1]

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

    def attribution(self, count: int = 10) -> Asked:
        """Ask for the top units of some photographs; plainly, for the bare gradients."""
        model, plain, targets = self.model, self.plain, self.targets[:count]
        prompt = model.prompt(self.images[: len(targets)])
        forced = [plain.forced(e, t.prefix) for e, t in zip(self.embeds, targets, strict=False)]
        top = min(TOP, model.sizes.units)

        def bare() -> None:
            for one, target in zip(forced, targets, strict=True):
                plain.gradients(one, target.token)

        def agree(_none: None, table) -> None:
            found = table.groupby("image")["score"]
            for one, target in zip(forced, targets, strict=True):
                mine, expected = found.get_group(target.image), plain.scores(one, target.token, top)
                np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)

        return Asked(bare, lambda: attribution(model, prompt, targets, k=top), agree)

    def captioning(self) -> Asked:
        """Ask for captions, from pictures on."""

        def one_by_one() -> list[tuple[int, ...]]:
            return [self.plain.caption(self.plain.embeds(i), self.tokens) for i in self.images]

        def together() -> list[Caption]:
            return caption_images(self.model, self.images, self.tokens, len(self.images))

        def least(captions: list[Caption]) -> float:
            each = self.operations.picture + self.operations.prompt(self.length)
            return sum(each + self._steps(caption) * self.operations.token for caption in captions)

        return Asked(one_by_one, together, same_captions, least)

    def sweep(self, place: int = 1) -> Asked:
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

        def agree(alone: list, together) -> None:
            expected = [probability for probability, _ in alone]
            np.testing.assert_allclose(together.probability, expected, rtol=1e-4, atol=1e-7)
            pairs = zip(together.captions, alone, ~together.within_rounding, strict=True)
            assert all(mine.ids == ids for mine, (_, ids), certain in pairs if certain)

        def least(together) -> float:
            of, found = self.operations, 0
            for row, caption in zip(rows, together.captions, strict=True):
                steps = self._steps(caption) + len(target.prefix)
                steps -= shared(target.prefix, caption.ids)
                found += of.prompt(self.length, lowest_layer(row)) + steps * of.token
            return found

        return Asked(
            one_by_one, lambda: sweep(model, prompt, target, rows, self.tokens), agree, least
        )

    def _steps(self, caption: Caption) -> int:
        """Count the passes over one token that a caption takes behind its prompt."""
        return min(len(caption.ids) + 1, self.tokens) - 1

    def _rows(self, place: int) -> list[list[Neuron]]:
        """Make the conditions of paper A's Fig. 6, every second unit taken for readable."""
        sizes, counts = self.model.sizes, scaled_counts(self.model)
        prompt, target = self.model.prompt([self.images[place]]), self.targets[place]
        deep = min(sizes.layers * sizes.units, 3 * max(counts) + 2)
        ranked = neurons_of(attribution(self.model, prompt, [target], k=deep))
        readable = {neuron: neuron.unit % 2 == 0 for neuron in ranked}
        rng = np.random.default_rng(0)
        return ablation_rows(ranked, readable, counts, sizes.units, rng)[0]

    def edit_trials(self, concepts: int = 6, count: int = 32) -> Asked:
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
            tried = [edit for size in SETTINGS for edit in sized(each, *size)]
            return anew.captions(model, tried, images * len(SETTINGS))

        def least(captions: list[Caption]) -> float:
            tried = [edit for size in SETTINGS for edit in sized(each, *size)]
            drafts = dict(zip(ground.drafts.images, ground.drafts.captions, strict=True))
            return self._least_of_edits(tried, images * len(SETTINGS), captions, drafts)

        return Asked(one_by_one, together, same_captions, least)

    def _least_of_edits(
        self, tried: Sequence[Edit], images: Sequence[str], captions: Sequence[Caption], drafts
    ) -> float:
        """Count what is below an edit once for each photograph, and what is above for each edit."""
        of, found, below = self.operations, 0, {}
        for edit, image, caption in zip(tried, images, captions, strict=True):
            layer, old = lowest_layer(edit.neurons), drafts[image].ids
            steps, known = self._steps(caption), shared(old, caption.ids)
            found += of.prompt(self.length, layer) + steps * of.token - known * layer * of.layer
            below[image] = (self.length + len(old)) * min(layer, below.get(image, layer) or layer)
        return found + sum(below.values()) * of.layer


def same_captions(alone: list[tuple[int, ...]], together: list[Caption]) -> None:
    """Compare captions, token by token."""
    assert [caption.ids for caption in together] == alone


def sized(some: Sequence[Edit], count: int, strength: float) -> list[Edit]:
    """Take the first neurons of edits, times so much."""
    return [edit.first(count).scaled(strength) for edit in some]


def measure(bench: Bench, repeats: int = 2, only: Sequence[str] = tuple(AIMS)) -> dict[str, Found]:
    """Answer the questions both ways and compare: how long either took, and what bounds it."""
    questions = {"attribution": bench.attribution, "captions": bench.captioning,
                 "sweep": bench.sweep, "edits": bench.edit_trials}  # fmt: skip
    torch.set_num_threads(1)
    return {name: _measured(bench, questions[name](), repeats) for name in only}


def _measured(bench: Bench, asked: Asked, repeats: int) -> Found:
    """Time both ways in turns, the plain one with our products too: the least time of each."""
    meter, times, answers = Meter(), {"plain": [], "alike": [], "ours": []}, {}

    def metered() -> object:
        with meter.on(bench.plain.language):
            return asked.plain()

    ways = {"plain": plainly(metered), "alike": asked.plain, "ours": asked.ours}
    for turn in range(repeats):
        for name, way in ways.items():
            begun = time.process_time()
            answers[name] = way()
            times[name].append(time.process_time() - begun)
        if turn == 0:
            asked.agree(answers["plain"], answers["ours"])
    return Found(
        min(times["plain"]),
        min(times["alike"]),
        min(times["ours"]),
        asked.least(answers["ours"]) if asked.least else None,
        pace(),
        meter.prompts / sum(times["plain"]),
        meter.tokens / sum(times["plain"]),
    )


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
            found = measure(Bench(model, shown, chosen.tokens), chosen.repeats, [name])[name]
            print(f"{name}: {found}, aimed at {AIMS[name]:.2f}", flush=True)


if __name__ == "__main__":
    main()
