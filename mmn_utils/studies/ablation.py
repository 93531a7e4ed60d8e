"""Captions without their neurons, over many images: paper A, section 3.3 and S.5.

One sweep an image (``interventions.sweeps``), all conditions as rows of one batch, kept by
the cache image by image. What the table says is read off it in ``losses``.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.interventions.ablation import unit_means
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.neurons.table import Neuron, neurons_of, random_like, unique_rows
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.signs import Readable, interpretable_ends, interpretable_rows
from mmn_utils.studies.store import by_content, digest, per_photograph
from mmn_utils.studies.subjects import Subjects, top_neurons

CONDITIONS = ("top", "interpretable", "random")
PAPER_COUNTS = (0, 50, 100, 200, 400, 800, 1600, 3200, 6400)  # S.5 ...
PAPER_UNITS = 28 * 16384  # ... of GPT-J's
SPARE = 1.5  # of the units that would hold enough interpretable ones if these were anywhere
COLUMNS = ["image", "condition", "k", "probability", "logit", "caption", "changed", "margin",
           "within_rounding", "touched", "noise"]  # fmt: skip


def scaled_counts(
    model, counts: Sequence[int] = PAPER_COUNTS, of_units: int = PAPER_UNITS
) -> list[int]:
    """Scale numbers of ablated units to a model's size: the same share, rounded up, once each.

    Zero stays zero, anything else is at least one unit; for a model of ``of_units`` units
    the counts are what they were.
    """
    total = model.sizes.layers * model.sizes.units
    if any(not 0 <= count <= of_units for count in counts):
        raise ValueError(f"counts={list(counts)}: give numbers from 0 to {of_units}")
    return list(dict.fromkeys(-(-count * total // of_units) for count in counts))


def ablation_rows(
    ranked: Sequence[Neuron],
    interpretable: Mapping[Neuron, bool],
    ks: Sequence[int],
    units: int,
    rng: np.random.Generator,
) -> tuple[list[list[Neuron]], pd.DataFrame]:
    """Make a sweep's rows for the conditions of paper A's Fig. 6: top, interpretable, random.

    ``top`` takes the first k of ``ranked``, ``interpretable`` the first k that are, ``random``
    k units of the same layers as the top k, none of them ranked that high; larger k contain
    smaller ones. Returns rows, and labels with the columns condition, k, row; the row of
    k = 0 is shared by the three. ``ValueError`` where ``ranked`` is too short.
    """
    ranked, largest = list(dict.fromkeys(ranked)), max(ks, default=0)
    readable = [neuron for neuron in ranked if interpretable.get(neuron, False)]
    for name, found in (("ranked", ranked), ("interpretable", readable)):
        if len(found) < largest:
            raise ValueError(f"{len(found)} {name} neurons for k={largest}; rank more or lower k")
    drawn = random_like(ranked[:largest], units, rng)
    rows, labels, shared = [], [], None
    for condition, ordered in zip(CONDITIONS, (ranked, readable, drawn), strict=True):
        for k in ks:
            if k == 0 and shared is not None:
                labels.append((condition, 0, shared))
                continue
            shared = len(rows) if k == 0 else shared
            labels.append((condition, k, len(rows)))
            rows.append(list(ordered[:k]))
    return rows, pd.DataFrame(labels, columns=["condition", "k", "row"])


def ablation_table(
    model,
    subjects: Subjects,
    ks: Sequence[int],
    *,
    target: str = "logit",
    rank_by: str = "max",
    positions: str = "all",
    value: str | float = 0.0,
    decoder: Mapping[str, Any] = MappingProxyType({}),
    max_new_tokens: int = 20,
    seed: int = 0,
    mean_images: int = 64,
    batch_size: int = 4,
    batch_rows: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Ablate each image's top, interpretable (``signs``) and random units; computed or loaded.

    One row per (image, condition, k): ``probability`` and ``logit`` of the caption's noun
    at its step, the new ``caption``, whether it ``changed``, and there the ``margin`` of
    the logits and whether that lies ``within_rounding``; ``touched`` activations. Rows of
    k = 0 are the whole model's. ``value`` 0 or ``mean``, each unit's over the patches of the first
    ``mean_images`` photographs; ``decoder`` as for ``interpretable_ends``. Draws depend on seed
    and image alone.
    """
    _require_whole(ks)
    readable = interpretable_ends(model, **decoder)
    reference = subjects.photographs[:mean_images]
    means = unit_means(model, [p.open() for p in reference]) if value == "mean" else None
    where = {"positions": positions, "value": value}
    options = {**where, "means": means, "batch_rows": batch_rows}
    ranked = _rank(model, subjects, readable, max(ks), target, rank_by, progress)

    def compute(rows: list[int]) -> pd.DataFrame:
        prompts = model.prompt([subjects.photographs[row].open() for row in rows])
        frames = []
        for at, row in enumerate(rows):
            goal, image = subjects.targets[row], subjects.photographs[row].id
            spec, labels = _conditions(goal, ranked[image], model.sizes.units, ks, seed)
            result = sweep(model, prompts.select([at]), goal, spec, max_new_tokens, **options)
            frames.append(_sweep_rows(image, labels, result))
        return pd.concat(frames, ignore_index=True)

    asked = {**where, "ks": list(ks), "target": target, "rank_by": rank_by, "seed": seed,
             "decoder": dict(decoder), "max_new_tokens": max_new_tokens,
             "means_of": digest(*by_content(reference)) if means else None}  # fmt: skip
    about = {"targets": subjects.targets, "batch_size": batch_size, "progress": progress}
    return per_photograph("ablation", model, subjects.photographs, compute, asked, **about)


