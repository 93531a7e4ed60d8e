"""The trial over many pictures, each picture computed once and kept by content.

The truth comes as a table of ``truth``: image, token, positions, layer, unit, logit among others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mmn_utils.neurons.together import QUESTIONS, lost_together
from mmn_utils.neurons.truth import exact_losses
from mmn_utils.studies.concepts.cost import counted
from mmn_utils.studies.court import judging, together
from mmn_utils.studies.court.scores import EXACT, Case, Score, cases, compute_all, scores
from mmn_utils.studies.court.truth import load, rows_of, truth_table
from mmn_utils.studies.store import by_content, digest, per_photograph
from mmn_utils.studies.subjects import Subjects

TOGETHER = 32  # units whose exact losses are measured at once, at most
KEYS = ["image", "question", "layer", "unit"]


@dataclass(frozen=True, eq=False)
class Trial:
    """A system, photographs with a noun each, and what is truly lost without its units.

    ``truth`` by (image, question), (layers, units) of the logit, NaN where a unit was not
    ablated, and ``chances`` of the probability; ``known`` tells this truth from another, for what
    is kept. ``steps`` of integrated gradients, None for the usual ones.
    """

    model: Any
    some: Subjects
    truth: Mapping[tuple[str, str], np.ndarray]
    chances: Mapping[tuple[str, str], np.ndarray]
    known: str
    seed: int = 0
    steps: Sequence[int] | None = None

    @classmethod
    def of(
        cls,
        model,
        some: Subjects,
        truth: pd.DataFrame,
        seed: int = 0,
        steps: Sequence[int] | None = None,
    ) -> Trial:
        """Lay a table of the truth beside the photographs that it is of.

        ``ValueError`` where a photograph's first noun has no truth in it, for any question.
        """
        found = {"logit": {}, "probability": {}}
        shape = model.sizes.layers, model.sizes.units
        by = dict(list(truth.groupby(["image", "token", "positions"], sort=False, observed=True)))
        for target in some.targets:
            for question in QUESTIONS:
                rows = by.get((target.image, target.token, question))
                if rows is None:
                    raise ValueError(
                        f"no truth for {target.noun!r} on {target.image!r}, positions "
                        f"{question!r}; compute it for these photographs first"
                    )
                for of, by_pair in found.items():
                    losses = np.full(shape, np.nan, np.float32)
                    losses[rows["layer"].to_numpy(), rows["unit"].to_numpy()] = rows[of]
                    by_pair[target.image, question] = losses
        every = [losses for by_pair in found.values() for losses in by_pair.values()]
        known = digest(*(sha256(losses.tobytes()).hexdigest() for losses in every))
        return cls(model, some, found["logit"], found["probability"], known, seed, steps)

    @property
    def scores(self) -> dict[str, Score]:
        """The scores on trial by name."""
        return scores(self.model, self.seed, self.steps)

    def losses(self, image: str) -> dict[str, np.ndarray]:
        """Return what one picture's noun loses, by question."""
        return {question: self.truth[image, question] for question in QUESTIONS}

    def each(self, kind: str, compute: Callable[[int], pd.DataFrame], **key: Any) -> pd.DataFrame:
        """Compute a table of each photograph, given by its place, or load what is kept."""

        def batch(rows: list[int]) -> pd.DataFrame:
            named = [compute(row).assign(image=self.some.ids[row]) for row in rows]
            return pd.concat(named, ignore_index=True)

        return per_photograph(
            f"court-{kind}", self.model, self.some.photographs, batch, {**key, "seed": self.seed},
            targets=self.some.targets, batch_size=1,
        )  # fmt: skip

    @torch.no_grad()
    def prompts(self):
        """Embed all photographs."""
        return self.model.prompt([photograph.open() for photograph in self.some.photographs])


def fields(trial: Trial) -> pd.DataFrame:
    """Compute all scores of all units: image, question, layer, unit, and a column a score."""
    ready: list[Case] = []

    def compute(row: int) -> pd.DataFrame:
        if not ready:
            ready.extend(cases(trial.model, trial.prompts(), trial.some.targets, trial.seed))
        options = {"seed": trial.seed, "steps": trial.steps}
        return _wide(trial.model, compute_all(trial.model, ready[row], **options))

    # the mean picture, and each one's other picture, are the whole run's
    run = digest(*by_content(trial.some.photographs, trial.some.targets))
    return trial.each("scores", compute, run=run, names=list(trial.scores))


