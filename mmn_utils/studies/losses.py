"""What captions lose without their neurons: Figures 6 and S.3 and Table S.3 of paper A.

Read off a table as from ``ablation.ablation_table``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.measures.bertscore import bertscore
from mmn_utils.measures.estimates import Estimate, bootstrap, difference_of, mean_of
from mmn_utils.studies.ablation import CONDITIONS

CURVE = ["condition", "k", "mean", "low", "high", "n"]


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
