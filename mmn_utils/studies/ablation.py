"""What captions lose without their neurons, over many images: paper A, section 3.3 and S.5.

One sweep an image (``interventions.sweeps``), all conditions as rows of one batch, kept by
the cache image by image; then the curves of Figures 6 and S.3 and the captions of Table S.3.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from mmn_utils.interventions.ablation import unit_means
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.measures.bertscore import bertscore
from mmn_utils.measures.estimates import Estimate, bootstrap, difference_of, mean_of
from mmn_utils.neurons.decoding import decode_vectors
from mmn_utils.neurons.table import Neuron, random_like, unique_neurons
from mmn_utils.neurons.targets import Target
from mmn_utils.neurons.text import WORDS_NEEDED, is_dictionary_word
from mmn_utils.studies.store import by_content, digest, per_photograph
from mmn_utils.studies.subjects import Subjects, top_neurons

CONDITIONS = ("top", "interpretable", "random")
PAPER_COUNTS = (0, 50, 100, 200, 400, 800, 1600, 3200, 6400)  # S.5 ...
PAPER_UNITS = 28 * 16384  # ... of GPT-J's
COLUMNS = ["image", "condition", "k", "probability", "logit", "caption", "changed", "margin",
           "within_rounding", "touched", "noise"]  # fmt: skip
CURVE = ["condition", "k", "mean", "low", "high", "n"]


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


@torch.no_grad()
def interpretable_units(model) -> np.ndarray:
    """Say which units are interpretable, as ``text`` defines it: bool (layers, units)."""
    word = torch.tensor([is_dictionary_word(text) for text in model.token_strings])
    layers = (decode_vectors(model, model.write_vectors(i))[0] for i in range(model.sizes.layers))
    return torch.stack([word[ids].sum(1) >= WORDS_NEEDED for ids in layers]).numpy()


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
    max_new_tokens: int = 20,
    seed: int = 0,
    mean_images: int = 64,
    batch_size: int = 4,
    batch_rows: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Ablate each image's top, interpretable and random units; computed or loaded.

    One row per (image, condition, k): ``probability`` and ``logit`` of the caption's noun
    at its step, the new ``caption``, whether it ``changed``, and there the ``margin`` of
    the logits and whether that lies ``within_rounding``; ``touched`` activations. Rows of
    k = 0 are the whole model's. ``value`` 0 or ``mean``, each unit's mean over the patches
    of the first ``mean_images`` photographs. The random draw depends on seed and image alone.
    """
    if not ks or ks[0] != 0:
        raise ValueError(f"ks={list(ks)}: begin with 0, the whole model, to compare with")
    readable = interpretable_units(model)
    reference = subjects.photographs[:mean_images]
    means = unit_means(model, [p.open() for p in reference]) if value == "mean" else None
    options = {"positions": positions, "value": value, "means": means, "batch_rows": batch_rows}
    ranked = _rank(model, subjects, readable, max(ks), target, rank_by, progress)

    def compute(rows: list[int]) -> pd.DataFrame:
        prompts = model.prompt([subjects.photographs[row].open() for row in rows])
        frames = []
        for at, row in enumerate(rows):
            goal, image = subjects.targets[row], subjects.photographs[row].id
            spec, labels = _conditions(goal, ranked[image], readable, ks, seed)
            result = sweep(model, prompts.select([at]), goal, spec, max_new_tokens, **options)
            frames.append(_sweep_rows(image, labels, result))
        return pd.concat(frames, ignore_index=True)

    asked = {"ks": list(ks), "target": target, "rank_by": rank_by, "positions": positions}
    more = {"value": value, "max_new_tokens": max_new_tokens, "seed": seed,
            "means_of": digest(*by_content(reference)) if means else None}  # fmt: skip
    return per_photograph(
        "ablation", model, subjects.photographs, compute, {**asked, **more},
        targets=subjects.targets, batch_size=batch_size, progress=progress,
    )  # fmt: skip


def _conditions(
    target: Target, ranked: Sequence[Neuron], readable: np.ndarray, ks: Sequence[int], seed: int
) -> tuple[list[list[Neuron]], pd.DataFrame]:
    """Make one image's rows; its random draw depends on seed and image alone."""
    rng = np.random.default_rng([seed, zlib.crc32(target.image.encode())])
    words = {neuron: bool(readable[neuron.layer, neuron.unit]) for neuron in ranked}
    return ablation_rows(ranked, words, ks, readable.shape[1], rng)


