"""What sets of top neurons have in common. Paper B, section 2.4, Eq. 6 and 7.

Cross-image invariance compares the neurons of one concept over several pictures. Sets are read
beside what sets drawn at random would share (``chance``).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.neurons.table import neuron_table

KS = (10, 100, 1000)
NS = (2, 3, 4, 5)
GROUP = ["image", "target", "token"]


def chance(k: int, neurons: int, n: int = 2) -> float:
    """Return the ratio that ``n`` sets of ``k`` neurons drawn from ``neurons`` share on average."""
    if not 1 <= k <= neurons or n < 1:
        raise ValueError(f"k={k}, n={n}: give 1 to {neurons} neurons and at least one set")
    return (k / neurons) ** (n - 1)


def shared_neurons(
    before: pd.DataFrame, after: pd.DataFrame, ks: Sequence[int] = KS
) -> pd.DataFrame:
    """Return r_k (paper B, Eq. 6) of each (image, target, token) that two neuron tables share.

    Columns image, target, token, k, ratio. A neuron with several patches counts once, at
    its best. ``ValueError`` where a target has fewer than the largest k.
    """
    both = _ranked(before, ks).merge(_ranked(after, ks), on=[*GROUP, "layer", "unit"])
    worst = both[["rank_x", "rank_y"]].max(axis=1)
    groups = before[GROUP].drop_duplicates().merge(after[GROUP].drop_duplicates(), on=GROUP)
    parts = []
    for k in ks:
        common = both[worst < k].groupby(GROUP).size().rename("ratio") / k
        parts.append(groups.join(common, on=GROUP).fillna({"ratio": 0.0}).assign(k=k))
    return pd.concat(parts, ignore_index=True)[[*GROUP, "k", "ratio"]]


def cross_image_invariance(
    table: pd.DataFrame,
    *,
    ns: Sequence[int] = NS,
    ks: Sequence[int] = KS,
    draws: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what share of a concept's top neurons N of its images have in common (Eq. 7).

    ``table``: a neuron table of many images. One row per (concept, n, k): concept in lower
    case, images (how many have it), ratio, mean over ``draws`` random choices of n of them,
    low and high, between which 95 % of the choices lie.
    The choice of n is part of the choice of n + 1. A concept in fewer than n images has no
    row for that n. One value per concept goes to ``estimates.share_of``.
    """
    ranked = _by_picture(table, ks)
    rows = []
    for concept, pictures in ranked.groupby("concept"):
        ranks = _numbered(pictures, ["image"])
        names, found = list(ranks), []
        for draw in range(draws):
            rng = np.random.default_rng([seed, draw, zlib.crc32(concept.encode())])
            order = [names[i] for i in rng.permutation(len(names))]
            found += _common([ranks[name] for name in order], ns, ks)
        rows += [(concept, len(names), *row) for row in found]
    return _mean_ratio(rows, ["concept", "images"], {"low": 0.025, "high": 0.975})


