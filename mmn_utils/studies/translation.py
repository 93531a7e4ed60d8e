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
from mmn_utils.neurons.decoding import SIGN, Signed, decoded_words, signed, suppressed_words
from mmn_utils.neurons.table import RANDOM, TOP, neurons_of
from mmn_utils.neurons.text import is_dictionary_word, is_interpretable
from mmn_utils.studies.agreement import listed, writes_noun
from mmn_utils.studies.signs import signed_controls
from mmn_utils.studies.subjects import Subjects, top_neurons

BAND = (5 / 28, 11 / 28)  # the depths that GPT-J's layers 5 to 10 fill, where the paper has most
CAPTIONS = "captions"

# --- what the units write --------------------------------------------------------------


def with_controls(
    model, subjects: Subjects, neurons: pd.DataFrame, *, seed: int = 0, **decoder
) -> pd.DataFrame:
    """Decode what each photograph's top units wrote, and as many random ones of the same layers.

    ``neurons`` is the subjects' neuron table. A top unit is decoded by the sign of its
    activation where it scored, the random one beside it by that of its own at the same place
    (``signs``). ``decoder`` are the switches of ``decoding.decoded_words``. Columns as
    ``described``.
    """
    sets = signed_controls(model, subjects, neurons, seed=seed)
    every = [n for conditions in sets.values() for some in conditions.values() for n in some]
    words = decoded_words(model, every, **decoder)
    nouns = {target.image: target.noun for target in subjects.targets}
    return described(sets, words, nouns)


def described(
    sets: Mapping[str, Mapping[str, Sequence[Signed]]],
    words: Mapping[Signed, Sequence[str]],
    nouns: Mapping[str, str],
) -> pd.DataFrame:
    """Lay out what the neurons of each image and condition decode to.

    ``sets`` as from ``signs.signed_controls``, ``words`` as from ``decoding``, ``nouns`` by
    image. Columns image, condition, rank from 0, neuron, sign (1 or -1), tokens, text (the
    tokens listed), interpretable, writes_noun.
    """
    text = {pair: listed(tokens) for pair, tokens in words.items()}
    readable = {pair: is_interpretable(tokens) for pair, tokens in words.items()}
    writes = cache(lambda pair, noun: writes_noun(words[pair], noun))
    rows = [
        (image, condition, rank, *p, words[p], text[p], readable[p], writes(p, nouns[image]))
        for image, conditions in sets.items()
        for condition, pairs in conditions.items()
        for rank, p in enumerate(pairs)
    ]
    columns = ["image", "condition", "rank", "neuron", "sign", "tokens", "text"]
    return pd.DataFrame(rows, columns=[*columns, "interpretable", "writes_noun"])


def ranked(units: pd.DataFrame, neurons: pd.DataFrame) -> pd.DataFrame:
    """Join the top units of ``with_controls`` with their scores: the neuron table, best first."""
    scored = neurons.assign(neuron=neurons_of(neurons))
    top = units[units["condition"] == TOP]
    return scored.merge(top, on=["image", "neuron"]).sort_values("score", ascending=False)


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
    means = (estimates.share_of(values, seed) for values in (ours, chance))
    return Share(*means, estimates.difference_of(ours, chance, seed))


def share_by_image(table: pd.DataFrame, column: str, top: int | None = None) -> pd.DataFrame:
    """Return the share of each image's first ``top`` units for which a column is true.

    One row per image, one column per condition.
    """
    some = table if top is None else table[table["rank"] < top]
    wide = some.groupby(["image", "condition"], sort=False)[column].mean().unstack()
    return wide.reindex(dict.fromkeys(table["image"])).rename_axis("image")


def noun_shares(units: pd.DataFrame, tops: Sequence[int]) -> pd.DataFrame:
    """Return the share of each image's first units that write its noun, a row for each count.

    Columns image, units (how many first ones), top, random.
    """
    parts = [share_by_image(units, "writes_noun", n).reset_index().assign(units=n) for n in tops]
    table = pd.concat(parts).rename(columns={TOP: "top"})
    return table[["image", "units", "top", RANDOM]].reset_index(drop=True)


def words_among_tokens(model) -> float:
    """Return the share of the vocabulary that are dictionary words by themselves."""
    return float(np.mean([is_dictionary_word(token) for token in model.token_strings]))


# --- pairs of unit and patch -----------------------------------------------------------