def _rank(
    model,
    subjects: Subjects,
    readable: np.ndarray,
    most: int,
    target: str,
    rank_by: str,
    progress: bool,
) -> dict[str, list[Neuron]]:
    """Rank each image's units, deep enough that ``most`` of them are interpretable."""
    total, depth = readable.size, min(readable.size, 2 * most)
    ranked: dict[str, list[Neuron]] = {}
    left = subjects
    while True:
        table = top_neurons(
            model, left, k=max(depth, 1), target=target, rank_by=rank_by, progress=progress
        )
        found = {image: unique_neurons(part) for image, part in table.groupby("image", sort=False)}
        count = {i: sum(readable[n.layer, n.unit] for n in some) for i, some in found.items()}
        ranked |= {image: some for image, some in found.items() if count[image] >= most}
        short = [image for image in left.ids if image not in ranked]
        if not short:
            return ranked
        if depth == total:
            raise ValueError(f"{min(count.values())} interpretable units among all {total}, {most} "
                             "are to be ablated; lower the largest count")  # fmt: skip
        left, depth = left.select(short), min(total, 2 * depth)


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


def add_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``relative``, the probability over the whole model's of the same image and condition."""
    whole = table[table["k"] == 0].set_index(["image", "condition"])["probability"]
    before = whole.loc[list(zip(table["image"], table["condition"], strict=True))].to_numpy()
    return table.assign(relative=table["probability"].to_numpy() / before)


def add_similarity(table: pd.DataFrame, encoder: str | None = None) -> pd.DataFrame:
    """Add ``bertscore`` (F1) of each caption against the whole model's of the same image (S.5).

    ``encoder`` as ``bertscore`` takes it. Pairs that come again are scored once, and an unchanged
    caption is 1 without being scored.
    """
    whole = table[table["k"] == 0].set_index(["image", "condition"])["caption"]
    before = whole.loc[list(zip(table["image"], table["condition"], strict=True))]
    pairs = list(dict.fromkeys(zip(table["caption"], before, strict=True)))
    changed = [(new, old) for new, old in pairs if new != old]
    values = bertscore([new for new, _ in changed], [[old] for _, old in changed], encoder)
    known = {**dict.fromkeys(pairs, 1.0), **dict(zip(changed, values, strict=True))}
    return table.assign(bertscore=[known[p] for p in zip(table["caption"], before, strict=True)])


def unrelated(table: pd.DataFrame, encoder: str | None = None) -> np.ndarray:
    """Score each image's own caption against that of the image before it: BERTScore (images,).

    What captions of a model have in common anyway, the floor of Figure S.3.
    """
    whole = table[(table["k"] == 0) & (table["condition"] == CONDITIONS[0])]["caption"].tolist()
    return bertscore([whole[-1], *whole[:-1]], [[text] for text in whole], encoder)


def curves(table: pd.DataFrame, value: str, of_units: int, seed: int = 0) -> pd.DataFrame:
    """Average a column over images: one row per (condition, k) with its bootstrap interval.

    Columns condition, k, mean, low, high, n, and ``share of units``, of all ``of_units``.
    """
    rows = []
    for condition in CONDITIONS:
        some = table[table["condition"] == condition]
        for k, values in some.groupby("k", sort=True)[value]:
            mean = mean_of(values, seed)
            rows.append((condition, int(k), mean.value, mean.low, mean.high, mean.n, k / of_units))
    return pd.DataFrame(rows, columns=[*CURVE, "share of units"])


def probability_curves(table: pd.DataFrame, of_units: int, seed: int = 0) -> pd.DataFrame:
    """Average the noun's probability over images (Figure 6), as ``curves`` do.

    mean, low and high are there twice, ``relative`` to the whole model and ``absolute``.
    """
    values = ("relative", "probability")
    relative, absolute = (curves(table, value, of_units, seed) for value in values)
    shared, suffixes = ["condition", "k", "n", "share of units"], (" relative", " absolute")
    both = relative.merge(absolute, on=shared, suffixes=suffixes)
    return both[[name for name in both if name != "share of units"] + ["share of units"]]


def at(table: pd.DataFrame, condition: str, k: int, value: str) -> np.ndarray:
    """Return one condition's values at one k, in the order of the images' ids."""
    rows = table[(table["condition"] == condition) & (table["k"] == k)]
    return rows.sort_values("image")[value].to_numpy(float)


def means_at(table: pd.DataFrame, k: int, value: str, seed: int = 0) -> dict[str, Estimate]:
    """Average a column over images at one k, for each condition."""
    return {name: mean_of(at(table, name, k, value), seed) for name in CONDITIONS}


def gaps_at(table: pd.DataFrame, k: int, value: str, seed: int = 0) -> dict[str, Estimate]:
    """Return by how much random units leave more of a value than top and interpretable ones do.

    The mean difference at one k, image by image.
    """
    left = {name: at(table, name, k, value) for name in CONDITIONS}
    chosen = [name for name in CONDITIONS if name != "random"]
    return {name: difference_of(left["random"], left[name], seed) for name in chosen}