def unrelated_images(
    table: pd.DataFrame,
    *,
    ns: Sequence[int] = NS,
    ks: Sequence[int] = KS,
    draws: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the same ratio for one image of a concept and N - 1 of others: what any images share.

    A control beside the paper's, concept by concept: neurons that stand at the top whatever is
    shown. Columns concept, n, k, ratio, mean over ``draws``; of the concepts that are in enough
    images. No two images of a draw have the same concept; a concept for which a draw finds fewer
    than n such images has no row for that n.
    """
    ranked = _by_picture(table, ks)
    pairs = list(ranked[["image", "concept"]].drop_duplicates().itertuples(index=False, name=None))
    parts = _numbered(ranked, ["image", "concept"])
    rows = []
    by_concept: dict[str, list[tuple[str, str]]] = {}
    for pair in pairs:
        by_concept.setdefault(pair[1], []).append(pair)
    for concept, mine in by_concept.items():
        if len(mine) < min(ns):
            continue  # it has no images of its own to be compared with
        drawn = []
        for draw in range(draws):
            rng = np.random.default_rng([seed, draw, zlib.crc32(concept.encode())])
            own = mine[rng.integers(len(mine))]
            others = (pairs[i] for i in rng.permutation(len(pairs)))
            drawn.append([parts[pair] for pair in _apart(chain([own], others), max(ns))])
        reached = min(map(len, drawn))
        for each in drawn:
            rows += [(concept, *row) for row in _common(each[:reached], ns, ks)]
    return _mean_ratio(rows, ["concept"])


def _apart(order: Iterable[tuple[str, str]], n: int) -> list[tuple[str, str]]:
    """Take up to ``n`` (image, concept) pairs of which no two share an image or a concept.

    The first of all, and always the next one that will do.
    """
    chosen: list[tuple[str, str]] = []
    images, concepts = set(), set()
    for image, concept in order:
        if image not in images and concept not in concepts:
            chosen.append((image, concept))
            images.add(image)
            concepts.add(concept)
            if len(chosen) == n:
                break
    return chosen


def _by_picture(table: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """Rank each concept's neurons in each image; a concept named twice there counts once."""
    ranked = _ranked(table, ks).assign(concept=lambda frame: frame["target"].str.casefold())
    first = ranked[["image", "concept", *GROUP[1:]]].drop_duplicates()
    first = first.drop_duplicates(["image", "concept"])
    return ranked.merge(first, on=["image", "concept", *GROUP[1:]])


def _common(parts: Sequence[np.ndarray], ns: Sequence[int], ks: Sequence[int]) -> list[tuple]:
    """Count what the first n of several lists share: (n, k, ratio); numbers, best first."""
    rows = []
    for k in ks:
        tops = [set(part[:k].tolist()) for part in parts[: max(ns)]]
        common = tops[0]
        for n, top in enumerate(tops, start=1):
            common = common & top
            if n in ns:
                rows.append((n, k, len(common) / k))
    return rows


def _numbered(ranked: pd.DataFrame, by: Sequence[str]) -> dict[Any, np.ndarray]:
    """Number the neurons of each group, best first: {group: int64 (neurons,)}."""
    ranked = ranked.sort_values("rank", kind="stable")
    number = ranked["layer"].to_numpy(np.int64) * (1 << 32) + ranked["unit"].to_numpy(np.int64)
    keys = list(by) if len(by) > 1 else by[0]
    return {key: number[rows] for key, rows in ranked.groupby(keys, sort=True).indices.items()}


def _mean_ratio(
    rows: list[tuple], keys: list[str], quantiles: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Average over draws, with quantiles of them by name."""
    frame = pd.DataFrame(rows, columns=[*keys, "n", "k", "ratio"]).astype({"ratio": float})
    groups = frame.groupby([*keys, "n", "k"])["ratio"]
    spread = {name: groups.quantile(q) for name, q in (quantiles or {}).items()}
    return pd.DataFrame({"ratio": groups.mean(), **spread}).reset_index()


def _ranked(table: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """Rank each target's neurons from 0, each once: columns of ``GROUP``, layer, unit, rank."""
    if not ks or min(ks) < 1:
        raise ValueError(f"ks={list(ks)}: give numbers of neurons, 1 or more")
    once = neuron_table(table).drop_duplicates([*GROUP, "layer", "unit"])  # by falling score
    once = once.assign(rank=once.groupby(GROUP).cumcount())
    sizes = once.groupby(GROUP).size()
    if len(sizes) and sizes.min() < max(ks):
        image, target, _ = sizes.idxmin()
        raise ValueError(
            f"{target!r} of image {image!r} has {sizes.min()} neurons, {max(ks)} are asked; "
            f"score with k={max(ks)} or ask for fewer"
        )
    return once.loc[once["rank"] < max(ks), [*GROUP, "layer", "unit", "rank"]]