def pairs(
    model,
    subjects: Subjects,
    *,
    n: int = 20,
    target: str = "logit",
    both_ends: bool = False,
    **decoder,
) -> pd.DataFrame:
    """List the ``n`` best pairs of unit and patch of each subject, decoded (paper A, Table S.1).

    Columns image, target, neuron, patch, sign (of the activation there, + or −; what the unit
    wrote there is decoded), interpretable, writes noun, top five tokens, score; with
    ``both_ends`` also suppresses, five tokens of the other end.
    """
    table = top_neurons(model, subjects, k=n, target=target, rank_by="pair")
    units = signed(table)
    words = decoded_words(model, units, **decoder)
    named = zip(units, table["target"], strict=True)
    columns = {
        "neuron": [neuron for neuron, _ in units],
        "sign": [SIGN[sign] for _, sign in units],
        "interpretable": [is_interpretable(words[unit]) for unit in units],
        "writes noun": [writes_noun(words[unit], noun) for unit, noun in named],
        "top five tokens": [listed(words[unit][:5]) for unit in units],
    }
    if both_ends:
        other = suppressed_words(model, units, **decoder)
        columns["suppresses"] = [listed(other[unit][:5]) for unit in units]
    order = ["image", "target", "neuron", "patch", *list(columns)[1:], "score"]
    return table.assign(**columns)[order]


def different(table: pd.DataFrame, column: str) -> float:
    """Average over images how many different values a column has."""
    return float(table.groupby("image")[column].nunique().mean())


# --- in which layers -------------------------------------------------------------------


def depth_shares(layers: int, low: float, high: float) -> np.ndarray:
    """Return the share of each layer's depth that lies between two depths: (layers,).

    Layer l of L spans the depths from l / L to (l + 1) / L.
    """
    edges = np.arange(layers + 1) / layers
    inside = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.clip(inside * layers, 0, 1)


def different_units(top: pd.DataFrame, layers: int) -> pd.DataFrame:
    """List the different units of ``ranked``, and where in the depth they lie.

    Columns layer, unit, ``lists`` (photographs that have it among their top units),
    ``readable`` (those where what it wrote is interpretable), and the shares of its layer's
    depth before the paper's band, in it, and in as deep a band behind it: before, band, behind.
    """
    low, high = BAND
    spans = {"before": (0, low), "band": BAND, "behind": (high, 2 * high - low)}
    shares = {name: depth_shares(layers, *span) for name, span in spans.items()}
    found = top.groupby(["layer", "unit"])["interpretable"].agg(lists="size", readable="sum")
    table = found.reset_index()
    return table.assign(**{name: share[table["layer"]] for name, share in shares.items()})


def layer_counts(units: pd.DataFrame, layers: int) -> pd.DataFrame:
    """Count ``different_units`` by layer, all and interpretable (paper A, Figure S.4).

    Columns layer, and for "different units" and "entries in top lists" one of each kind, such
    as "different units, interpretable": those that are so in one of their lists or more.
    """
    where = units["layer"]
    weights = {
        "different units, multimodal": None,
        "different units, interpretable": units["readable"] > 0,
        "entries in top lists, multimodal": units["lists"],
        "entries in top lists, interpretable": units["readable"],
    }
    counts = {what: np.bincount(where, w, layers).astype(int) for what, w in weights.items()}
    return pd.DataFrame({"layer": range(layers), **counts})


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
    units come on the way from there to captions; units minus captions (``behind``).
    """

    means: dict[str, Estimate]
    above: Estimate
    way: Estimate
    behind: Estimate


def fit(best: pd.DataFrame, seed: int = 0) -> Fit:
    """Compare one score per image, each a column: ``random``, ``multimodal``, ``captions``."""
    chance, ours, captions = best[RANDOM], best[TOP], best[CAPTIONS]
    return Fit(
        {kind: estimates.mean_of(best[kind], seed) for kind in (RANDOM, TOP, CAPTIONS)},
        estimates.difference_of(ours, chance, seed),
        estimates.share_of_gap(chance, ours, captions, seed),
        estimates.difference_of(ours, captions, seed),
    )


def by_image(best: Mapping[str, pd.DataFrame], units: pd.DataFrame) -> pd.DataFrame:
    """Lay Table 1 out by image: interpretable shares of units, and the scores of each judge.

    ``best`` by judge, as ``fit`` takes it; empty where an image has no such unit. Columns image,
    interpretable and interpretable_random (shares of top and of random units), and such as
    clipscore_multimodal.
    """
    names = {TOP: "interpretable", RANDOM: "interpretable_random"}
    shares = share_by_image(units, "interpretable").rename(columns=names)[list(names.values())]
    scores = [wide.add_prefix(f"{judge}_") for judge, wide in best.items()]
    return shares.join(scores).reset_index()


def printed_fit() -> dict[str, dict[str, float]]:
    """Return the paper's Table 1: {judge: {condition: mean}}."""
    table = published("A-table-1").set_axis([RANDOM, TOP, CAPTIONS])
    return table[["bertscore", "clipscore"]].astype(float).to_dict()
