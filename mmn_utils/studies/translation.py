"""Do the units with the highest attribution turn the picture into words?

Paper A, section 2: what the top units of each photograph decode to, beside random units of the
same layers; in which layers they lie; how well their words fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from mmn_utils.datasets.published import published
from mmn_utils.measures import estimates
from mmn_utils.measures.estimates import Estimate
from mmn_utils.models.base import Sizes
from mmn_utils.neurons.decoding import decoded_words
from mmn_utils.neurons.table import RANDOM, TOP, Neuron, controls
from mmn_utils.neurons.text import is_dictionary_word, is_interpretable
from mmn_utils.studies.agreement import listed, writes_noun
from mmn_utils.studies.layers import unit_numbers, units_per_layer
from mmn_utils.studies.subjects import Subjects, top_neurons

BAND = (5 / 28, 11 / 28)  # the depths that GPT-J's layers 5 to 10 fill, where the paper has most
CAPTIONS = "captions"

# --- what the units write --------------------------------------------------------------


def with_controls(
    model, subjects: Subjects, neurons: pd.DataFrame, *, seed: int = 0, **decoder
) -> pd.DataFrame:
    """Decode each photograph's top units, and as many random ones of the same layers.

    ``neurons`` is the subjects' neuron table; ``decoder`` are the switches of
    ``decoding.decoded_words``. Columns as ``described``.
    """
    sets = controls(neurons, model.sizes.units, seed)
    every = [n for conditions in sets.values() for some in conditions.values() for n in some]
    words = decoded_words(model, every, **decoder)
    nouns = {target.image: target.noun for target in subjects.targets}
    return described(sets, words, nouns)


def described(
    sets: Mapping[str, Mapping[str, Sequence[Neuron]]],
    words: Mapping[Neuron, Sequence[str]],
    nouns: Mapping[str, str],
) -> pd.DataFrame:
    """Lay out what the neurons of each image and condition decode to.

    ``sets`` as from ``table.controls``, ``words`` as from ``decoding``, ``nouns`` by
    image. Columns image, condition, rank from 0, neuron, tokens, text (the tokens listed),
    interpretable, writes_noun.
    """
    text = {neuron: listed(tokens) for neuron, tokens in words.items()}
    readable = {neuron: is_interpretable(tokens) for neuron, tokens in words.items()}
    writes = cache(lambda neuron, noun: writes_noun(words[neuron], noun))
    rows = [
        (image, condition, rank, n, words[n], text[n], readable[n], writes(n, nouns[image]))
        for image, conditions in sets.items()
        for condition, neurons in conditions.items()
        for rank, n in enumerate(neurons)
    ]
    columns = ["image", "condition", "rank", "neuron", "tokens", "text"]
    return pd.DataFrame(rows, columns=[*columns, "interpretable", "writes_noun"])


def ranked(units: pd.DataFrame, neurons: pd.DataFrame) -> pd.DataFrame:
    """Join the top units of ``with_controls`` with their scores: the neuron table, best first."""
    scored = neurons.assign(neuron=_addresses(neurons))
    top = units[units["condition"] == TOP]
    return scored.merge(top, on=["image", "neuron"]).sort_values("score", ascending=False)


def _addresses(neurons: pd.DataFrame) -> list[Neuron]:
    return [Neuron(*pair) for pair in zip(neurons["layer"], neurons["unit"], strict=True)]


@dataclass(frozen=True)
class Share:
    """The share of a photograph's units that have a property, over photographs.

    ``ours`` of the top units, ``chance`` of random ones, ``more`` the difference.
    """

    ours: Estimate
    chance: Estimate
    more: Estimate


def share(units: pd.DataFrame, column: str, top: int | None = None, seed: int = 0) -> Share:
    """Measure for how many of each image's first ``top`` units, or all, a column is true."""
    wide = share_by_image(units, column, top)
    ours, chance = wide[TOP], wide[RANDOM]
    means = (estimates.mean_of(values, seed) for values in (ours, chance))
    return Share(*means, estimates.difference_of(ours, chance, seed))


def share_by_image(table: pd.DataFrame, column: str, top: int | None = None) -> pd.DataFrame:
    """Return the share of each image's first ``top`` units for which a column is true.

    One row per image, one column per condition.
    """
    some = table if top is None else table[table["rank"] < top]
    wide = some.groupby(["image", "condition"], sort=False)[column].mean().unstack()
    return wide.reindex(dict.fromkeys(table["image"]))


def words_among_tokens(model) -> float:
    """Return the share of the vocabulary that are dictionary words by themselves."""
    return float(np.mean([is_dictionary_word(token) for token in model.token_strings]))


# --- pairs of unit and patch -----------------------------------------------------------


