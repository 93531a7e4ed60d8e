"""How active units are on photographs: which drive them hardest, and which tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mmn_utils.datasets import Photograph
from mmn_utils.neurons.decoding import decoded_words
from mmn_utils.neurons.receptive_fields import (
    QUANTILE,
    activation_maps,
    mask,
    seen_picture,
    upsample,
)
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.agreement import writes_noun
from mmn_utils.studies.annotations import mentions
from mmn_utils.studies.store import digest, per_photograph


def unit_activations(
    model,
    photographs: Sequence[Photograph],
    neurons: Sequence[Neuron],
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how active neurons are on photographs, computed or loaded.

    One row per (image, neuron): layer, unit, and over all patches the largest activation
    ``peak`` and the ``mean``, both float32.
    """
    neurons = sorted(set(neurons))

    def compute(rows: list[int]) -> pd.DataFrame:
        chosen = [photographs[row] for row in rows]
        names = [p.id for p in chosen]
        flat = activation_maps(model, [p.open() for p in chosen], neurons, names).flatten(2)
        return pd.DataFrame(
            {
                "image": np.repeat(np.array(names, dtype=object), len(neurons)),
                "layer": [n.layer for n in neurons] * len(chosen),
                "unit": [n.unit for n in neurons] * len(chosen),
                "peak": flat.amax(-1).flatten().cpu().numpy(),
                "mean": flat.mean(-1).flatten().cpu().numpy(),
            }
        )

    return per_photograph(
        "activity", model, photographs, compute, {"neurons": digest(list(map(str, neurons)))},
        batch_size=batch_size, progress=progress,
    )  # fmt: skip


def activation_grid(
    table: pd.DataFrame, images: Sequence[str], neurons: Sequence[Neuron], value: str = "mean"
) -> np.ndarray:
    """Lay a table of ``unit_activations`` out as (neurons, images), in the orders given."""
    wide = table.pivot(index=["layer", "unit"], columns="image", values=value)
    order = pd.MultiIndex.from_tuples([(n.layer, n.unit) for n in neurons])
    return wide.reindex(index=order, columns=list(images)).to_numpy()


def strongest(table: pd.DataFrame, neuron: Neuron, n: int, by: str = "peak") -> list[str]:
    """Name the ``n`` images that a neuron is most active on, by its ``peak`` or ``mean``."""
    rows = table[(table["layer"] == neuron.layer) & (table["unit"] == neuron.unit)]
    return rows.sort_values(by, ascending=False, kind="stable")["image"].head(n).tolist()


def telling_units(table: pd.DataFrame, label_of: Mapping[str, str]) -> dict[str, Neuron]:
    """Find for each label the unit that tells its images from the others best.

    The largest difference between the share of the label's images and the share of all
    other labelled images that have the unit in the table; of equals, the first address.
    """
    labels = pd.Series(label_of)
    rows = table.assign(label=table["image"].map(label_of)).dropna(subset="label")
    counts = rows.groupby(["layer", "unit", "label"])["image"].nunique().unstack(fill_value=0)
    sizes = labels.value_counts()[counts.columns]
    others = np.maximum(len(labels) - sizes, 1)
    gap = counts / sizes - (-counts.sub(counts.sum(axis=1), axis=0)) / others
    return {str(label): Neuron(*map(int, gap[label].idxmax())) for label in gap.columns}


def noun_units(table: pd.DataFrame, noun_of: Mapping[str, str], least: int) -> dict[str, Neuron]:
    """Find the telling unit of each noun of ``least`` images or more, the commonest noun first.

    Where no noun has as many images, of the two commonest.
    """
    counts = pd.Series(noun_of).value_counts(sort=False)
    counts = counts.sort_values(ascending=False, kind="stable")
    often = counts.index[counts >= least].tolist() or counts.index[:2].tolist()
    telling = telling_units(table, noun_of)
    return {noun: telling[noun] for noun in often}


