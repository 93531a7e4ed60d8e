"""Do neurons stay the same when the picture changes? Paper B, section 2.4, Eq. 6 and 7.

Region invariance permutes the image tokens where the language model reads them: each keeps
what its encoder knows of its place and gets another's position. Whatever lies in the span
of image tokens takes part, with a grid or without. Cross-image invariance compares the
neurons of one concept over several pictures. Both compare sets of top neurons, so both are
read beside what sets drawn at random would share (``chance``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from mmn_utils.interventions.receipts import NothingTouched
from mmn_utils.models.base import Prompt
from mmn_utils.neurons.captions import Caption, generate
from mmn_utils.neurons.methods import METHODS, by_methods
from mmn_utils.neurons.table import neuron_table
from mmn_utils.neurons.targets import Target, caption_targets, embed_once

KS = (10, 100, 1000)
NS = (2, 3, 4, 5)
CAPTIONS = ("new", "same")
GROUP = ["image", "target", "token"]


def chance(k: int, neurons: int, n: int = 2) -> float:
    """Return the ratio that ``n`` sets of ``k`` neurons drawn from ``neurons`` share on average."""
    if not 1 <= k <= neurons or n < 1:
        raise ValueError(f"k={k}, n={n}: give 1 to {neurons} neurons and at least one set")
    return (k / neurons) ** (n - 1)


# --- region invariance -----------------------------------------------------------------


@dataclass(frozen=True)
class Moved:
    """What a shuffle did to an image: tokens with another's place, and the largest change."""

    image: str
    shuffle: int
    moved: int
    change: float


@dataclass(frozen=True, eq=False)
class RegionInvariance:
    """Top neurons before and after shuffles of the image tokens.

    ``ratios``: method, image, target, token, shuffle, k, ratio (Eq. 6). ``before[method]`` is
    a neuron table, ``after[method]`` one for each shuffle. ``captions``: image, shuffle, text;
    empty where captions are kept. ``neurons`` is how many the model has.
    """

    ratios: pd.DataFrame
    receipts: tuple[Moved, ...]
    captions: pd.DataFrame
    before: Mapping[str, pd.DataFrame]
    after: Mapping[str, tuple[pd.DataFrame, ...]]
    neurons: int

    def per_image(self, k: int, method: str = "contribution") -> pd.Series:
        """Return r_k of each image, as ``ratio_per_image``."""
        return ratio_per_image(self.ratios, k, method)


def ratio_per_image(ratios: pd.DataFrame, k: int, method: str = "contribution") -> pd.Series:
    """Reduce ``RegionInvariance.ratios`` to r_k of each image: mean over concepts, then shuffles.

    Images without a concept left in any shuffled caption are missing.
    """
    some = ratios[(ratios["k"] == k) & (ratios["method"] == method)]
    if some.empty:
        raise ValueError(f"no ratio for k={k} and method {method!r}; ask for it when shuffling")
    each = some.groupby(["image", "shuffle"], sort=False)["ratio"].mean()
    return each.groupby("image", sort=False).mean()


@torch.no_grad()
def region_invariance(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    ks: Sequence[int] = KS,
    shuffles: int = 1,
    seed: int = 0,
    captions: str = "new",
    max_new_tokens: int = 50,
    methods: Mapping[str, Callable[..., pd.DataFrame]] = METHODS,
    before: Mapping[str, pd.DataFrame] | None = None,
) -> RegionInvariance:
    """Find each target's top neurons again with the image tokens shuffled (paper B, Fig. 3).

    ``images[i]``, or row i of their prompt, belongs to ``targets[i]``. ``captions`` ``new``:
    the shuffled tokens are captioned, and the concepts in both captions are compared, each
    at its own step, as in the paper; ``same``: the targets keep their captions. ``methods``
    as in ``methods.by_methods``. Orders depend on seed, image and shuffle alone.
    """
    neurons = model.sizes.layers * model.sizes.units
    ks = _counts(ks, neurons)
    if captions not in CAPTIONS or shuffles < 1:
        raise ValueError(
            f"captions={captions!r}, shuffles={shuffles}: give one of {', '.join(CAPTIONS)} "
            "and at least one shuffle"
        )
    prompt, rows = embed_once(model, images, targets)
    ids = list(dict.fromkeys(t.image for t in targets))
    options = {"k": ks[-1], "methods": methods}
    if before is None:
        before = by_methods(model, prompt.select(rows), targets, **options)
    elif set(before) != set(methods):
        raise ValueError(f"before has {', '.join(before)}; give {', '.join(methods)}")
    ratios, receipts, texts, after = [], [], [], []
    for shuffle in range(shuffles):
        orders = draw_orders(model.image_tokens.count, ids, seed, shuffle)
        moved, changes = shuffled(model, prompt, orders)
        receipts += _receipts(ids, shuffle, orders, changes)
        kept = list(targets)
        if captions == "new":
            found = dict(zip(ids, generate(model, moved, max_new_tokens), strict=True))
            kept = _in_both(model, targets, found)
            texts += [(image, shuffle, caption.text) for image, caption in found.items()]
        places = [ids.index(t.image) for t in kept]
        empty = {name: table.iloc[:0] for name, table in before.items()}
        after.append(by_methods(model, moved.select(places), kept, **options) if kept else empty)
        ratios += [
            shared_neurons(table, after[-1][name], ks).assign(method=name, shuffle=shuffle)
            for name, table in before.items()
        ]
    return RegionInvariance(
        pd.concat(ratios, ignore_index=True)[["method", *GROUP, "shuffle", "k", "ratio"]],
        tuple(receipts),
        pd.DataFrame(texts, columns=["image", "shuffle", "text"]),
        before,
        {name: tuple(tables[name] for tables in after) for name in before},
        neurons,
    )


