"""Photographs and units that stand for all of them: chosen by rule, and shown with their regions.

Of a table of top units as from ``translation.ranked``, or of pairs as from ``translation.pairs``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from mmn_utils.datasets import Photograph
from mmn_utils.neurons.decoding import SIGN, WORDS, decode
from mmn_utils.neurons.receptive_fields import (
    QUANTILE,
    activation_maps,
    mask,
    seen_part,
    seen_picture,
    upsample,
)
from mmn_utils.neurons.table import Neuron, address
from mmn_utils.studies.agreement import writes_noun
from mmn_utils.studies.annotations import mentions, patches_on
from mmn_utils.studies.subjects import Subjects


def telling(top: pd.DataFrame, subjects: Subjects) -> pd.Series:
    """Choose the row of ``ranked`` that Figure 1 shows, by rule and not by eye.

    The best one that is interpretable and whose loudest word is the caption's noun, of a
    photograph that shows it (``chosen`` "loudest"); where there is none, one that writes the noun
    among its words ("writes"); then of any photograph ("unseen"); then of the interpretable
    ("readable"); then of all ("first").
    """
    pairs = zip(subjects.photographs, subjects.targets, strict=True)
    shown = top["image"].map({p.id: mentions(p, word.noun) for p, word in pairs}).astype(bool)
    readable = top["interpretable"]
    writes = readable & top["writes_noun"]
    said = zip(top["tokens"], top["target"], strict=True)
    loudest = writes & np.array([writes_noun(tokens[:1], noun) for tokens, noun in said])
    choices = {
        "loudest": loudest & shown,
        "writes": writes & shown,
        "unseen": writes,
        "readable": readable,
        "first": readable | True,
    }
    chosen = next(name for name, rows in choices.items() if rows.any())
    return pd.concat([top[choices[chosen]].iloc[0], pd.Series({"chosen": chosen})])


@dataclass(frozen=True)
class Spoken:
    """What a unit wrote where it was found, and how loudly.

    ``unit`` is its address, with a minus where its activation was negative; ``words`` as from
    ``decoding.decode``, with the ``logit`` of each above the mean of all tokens, and ``is_noun``;
    ``span`` holds the logits of 99 % of all tokens.
    """

    unit: str
    words: pd.DataFrame
    span: tuple[float, float]


def spoken(model, row: pd.Series, k: int = WORDS, **decoder) -> Spoken:
    """Decode the unit of a row of ``ranked`` to its ``k`` loudest words, beside all tokens'."""
    neuron, sign, noun = row["neuron"], row["sign"], row["target"]
    every = decode(model, [(neuron, sign)], k=model.sizes.vocabulary, **decoder)
    logit = np.log(every["probability"].astype(float))
    logit -= logit.mean()
    words = every.assign(logit=logit).head(k)
    words = words.assign(is_noun=[writes_noun([text], noun) for text in words["text"]])
    low, high = np.quantile(logit, [0.005, 0.995])
    unit = address(model, neuron)
    return Spoken(f"{unit} (−)" if sign < 0 else unit, words, (float(low), float(high)))


def elsewhere(top: pd.DataFrame, row: pd.Series) -> pd.Series:
    """Count the nouns of the other photographs that have a row's unit among their top units."""
    same = top[(top["neuron"] == row["neuron"]) & (top["image"] != row["image"])]
    return same["target"].value_counts()


def means_on_objects(model, field: np.ndarray, photograph: Photograph) -> dict[str, float]:
    """Average an activation map (h, w) over the patches that lie on each annotated object."""
    seen = {one.category: seen_part(model, one.mask) for one in photograph.instances}
    covered = {name: patches_on(truth, field.shape) for name, truth in seen.items()}
    values = field.ravel()
    return {name: float(values[on].mean()) for name, on in covered.items() if on.any()}


@dataclass(frozen=True)
class Panel:
    """A photograph with the region where some of its units are active.

    ``picture`` is what the model sees of it, ``caption`` has the attributed noun in capitals,
    ``units`` are rows of ``ranked`` or of ``pairs``, ``region`` is bool (H, W) on the model's
    pixels.
    """

    title: str
    picture: Image.Image
    caption: str
    units: pd.DataFrame
    region: np.ndarray


def best_units(
    model,
    subjects: Subjects,
    top: pd.DataFrame,
    examples: Mapping[str, str],
    n: int = 5,
    quantile: float = QUANTILE,
) -> list[Panel]:
    """Show the ``n`` best units of each example (paper A, Figure 2).

    ``top`` as from ``ranked``, ``examples`` as from ``annotations.example_of_each``.
    """
    groups = {title: top[top["image"] == image].head(n) for title, image in examples.items()}
    return [_panel(model, subjects, title, rows, rows, quantile) for title, rows in groups.items()]


def _panel(model, subjects: Subjects, title: str, rows, active, quantile: float) -> Panel:
    """Show ``rows`` of one image, and where the mean of the ``active`` ones' maps is high."""
    image, noun = rows["image"].iloc[0], rows["target"].iloc[0]
    one = subjects.select([image])
    before, _, after = one.captions[0].text.partition(noun)
    caption = f"{model.prefix} {before}{noun.upper()}{after}"
    picture = one.photographs[0].open()
    region = mean_region(model, picture, list(dict.fromkeys(active["neuron"])), quantile, image)
    return Panel(title, seen_picture(model, picture), caption, rows, region)


def mean_region(
    model,
    picture: Image.Image,
    neurons: Sequence[Neuron],
    quantile: float = QUANTILE,
    name: str = "",
) -> np.ndarray:
    """Cut the mean of the neurons' activation maps above its quantile: bool (H, W).

    On the model's pixels; empty where there are no neurons. ``name`` is the picture's in errors.
    """
    size = model.image_tokens.pixels
    if not neurons:
        return np.zeros((size, size), dtype=bool)
    field = activation_maps(model, [picture], neurons, [name] if name else ())[0].mean(0)
    return mask(upsample(field, size), quantile).cpu().numpy()


def pairs(
    model, subjects: Subjects, table: pd.DataFrame, quantile: float = QUANTILE
) -> list[Panel]:
    """Show for each subject where its pairs' units are active, all and the interpretable ones."""
    panels = []
    for image in subjects.ids:
        rows = table[table["image"] == image]
        kinds = {"all": rows, "interpretable": rows[rows["interpretable"]]}
        noun = rows["target"].iloc[0]
        panels += [
            _panel(model, subjects, f"{noun}\n{kind}", rows, active, quantile)
            for kind, active in kinds.items()
        ]
    return panels


def numbers(panels: Sequence[Panel]) -> pd.DataFrame:
    """Lay the units of panels out in one table, with their supercategory first."""
    table = pd.concat([panel.units.assign(supercategory=panel.title) for panel in panels])
    table["sign"] = table["sign"].map(SIGN)
    columns = ["supercategory", "image", "target", "rank", "neuron", "patch", "score", "sign"]
    return table[[*columns, "interpretable", "writes_noun", "text"]]