def pairs(
    model, subjects: Subjects, *, n: int = 20, target: str = "logit", **decoder
) -> pd.DataFrame:
    """List the ``n`` best pairs of unit and patch of each subject, decoded (paper A, Table S.1).

    Columns image, target, neuron, patch, interpretable, writes noun, top five tokens, score.
    """
    table = top_neurons(model, subjects, k=n, target=target, rank_by="pair")
    neurons = _addresses(table)
    words = decoded_words(model, neurons, **decoder)
    named = zip(neurons, table["target"], strict=True)
    columns = {
        "neuron": neurons,
        "interpretable": [is_interpretable(words[neuron]) for neuron in neurons],
        "writes noun": [writes_noun(words[neuron], noun) for neuron, noun in named],
        "top five tokens": [listed(words[neuron][:5]) for neuron in neurons],
    }
    order = ["image", "target", "neuron", "patch", *list(columns)[1:], "score"]
    return table.assign(**columns)[order]


def different(table: pd.DataFrame, column: str) -> float:
    """Average over images how many different values a column has."""
    return float(table.groupby("image")[column].nunique().mean())


# --- in which layers -------------------------------------------------------------------


def depths(layers: int) -> np.ndarray:
    """Return the depth of each layer's centre, from 0 to 1: (layers,)."""
    return (np.arange(layers) + 0.5) / layers


def layer_counts(top: pd.DataFrame, sizes: Sizes) -> pd.DataFrame:
    """Count the rows of ``ranked`` by layer, all and interpretable (paper A, Figure S.4).

    Columns layer, depth, and for "different units" and "entries in top lists" one of each
    kind, such as "different units, interpretable".
    """
    kinds = {"multimodal": top, "interpretable": top[top["interpretable"]]}
    table = pd.DataFrame({"layer": range(sizes.layers), "depth": depths(sizes.layers)})
    for kind, rows in kinds.items():
        numbers = unit_numbers(rows, sizes.units)
        table[f"different units, {kind}"] = units_per_layer(numbers, sizes.units, sizes.layers)
    for kind, rows in kinds.items():
        table[f"entries in top lists, {kind}"] = np.bincount(rows["layer"], minlength=sizes.layers)
    return table


@dataclass(frozen=True)
class Whereabouts:
    """In which layers the different top units lie.

    ``mode`` is the layer that has most, ``peak`` its depth; ``band`` the share of units in a
    band of depths that holds ``inside`` of the layers; ``beyond`` the share at its beginning or
    deeper.
    """

    mode: int
    peak: Estimate
    band: Estimate
    beyond: float
    inside: int


def whereabouts(
    neurons: pd.DataFrame, sizes: Sizes, band: tuple[float, float] = BAND, seed: int = 0
) -> Whereabouts:
    """Measure in which layers the units of a neuron table lie, as often as each image has them.

    The peak's interval is a bootstrap over images. Images that are drawn twice bring fewer
    different units, which would move the band's share; there each image is left out in turn.
    """
    depth = depths(sizes.layers)
    within = (depth >= band[0]) & (depth <= band[1])
    images = neurons["image"].nunique()
    lists = unit_numbers(neurons, sizes.units).reshape(images, -1)

    def counts(some: np.ndarray) -> np.ndarray:
        return units_per_layer(some, sizes.units, sizes.layers)

    def part(some: np.ndarray, where: np.ndarray) -> float:
        return counts(some)[where].sum() / counts(some).sum()

    def deepest(some: np.ndarray) -> float:
        return depth[counts(some).argmax()]

    return Whereabouts(
        int(counts(lists).argmax()),
        estimates.bootstrap(deepest, lists, resamples=300, seed=seed),
        estimates.jackknife(lambda some: part(some, within), lists),
        float(part(lists, depth >= band[0])),
        int(within.sum()),
    )


# --- do the words fit? -----------------------------------------------------------------


def texts_of(units: pd.DataFrame, only_interpretable: bool = True) -> dict[str, list[str]]:
    """List what each image's top units write: {image: a text for each unit}.

    Images without such a unit are left out.
    """
    mine = units[units["condition"] == TOP]
    mine = mine[mine["interpretable"]] if only_interpretable else mine
    return mine.groupby("image")["text"].agg(list).to_dict()


@dataclass(frozen=True)
class Fit:
    """How well texts fit their photographs by one judge (paper A, Table 1).

    ``means`` by condition; ``above``: own units minus another image's; ``way``: how far the
    units come on the way from there to captions; units minus captions (``behind``) and minus
    the middle of that way (``middle``).
    """

    means: dict[str, Estimate]
    above: Estimate
    way: Estimate
    behind: Estimate
    middle: Estimate


def fit(best: pd.DataFrame, seed: int = 0) -> Fit:
    """Compare one score per image, each a column: ``random``, ``multimodal``, ``captions``."""
    chance, ours, captions = best[RANDOM], best[TOP], best[CAPTIONS]
    return Fit(
        {kind: estimates.mean_of(best[kind], seed) for kind in (RANDOM, TOP, CAPTIONS)},
        estimates.difference_of(ours, chance, seed),
        estimates.share_of_gap(chance, ours, captions, seed),
        estimates.difference_of(ours, captions, seed),
        estimates.difference_of(ours, (chance + captions) / 2, seed),
    )


def printed_fit() -> dict[str, dict[str, float]]:
    """Return the paper's Table 1: {judge: {condition: mean}}."""
    table = published("A-table-1").set_axis([RANDOM, TOP, CAPTIONS])
    return table[["bertscore", "clipscore"]].astype(float).to_dict()