def draw_orders(count: int, images: Sequence[str], seed: int, shuffle: int = 0) -> torch.Tensor:
    """Draw a permutation of ``count`` tokens for each image, never the identity: (B, count) long.

    It depends on seed, image and shuffle alone, not on the other images.
    """
    if count < 2:
        raise ValueError(f"{count} image token cannot be shuffled; the model needs two or more")
    orders = np.empty((len(images), count), np.int64)
    for row, image in enumerate(images):
        rng = np.random.default_rng([seed, shuffle, zlib.crc32(image.encode())])
        orders[row] = rng.permutation(count)
        while (orders[row] == np.arange(count)).all():
            orders[row] = rng.permutation(count)
    return torch.from_numpy(orders)


def shuffled(model, prompt: Prompt, orders: torch.Tensor) -> tuple[Prompt, torch.Tensor]:
    """Permute the image tokens of each row: token i is what token ``orders[row, i]`` was.

    ``orders`` (B, count) long. Returns the new prompt and the largest absolute change of
    each row (B,); mask and positions stay. ``NothingTouched`` where a row has not changed.
    """
    start, count = model.image_tokens.start, model.image_tokens.count
    if orders.shape != (len(prompt), count):
        raise ValueError(f"orders of {tuple(orders.shape)}: give {(len(prompt), count)}")
    if not torch.equal(
        orders.sort(dim=1).values, torch.arange(count, device=orders.device).expand_as(orders)
    ):
        raise ValueError(f"a row of orders is no permutation of 0 to {count - 1}")
    old = prompt.embeds[:, start : start + count]
    orders = orders.to(old.device)
    embeds = prompt.embeds.clone()
    embeds[:, start : start + count] = old.gather(1, orders[:, :, None].expand_as(old))
    change = (embeds - prompt.embeds).abs().flatten(1).amax(1).float()
    if len(change) and not bool(change.all()):
        row = int((change == 0).nonzero()[0])
        raise NothingTouched(f"the shuffle of row {row} changed no image token: all are alike")
    return Prompt(embeds, prompt.mask, prompt.positions), change


def _receipts(ids: Sequence[str], shuffle: int, orders: torch.Tensor, changes: torch.Tensor):
    places = torch.arange(orders.shape[1])
    moved = (orders != places).sum(1).tolist()
    each = zip(ids, moved, changes.tolist(), strict=True)
    return [Moved(image, shuffle, tokens, change) for image, tokens, change in each]


def _in_both(model, targets: Sequence[Target], captions: Mapping[str, Caption]) -> list[Target]:
    """Return the new captions' targets whose noun and token the old ones have too."""
    old = {(t.image, t.noun.casefold(), t.token): t.noun for t in targets}
    kept = []
    for image, caption in captions.items():
        for target in caption_targets(model, image, caption):
            noun = old.get((image, target.noun.casefold(), target.token))
            if noun is not None:
                kept.append(Target(image, noun, target.token, target.prefix))
    return kept


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


# --- cross-image invariance ------------------------------------------------------------


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
    case, images (how many have it), ratio, mean over ``draws`` random choices of n of them.
    The choice of n is part of the choice of n + 1. A concept in fewer than n images has no
    row for that n. One value per concept goes to ``estimates.mean_of``.
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
    return _mean_ratio(rows, ["concept", "images"])


def unrelated_images(
    table: pd.DataFrame,
    *,
    ns: Sequence[int] = NS,
    ks: Sequence[int] = KS,
    draws: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the same ratio for N images of N different concepts: what any pictures share.

    A control beside the paper's: neurons that stand at the top whatever is shown. Columns
    draw, n, k, ratio. ``ValueError`` where there are fewer than n concepts or images.
    """
    ranked = _by_picture(table, ks)
    pairs = ranked[["image", "concept"]].drop_duplicates()
    parts = _numbered(ranked, ["image", "concept"])
    rows = []
    for draw in range(draws):
        mixed = pairs.sample(frac=1, random_state=np.random.default_rng([seed, draw]))
        chosen = mixed.drop_duplicates("concept").drop_duplicates("image").head(max(ns))
        if len(chosen) < max(ns):
            raise ValueError(
                f"{len(chosen)} images of different concepts can be drawn, {max(ns)} are asked; "
                "score more images or ask for a smaller n"
            )
        each = [parts[pair] for pair in chosen.itertuples(index=False, name=None)]
        rows += [(draw, *row) for row in _common(each, ns, ks)]
    return _mean_ratio(rows, ["draw"])


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


def _mean_ratio(rows: list[tuple], keys: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*keys, "n", "k", "ratio"])
    return frame.groupby([*keys, "n", "k"], as_index=False)["ratio"].mean()


# --- ranks -----------------------------------------------------------------------------


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


def _counts(ks: Sequence[int], neurons: int) -> list[int]:
    if not ks or not 1 <= min(ks) <= max(ks) <= neurons:
        raise ValueError(f"ks={list(ks)}: the model has {neurons} neurons; give 1 to {neurons}")
    return sorted(set(ks))