def first_below(table: pd.DataFrame, condition: str, value: str, level: float) -> int | None:
    """Return the smallest k at which a condition's mean is below a level, None where none is."""
    means = table[table["condition"] == condition].groupby("k", sort=True)[value].mean()
    return next((int(k) for k, mean in means.items() if mean < level), None)


def changes(table: pd.DataFrame) -> dict[str, float]:
    """Count what ablations did to captions, and how many changes rounding may have made.

    ``ablations``; of them ``changed``; of these ``within_rounding``; the largest ``noise`` of a
    logit difference; the median ``margin`` of changed words, NaN where no caption changed.
    """
    ablated = table[table["k"] > 0]
    changed = ablated[ablated["changed"]]
    return {
        "ablations": len(ablated),
        "changed": len(changed),
        "within_rounding": int(changed["within_rounding"].sum()),
        "noise": float(table["noise"].max()),
        "margin": float(changed["margin"].median()),
    }


def example(table: pd.DataFrame) -> tuple[str, int | None]:
    """Choose the image whose captions Figure 6 shows: the first of the table that tells most.

    One whose caption changes without top units, at the middle of all k or else at the largest,
    and does not without as many random units as the largest k. Returned with the k at which it
    changes, or None where no image is so and the first one has to do.
    """
    ks = sorted(table["k"].unique().tolist())
    calm = ~_changed(table, "random", ks[-1])
    for k in (ks[len(ks) // 2], ks[-1]):
        telling = _changed(table, "top", k) & calm
        if telling.any():
            return telling.idxmax(), k
    return table["image"].iloc[0], None


def _changed(table: pd.DataFrame, condition: str, k: int) -> pd.Series:
    """Say of each image whether its caption changed, by image, in the order of the table."""
    rows = table[(table["condition"] == condition) & (table["k"] == k)]
    return rows.set_index("image")["changed"].astype(bool)


def captions_along(table: pd.DataFrame, image: str) -> pd.DataFrame:
    """List one image's captions as more units go: a row per k, a column per condition."""
    wide = table[table["image"] == image].pivot(index="k", columns="condition", values="caption")
    return wide[list(CONDITIONS)].rename_axis(columns=None).reset_index()


def steps_down(table: pd.DataFrame, condition: str, value: str, seed: int = 0) -> Estimate:
    """Return the share of steps from one k to the next at which the mean falls.

    Images are resampled whole, so that the curve of a resample is that of its images.
    """
    wide = table[table["condition"] == condition].pivot(index="image", columns="k", values=value)
    values = wide.sort_index(axis=1).to_numpy(float)
    return bootstrap(lambda some: (np.diff(some.mean(0)) < 0).mean(), values, seed=seed)


def what_stays(
    table: pd.DataFrame, condition: str, k: int, noun_of: Mapping[str, str]
) -> pd.DataFrame:
    """Say of each image's caption after ablation what is left of the whole model's.

    Columns image, ``noun`` (the caption still holds the word ``noun_of`` the image) and
    ``opening`` (it still begins with the same word), in the order of the table.
    """
    rows = table[table["condition"] == condition]
    whole = rows[rows["k"] == 0].set_index("image")["caption"]
    left = rows[rows["k"] == k].set_index("image")["caption"]
    words = {image: re.findall(r"\w+", text.lower()) for image, text in left.items()}
    before = {image: re.findall(r"\w+", text.lower()) for image, text in whole.items()}
    return pd.DataFrame(
        {
            "image": list(words),
            "noun": [noun_of[image].lower() in some for image, some in words.items()],
            "opening": [some[:1] == before[image][:1] for image, some in words.items()],
        }
    )


def caption_table(
    table: pd.DataFrame, images: Sequence[str], names: Mapping[str, str], of_units: int
) -> pd.DataFrame:
    """Lay captions and their BERTScores out as Table S.3: one row per (image, k).

    ``names`` say how the conditions are called; the share is of all ``of_units`` units.
    """
    blocks = []
    for image in images:
        rows = table[table["image"] == image]
        block = {condition: some.set_index("k") for condition, some in rows.groupby("condition")}
        ks = sorted(rows["k"].unique())
        columns: dict[str, Any] = {
            "image": [image] * len(ks),
            "ablated": ks,
            "share": [f"{100 * k / of_units:.3g} %" for k in ks],
        }
        for condition, name in names.items():
            columns[name] = block[condition].loc[ks, "caption"].tolist()
            columns[f"BERTScore, {name}"] = block[condition].loc[ks, "bertscore"].round(3).tolist()
        blocks.append(pd.DataFrame(columns))
    return pd.concat(blocks, ignore_index=True)