def themes(
    table: pd.DataFrame,
    viewed: Sequence[Photograph],
    unit_of: Mapping[str, Neuron],
    noun_of: Mapping[str, str],
    n: int,
    by: str = "peak",
) -> pd.DataFrame:
    """Ask whether the photographs that drive a noun's unit hardest show the noun.

    One row for each noun and each of its unit's ``n`` ``strongest`` photographs: noun, unit,
    ``captions`` that it begins in ``noun_of``, image, its ``rank`` from 1, the activation ``by``
    which it is ranked, whether the photograph ``shows`` the noun, and the share of all those
    viewed that do, ``everywhere``. ``table`` of ``unit_activations`` on them.
    """
    counts, rows = pd.Series(noun_of).value_counts(), []
    for noun, unit in unit_of.items():
        shows = {photograph.id: mentions(photograph, noun) for photograph in viewed}
        everywhere = float(np.mean(list(shows.values())))
        images = strongest(table, unit, n, by)
        (active,) = activation_grid(table, images, [unit], by)
        for rank, (image, value) in enumerate(zip(images, active.tolist(), strict=True), start=1):
            head = (noun, str(unit), int(counts[noun]), image, rank, value)
            rows.append((*head, shows[image], everywhere))
    columns = ["noun", "unit", "captions", "image", "rank", by, "shows", "everywhere"]
    return pd.DataFrame(rows, columns=columns)


def tally(rows: pd.DataFrame, writing: Sequence[str]) -> dict[str, float]:
    """Count units by their strongest photographs, in rows of ``themes``.

    Of how many all photographs show the noun (``perfect``), of how many none does (``never``);
    how many are ``writing`` their noun, and the share of their photographs that show it
    (``of_writing``, NaN where no unit is).
    """
    hits = rows.groupby("noun")["shows"].mean()
    counts = {"perfect": int((hits == 1).sum()), "never": int((hits == 0).sum())}
    return {**counts, "writing": len(writing), "of_writing": float(hits[list(writing)].mean())}


def that_write_their_noun(model, unit_of: Mapping[str, Neuron], **decoder: Any) -> list[str]:
    """List the nouns of ``unit_of`` that are among the ten words their unit writes when active.

    ``decoder`` as in ``decoding.decode_vectors``: decode_norm, decode_bias.
    """
    words = decoded_words(model, list(unit_of.values()), **decoder)
    return [noun for noun, unit in unit_of.items() if writes_noun(words[unit], noun)]


@dataclass(frozen=True)
class Portrait:
    """A noun's unit and the pictures that drive it hardest (paper A, Figure 4), hardest first.

    ``words`` that it writes on the first of them, by the ``sign`` of its peak there;
    ``masks`` bool (pictures, H, W), over what the model sees of each, which is what ``pictures``
    hold; whether each picture ``shows`` the noun; its ``peaks``, the unit's largest activation in
    each, beside the one of the ``median`` picture of all viewed.
    """

    noun: str
    unit: Neuron
    words: tuple[str, ...]
    pictures: list[Image.Image]
    masks: np.ndarray
    shows: list[bool]
    peaks: list[float]
    median: float
    sign: int = 1


def portrait(
    model,
    table: pd.DataFrame,
    viewed: Sequence[Photograph],
    noun: str,
    unit: Neuron,
    n: int,
    quantile: float = QUANTILE,
    **decoder: Any,
) -> Portrait:
    """Portray a noun's unit by the ``n`` photographs on which its peak is largest.

    ``table`` as for ``themes``. Masks lie above the ``quantile`` of each upsampled map.
    ``decoder`` as in ``that_write_their_noun``.
    """
    place = {photograph.id: photograph for photograph in viewed}
    chosen = [place[image] for image in strongest(table, unit, n)]
    pictures = [photograph.open() for photograph in chosen]
    names = [photograph.id for photograph in chosen]
    maps = activation_maps(model, pictures, [unit], names)[:, 0]
    fields = upsample(maps, model.image_tokens.pixels)
    (every,) = activation_grid(table, list(place), [unit], "peak")
    peaks, median = np.sort(every)[::-1][:n].tolist(), float(np.median(every))
    sign = -1 if peaks[0] < 0 else 1
    (tokens,) = decoded_words(model, [(unit, sign)], **decoder).values()
    words = tuple(word.strip() for word in tokens)
    shows = [mentions(photograph, noun) for photograph in chosen]
    masks = mask(fields, quantile).cpu().numpy()
    pictures = [seen_picture(model, picture) for picture in pictures]
    return Portrait(noun, unit, words, pictures, masks, shows, peaks, median, sign)
