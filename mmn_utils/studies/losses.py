"""What captions lose without their neurons: Figures 6 and S.3 and Table S.3 of paper A.

Read off a table as from ``ablation.ablation_table``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.measures.bertscore import bertscore
from mmn_utils.measures.estimates import Estimate, mean_of, share_of
from mmn_utils.neurons.text import says
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
    """Average a column over images: one row per (condition, k) with its interval.

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


def by_condition(table: pd.DataFrame, value: str, **more: str) -> pd.DataFrame:
    """Lay a column of the table out, a row for each (image, k), a column for each condition.

    ``more`` names further columns of the table, laid out beside it: ``absolute="probability"``
    gives ``absolute_top`` and so on.
    """
    blocks = []
    for name, column in {"": value, **more}.items():
        wide = table.pivot(index=["image", "k"], columns="condition", values=column)
        blocks.append(wide[list(CONDITIONS)].add_prefix(f"{name}_" if name else ""))
    laid = pd.concat(blocks, axis=1).rename_axis(columns=None).reset_index()
    order = {image: place for place, image in enumerate(table["image"].unique())}
    return laid.sort_values("image", key=lambda some: some.map(order), kind="stable",
                            ignore_index=True)  # fmt: skip


def means_at(table: pd.DataFrame, k: int, value: str, seed: int = 0) -> dict[str, Estimate]:
    """Average a column over images at one k, for each condition."""
    wide = by_condition(table, value)
    return {name: mean_of(wide.loc[wide["k"] == k, name], seed) for name in CONDITIONS}


def changed_at(table: pd.DataFrame, k: int, seed: int = 0) -> dict[str, Estimate]:
    """Return the share of captions that change at one k, for each condition.

    What rounding alone may have changed does not count.
    """
    return {name: share_of(_changed(table, name, k), seed) for name in CONDITIONS}


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


@dataclass(frozen=True)
class Example:
    """The image whose captions Figure 6 shows.

    ``changes_at`` is the k of top units at which its caption changes, None where no image is as
    asked for; ``right`` says whether its caption names only what the image shows.
    """

    image: str
    changes_at: int | None
    right: bool


def example(table: pd.DataFrame, is_right: Mapping[str, bool]) -> Example:
    """Choose the image whose captions Figure 6 shows: the first of the table that tells most.

    Its caption changes without top units, at the middle of all k or else at the largest, and does
    not without as many random units as the largest k. It ``is_right``, if any such image is.
    Where none is so, the first right one, or the first of all.
    """
    ks = sorted(table["k"].unique().tolist())
    calm = ~_changed(table, "random", ks[-1])
    right = calm.index.map(is_right).to_numpy(bool)
    for kind in (right, ~right):
        for k in (ks[len(ks) // 2], ks[-1]):
            telling = _changed(table, "top", k) & calm & kind
            if telling.any():
                return Example(telling.idxmax(), k, is_right[telling.idxmax()])
    first = calm.index[right.argmax()]
    return Example(first, None, is_right[first])


def _changed(table: pd.DataFrame, condition: str, k: int) -> pd.Series:
    """Say of each image whether its caption changed, by image, in the order of the table.

    What rounding alone may have changed has not.
    """
    some = table[(table["condition"] == condition) & (table["k"] == k)].set_index("image")
    return some["changed"].astype(bool) & ~some["within_rounding"].astype(bool)


def captions_along(table: pd.DataFrame, image: str) -> pd.DataFrame:
    """List one image's captions as more units go: a row per k, a column per condition."""
    wide = table[table["image"] == image].pivot(index="k", columns="condition", values="caption")
    return wide[list(CONDITIONS)].rename_axis(columns=None).reset_index()


def endings(table: pd.DataFrame, k: int, noun_of: Mapping[str, str]) -> pd.DataFrame:
    """Say of each image's caption what is left of it without k units, a row an image.

    Columns image, ``noun`` (its first), ``caption`` (of the whole model), and for each condition
    the new one, called as the condition, with three answers: ``<condition>_noun``, it still has the
    noun as a word; ``_same``, it is the same text, but for what lies within rounding;
    ``_opening``, it begins with the same word.
    """
    whole = table[(table["k"] == 0) & (table["condition"] == CONDITIONS[0])]
    before = whole.set_index("image")["caption"]
    columns: dict[str, Any] = {
        "image": list(before.index),
        "noun": [noun_of[image] for image in before.index],
        "caption": before.to_list(),
    }
    for name in CONDITIONS:
        some = table[(table["condition"] == name) & (table["k"] == k)].set_index("image")
        after = some["caption"].loc[before.index]
        columns[name] = after.to_list()
        pairs = list(zip(after, before, strict=True))
        columns[f"{name}_noun"] = [
            says(text, noun) for text, noun in zip(after, columns["noun"], strict=True)
        ]
        columns[f"{name}_same"] = (~_changed(table, name, k)).loc[before.index].to_list()
        columns[f"{name}_opening"] = [_opening(new) == _opening(old) for new, old in pairs]
    return pd.DataFrame(columns)


def openings_alike(ends: pd.DataFrame) -> float:
    """Return how often two of the untouched captions begin with the same word; NaN of one."""
    counts, n = ends["caption"].map(_opening).map(tuple).value_counts(), len(ends)
    return float((counts * (counts - 1)).sum() / (n * (n - 1))) if n > 1 else float("nan")


def _opening(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())[:1]


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
