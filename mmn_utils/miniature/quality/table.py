"""The table of measures: what was required of each, and what was reached.

``REQUIRED`` is the one list of what is measured and what must be reached.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import numpy as np
import pandas as pd

from mmn_utils.miniature.quality.intervals import (
    NOTHING,
    Result,
    divide,
    mean,
    ratio,
    resampled,
    share,
)
from mmn_utils.miniature.quality.measurement import ALIKE, LOOKS, Quality
from mmn_utils.miniature.quality.units import TOP, layer_counts, overlaps

#: Each measure in the table's order, with what is required of it.
REQUIRED = {
    "first noun is in the scene": ">= 0.75",
    "first noun, untrained encoder": "<= 0.20",
    "first noun, untrained projection": "<= 0.20",
    "first noun, looks never seen": "",
    "first noun, looks like trained ones": "",
    "objects of the scene that are named": "",
    "objects named, looks never seen": "",
    "objects named, looks like trained ones": "",
    "named objects that are there": "",
    "background is named": "",
    "noun's probability left, top units ablated": "<= 0.35",
    "noun's probability left, top units by sum ablated": "",
    "noun's probability left, random units ablated": ">= 0.95",
    "the same of the mean probability, top units": "",
    "IoU of top units": "",
    "IoU of random units": "",
    "IoU, top over random": ">= 1.8",
    "top-20 overlap, same concept": "",
    "top-20 overlap, different concepts": "",
    "top-20 overlap, same over different": ">= 5",
    "layer with most top units": ">= 1",
    "layer with most top units, by sum": ">= 1",
    "top units in layer 0": "",
    "top units that are negative": "",
    "top units that are negative, by sum": "",
    "top units naming the concept": "",
    "random units naming the concept": "",
    "naming the concept, top over random": ">= 5",
    "top units naming the concept, by sum": "",
    "random units naming the concept, by sum": "",
    "naming the concept by sum, top over random": ">= 5",
    "object patches near a word of their card": "",
    "random vectors near a word of the card": "",
}
_SIGNS = {">=": operator.ge, "<=": operator.le}


def quality_table(quality: Quality) -> pd.DataFrame:
    """Return the table that notebook 00 shows, one row a measure in the order of ``REQUIRED``.

    Columns: measure, value, ci_low, ci_high (95 %, over scenes), n (scenes),
    required, met ("yes", "no", or "" where nothing is required or nothing could be
    measured). A measure without data has no value.
    """
    found = _captions(quality.captions) | _units(quality) | _patches(quality.patches)
    rows = [(name, *found.get(name, NOTHING), text) for name, text in REQUIRED.items()]
    columns = ["measure", "value", "ci_low", "ci_high", "n", "required"]
    table = pd.DataFrame(rows, columns=columns)
    table["met"] = [_verdict(v, r) for v, r in zip(table["value"], table["required"], strict=True)]
    return table


def _verdict(value: float, required: str) -> str:
    """Compare a value with a requirement such as ``>= 0.75``."""
    if not required or not np.isfinite(value):
        return ""
    sign, bound = required.split()
    return "yes" if _SIGNS[sign](value, float(bound)) else "no"


def _captions(captions: Mapping[str, pd.DataFrame]) -> dict[str, Result]:
    trained = captions["trained"]
    found = {
        "first noun is in the scene": share(trained["right"]),
        "objects of the scene that are named": share(trained["recall"]),
        "named objects that are there": share(trained["precision"]),
        "background is named": share(trained["background"]),
    }
    for name, rows in captions.items():
        if name != "trained":
            found[f"first noun, {name}"] = share(rows["right"])
        if name in (LOOKS, ALIKE):
            found[f"objects named, {name}"] = share(rows["recall"])
    return found


def _units(quality: Quality) -> dict[str, Result]:
    units, best, summed = quality.units, quality.tops["max"], quality.tops["sum"]
    if units.empty:
        return {}
    left = "noun's probability left, {} units ablated"
    found = {
        # The mean over scenes, as paper A's "by 80% on average" reads; the other reading beside it.
        left.format("top"): mean(units["without_top"] / units["probability"]),
        left.format("top").replace("units", "units by sum"): mean(
            units["without_top_sum"] / units["probability"]
        ),
        left.format("random"): mean(units["without_random"] / units["probability"]),
        "the same of the mean probability, top units": ratio(
            units["without_top"], units["probability"]
        ),
        "IoU of top units": share(units["iou_top"]),
        "IoU of random units": share(units["iou_random"]),
        "IoU, top over random": ratio(units["iou_top"], units["iou_random"]),
        "layer with most top units": _peak(best, quality.layers),
        "layer with most top units, by sum": _peak(summed, quality.layers),
        "top units in layer 0": share(layer_counts(best, quality.layers)[0] / TOP),
    }
    for rank, after in (("max", ""), ("sum", " by sum")):
        top, other = units[f"card_{rank}"], units[f"card_{rank}_random"]
        comma = "," if after else ""
        negative = quality.tops[rank]["activation"] < 0
        found[f"top units that are negative{comma}{after}"] = share(
            negative.groupby(quality.tops[rank]["image"]).mean()
        )
        found[f"top units naming the concept{comma}{after}"] = share(top)
        found[f"random units naming the concept{comma}{after}"] = share(other)
        found[f"naming the concept{after}, top over random"] = ratio(top, other)
    return found | _overlap(best)


def _overlap(table: pd.DataFrame) -> dict[str, Result]:
    """Mean overlap of pairs of scenes with the same and with different target nouns."""
    shared, same = overlaps(table)
    other = ~np.eye(len(same), dtype=bool)
    parts = {"same": same & other, "different": ~same}

    def pairs(rows: np.ndarray, part: str) -> np.ndarray:
        # A resample weighs a pair by how often both of its scenes were drawn.
        weights = np.stack([np.bincount(row, minlength=len(same)) for row in rows]).astype(float)
        held = parts[part].astype(float)
        return divide(
            ((weights @ (held * shared)) * weights).sum(1), ((weights @ held) * weights).sum(1)
        )

    name, count = "top-20 overlap, {}".format, len(same)
    return {
        name("same concept"): resampled(count, lambda r: pairs(r, "same")),
        name("different concepts"): resampled(count, lambda r: pairs(r, "different")),
        name("same over different"): resampled(
            count, lambda r: divide(pairs(r, "same"), pairs(r, "different"))
        ),
    }


def _peak(table: pd.DataFrame, layers: int) -> Result:
    counts = layer_counts(table, layers).to_numpy()
    return resampled(len(counts), lambda rows: counts[rows].sum(1).argmax(1).astype(float))


def _patches(patches: pd.DataFrame) -> dict[str, Result]:
    return {
        "object patches near a word of their card": ratio(patches["named"], patches["patches"]),
        "random vectors near a word of the card": ratio(patches["random"], patches["patches"]),
    }