def _wide(model, found: Mapping[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    """Lay scores of one case out, a row for each question and unit."""
    layers, units = np.divmod(np.arange(model.sizes.layers * model.sizes.units), model.sizes.units)
    frames = []
    for question in QUESTIONS:
        columns = {name: values.ravel() for (asked, name), values in found.items()
                   if asked == question}  # fmt: skip
        frames.append(pd.DataFrame({"question": question, "layer": layers.astype(np.int32),
                                    "unit": units.astype(np.int32), **columns}))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def of_image(trial: Trial, table: pd.DataFrame, image: str) -> dict[tuple[str, str], np.ndarray]:
    """Take one picture's scores out of ``fields``: {(question, score): (layers, units)}."""
    shape = trial.model.sizes.layers, trial.model.sizes.units
    found = {}
    for question, rows in table[table["image"] == image].groupby("question", sort=False):
        rows = rows.sort_values(["layer", "unit"])
        names = [name for name in rows if name not in KEYS]
        found |= {(question, name): rows[name].to_numpy().reshape(shape) for name in names}
    return found


def judged(trial: Trial, table: pd.DataFrame) -> pd.DataFrame:
    """Judge every score on every picture: image, question, score, and each measure."""
    by_name, frames = trial.scores, []
    for image in trial.some.ids:
        rows = judging.judged_rows(of_image(trial, table, image), trial.losses(image), by_name)
        frames.append(rows.assign(image=image))
    found = pd.concat(frames, ignore_index=True)
    return found[["image", *(name for name in found if name != "image")]]


def curves(trial: Trial, table: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """Ablate the first k units by every score, and by the truth: what is left of the noun.

    A row for each image, question, score and k: ``left``, the probability over the whole
    model's; ``lost`` of the logit; ``alone``, the sum of what each unit alone takes.
    """

    def compute(row: int) -> pd.DataFrame:
        target, image = trial.some.targets[row], trial.some.ids[row]
        prompt = _prompt(trial, row)
        found, frames = of_image(trial, table, image), []
        for question, losses in trial.losses(image).items():
            chances = trial.chances[image, question]
            ordered = judging.orders(found, losses, chances, question, max(ks))
            labels, sets = judging.curve_sets(ordered, ks)
            lost = lost_together(trial.model, prompt, target, sets, positions=question)
            frames.append(_curve_rows(question, labels, sets, lost, losses))
        return pd.concat(frames, ignore_index=True)

    run = digest(*by_content(trial.some.photographs, trial.some.targets))
    key = {"ks": list(ks), "truth": trial.known, "names": list(trial.scores)}
    return trial.each("curves", compute, run=run, **key)


def _curve_rows(question: str, labels, sets, lost, losses: np.ndarray) -> pd.DataFrame:
    alone = [sum(float(losses[n.layer, n.unit]) for n in some) for some in sets]
    rows = pd.DataFrame(labels, columns=["score", "k"]).assign(
        question=question,
        left=(lost.whole[1] - lost.probability) / lost.whole[1],
        lost=lost.logit,
        alone=alone,
    )
    return rows[["question", "score", "k", "left", "lost", "alone"]]


def pairs(trial: Trial, top: int = 50, positions: str = "all") -> pd.DataFrame:
    """Ablate all pairs of each picture's truly first units; see ``together.pair_rows``."""

    def compute(row: int) -> pd.DataFrame:
        losses = trial.truth[trial.some.ids[row], positions]
        options = {"top": top, "positions": positions}
        target = trial.some.targets[row]
        return together.pair_rows(trial.model, _prompt(trial, row), target, losses, **options)

    return trial.each("pairs", compute, top=top, positions=positions, truth=trial.known)


def repair(trial: Trial, top: int = 20) -> pd.DataFrame:
    """Compare direct and total losses by layer; see ``together.repair_rows``."""

    def compute(row: int) -> pd.DataFrame:
        losses = trial.truth[trial.some.ids[row], "step"]
        target = trial.some.targets[row]
        return together.repair_rows(trial.model, _prompt(trial, row), target, losses, top=top)

    return trial.each("repair", compute, top=top, truth=trial.known)


@torch.no_grad()
def _prompt(trial: Trial, row: int):
    return trial.model.prompt([trial.some.photographs[row].open()])


def costs(
    trial: Trial, question: str = "all", names: Sequence[str] | None = None, sample: int = 2
) -> pd.DataFrame:
    """Count what scores cost of one picture, in units of one forward pass; the exact losses too.

    Columns score, ``passes`` (operations) and ``memory`` (peak, beside the weights); ``names``
    None for all. The exact losses of all units grow by the same with each further unit of every
    layer, so they are counted for ``sample`` units of each, and for twice as many.
    """
    model = trial.model
    case = cases(model, trial.prompts(), trial.some.targets, trial.seed)[0]
    with torch.no_grad():
        once = counted(partial(model.forward, case.prompt))
    rows = []
    for name in [*trial.scores, EXACT] if names is None else names:
        if name == EXACT:
            rows.append((name, _exact_cost(model, case, question, sample)))
        else:
            score = trial.scores[name]
            rows.append((name, counted(partial(score.compute, model, case, question))))
    return pd.DataFrame(
        [(name, cost["operations"] / once["operations"], cost["bytes"] / once["bytes"])
         for name, cost in rows],
        columns=["score", "passes", "memory"],
    )  # fmt: skip


def _exact_cost(model, case: Case, question: str, sample: int) -> dict[str, float]:
    layers = range(model.sizes.layers)
    few, more = (
        counted(partial(_some_exact, model, case, question, dict.fromkeys(layers, range(count))))
        for count in (sample, 2 * sample)
    )
    each = (more["operations"] - few["operations"]) / sample
    whole = few["operations"] + each * (model.sizes.units - sample)
    # as many rows run together as do in the whole
    many = {0: range(min(TOGETHER, model.sizes.units))}
    held = counted(partial(_some_exact, model, case, question, many))["bytes"]
    return {"operations": whole, "bytes": max(held, few["bytes"], more["bytes"])}


def _some_exact(model, case: Case, question: str, units: Mapping[int, Sequence[int]]) -> None:
    """Measure the losses of some units of each layer."""
    exact_losses(
        model, case.prompt, case.target, units=units, positions=question, batch_size=TOGETHER
    )


def truth_of(
    model, some: Subjects, *, stored: str | Path = "", per_layer: int = 0, seed: int = 0
) -> pd.DataFrame:
    """Return what each photograph's first noun loses without units: the table of the truth.

    Read from the folder ``stored``, if given, which ``truth.save`` wrote into; else computed, or
    loaded if it has been: of all units, or of ``per_layer`` random ones of each layer, the same
    for all photographs. ``ValueError`` for a sample of what is stored, for the truth of another
    system, and where the folder lacks one of the photographs' nouns.
    """
    if stored and per_layer:
        raise ValueError(
            f"per_layer = {per_layer}, but {stored} has all units; set one of them to nothing"
        )
    if stored:
        return pd.concat(
            [_stored(model, some, Path(stored), question) for question in QUESTIONS],
            ignore_index=True,
        )
    if not per_layer:
        return truth_table(model, some)
    return _sampled(model, some, per_layer, seed)


def _stored(model, some: Subjects, folder: Path, question: str) -> pd.DataFrame:
    """Read the truth of the photographs' first nouns for one question, of all that a file has."""
    path = folder / f"truth-{question}.parquet"
    table = load(path, model).astype({"image": str, "positions": str})
    there = pd.MultiIndex.from_frame(table[["image", "token"]])
    wanted = [(target.image, target.token) for target in some.targets]
    absent = [pair for pair in wanted if pair not in there]
    if absent:
        raise ValueError(
            f"stored = {str(folder)!r}: {path.name} has {len(there.unique())} pairs of picture and "
            f"noun, but not {len(absent)} of the {len(some)} that n_images asks for, such as that "
            f"of {absent[0][0]!r}; lower n_images, store more (make court SHIP={len(some)}), or "
            "leave stored empty to have them computed"
        )
    return table[there.isin(wanted)]


def _sampled(model, some: Subjects, per_layer: int, seed: int) -> pd.DataFrame:
    """Measure the losses of some random units of each layer, or load them."""
    sizes, rng = model.sizes, np.random.default_rng(seed)
    count = min(per_layer, sizes.units)
    units = {layer: rng.permutation(sizes.units)[:count] for layer in range(sizes.layers)}

    def compute(rows: list[int]) -> pd.DataFrame:
        frames = []
        for row in rows:
            target = some.targets[row]
            with torch.no_grad():
                prompt = model.prompt([some.photographs[row].open()])
            for question in QUESTIONS:
                lost = exact_losses(model, prompt, target, units=units, positions=question)
                frames.append(rows_of(target, lost, question))
        return pd.concat(frames, ignore_index=True)

    return per_photograph(
        "court-sample", model, some.photographs, compute, {"per_layer": count, "seed": seed},
        targets=some.targets, batch_size=1,
    )  # fmt: skip