def _require_whole(ks: Sequence[int]) -> None:
    if not ks or ks[0] != 0:
        raise ValueError(f"ks={list(ks)}: begin with 0, the whole model, to compare with")


def _conditions(
    target: Target, ranked: Mapping[Neuron, bool], units: int, ks: Sequence[int], seed: int
) -> tuple[list[list[Neuron]], pd.DataFrame]:
    """Make one image's rows; its random draw depends on seed and image alone."""
    rng = np.random.default_rng([seed, zlib.crc32(target.image.encode())])
    return ablation_rows(list(ranked), ranked, ks, units, rng)


def _rank(
    model,
    subjects: Subjects,
    readable: Readable,
    most: int,
    target: str,
    rank_by: str,
    progress: bool,
) -> dict[str, dict[Neuron, bool]]:
    """Rank each image's units, deep enough that ``most`` of them are interpretable.

    {image: {unit, best first: is it interpretable?}}. Where few units are, the first ranking
    goes deeper, since each deeper one costs its passes again.
    """
    total = readable[1].size
    share = max(np.mean([ends.mean() for ends in readable.values()]), most / total)
    depth = min(total, max(2 * most, round(SPARE * most / share)))
    ranked: dict[str, dict[Neuron, bool]] = {}
    left = subjects
    while True:
        table = top_neurons(
            model, left, k=max(depth, 1), target=target, rank_by=rank_by, progress=progress
        )
        found = {i: _readable(readable, rows) for i, rows in table.groupby("image", sort=False)}
        count = {image: sum(some.values()) for image, some in found.items()}
        ranked |= {image: some for image, some in found.items() if count[image] >= most}
        short = [image for image in left.ids if image not in ranked]
        if not short:
            return ranked
        if depth == total:
            raise ValueError(f"{min(count.values())} interpretable units among all {total}, {most} "
                             "are to be ablated; lower the largest count")  # fmt: skip
        left, depth = left.select(short), min(total, 2 * depth)


def _readable(readable: Readable, rows: pd.DataFrame) -> dict[Neuron, bool]:
    """Say which of one image's units are interpretable where they scored best, best first."""
    # So deep a ranking reaches units of a layer that nothing reads at the image, of score 0 and
    # without an activation: they wrote nothing, like those of activation 0.
    rows = unique_rows(rows.fillna({"activation": 0.0}))
    return dict(zip(neurons_of(rows), interpretable_rows(readable, rows).tolist(), strict=True))


def _sweep_rows(image: str, labels: pd.DataFrame, result) -> pd.DataFrame:
    """Lay one image's sweep out, a row for each label."""
    rows = labels["row"].to_numpy()
    captions = np.array([caption.text for caption in result.captions], dtype=object)
    columns = {
        "image": image,
        "condition": labels["condition"].to_numpy(),
        "k": labels["k"].to_numpy(),
        "probability": result.probability[rows],
        "logit": result.logit[rows],
        "caption": captions[rows],
        "changed": result.changed[rows],
        "margin": result.margin[rows],
        "within_rounding": result.within_rounding[rows],
        "touched": result.touched[rows],
        "noise": result.noise,
    }
    return pd.DataFrame(columns)[COLUMNS]
