"""Do a picture's neurons stay the same when its regions change places? Paper B, section 2.4, Eq. 6.

The image tokens are permuted where the language model reads them: each keeps what its encoder
knows of its place and gets another's position. Whatever lies in the span of image tokens takes
part, with a grid or without.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from mmn_utils.datasets.base import TooFew
from mmn_utils.interventions.receipts import NothingTouched
from mmn_utils.models.base import Prompt
from mmn_utils.neurons.captions import Caption, generate
from mmn_utils.neurons.methods import METHODS, by_methods
from mmn_utils.neurons.table import best_of, top_k
from mmn_utils.neurons.targets import Target, caption_targets, embed_once
from mmn_utils.studies.concepts.invariance import GROUP, KS, shared_neurons
from mmn_utils.studies.concepts.scoring import per_subject, switched
from mmn_utils.studies.subjects import Subjects

CAPTIONS = ("new", "same")
COLUMNS = ["method", *GROUP, "shuffle", "k", "ratio"]


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


def ratio_rows(ratios: pd.DataFrame) -> pd.DataFrame:
    """Lay r_k of each image out: image, k, a column each method, as ``ratio_per_image``."""
    pairs = ratios[["k", "method"]].drop_duplicates().itertuples(index=False, name=None)
    each = {pair: ratio_per_image(ratios, *pair) for pair in pairs}
    table = pd.DataFrame(each).rename_axis(columns=["k", "method"], index="image")
    return table.stack("k").rename_axis(columns=None).reset_index()


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
    ks = _checked(ks, neurons, captions, shuffles)
    prompt, rows = embed_once(model, images, targets)
    score = partial(by_methods, model, k=ks[-1], methods=methods)
    if before is None:
        before = score(prompt.select(rows), targets)
    elif set(before) != set(methods):
        raise ValueError(f"before has {', '.join(before)}; give {', '.join(methods)}")
    ids = list(dict.fromkeys(t.image for t in targets))
    ratios, receipts, texts, after = [], [], [], []
    for shuffle in range(shuffles):
        moved, seen = _shuffle(model, prompt, ids, seed, shuffle)
        receipts += seen
        kept = list(targets)
        if captions == "new":
            said = dict(zip(ids, generate(model, moved, max_new_tokens, images=ids), strict=True))
            kept = _in_both(model, targets, said)
            texts += [(image, shuffle, caption.text) for image, caption in said.items()]
        places = [ids.index(t.image) for t in kept]
        nothing = {name: table.iloc[:0] for name, table in before.items()}
        after.append(score(moved.select(places), kept) if kept else nothing)
        ratios += _ratios(before, after[-1], ks, shuffle)
    return RegionInvariance(
        pd.concat(ratios, ignore_index=True),
        tuple(receipts),
        pd.DataFrame(texts, columns=["image", "shuffle", "text"]),
        before,
        {name: tuple(tables[name] for tables in after) for name in before},
        neurons,
    )


def _shuffle(model, prompt: Prompt, ids: Sequence[str], seed: int, shuffle: int):
    """Shuffle the image tokens of each image: the new prompt, and what was moved."""
    orders = draw_orders(len(_patches(model, prompt)), ids, seed, shuffle)
    moved, changes = shuffled(model, prompt, orders)
    places = torch.arange(orders.shape[1])
    tokens = (orders != places).sum(1).tolist()
    each = zip(ids, tokens, changes.tolist(), strict=True)
    return moved, [Moved(image, shuffle, count, change) for image, count, change in each]


def _ratios(
    before: Mapping[str, pd.DataFrame],
    after: Mapping[str, pd.DataFrame],
    ks: Sequence[int],
    shuffle: int,
) -> list[pd.DataFrame]:
    """Compare each method's neurons before and after one shuffle."""
    return [
        shared_neurons(table, after[name], ks).assign(method=name, shuffle=shuffle)[COLUMNS]
        for name, table in before.items()
    ]


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
    """Permute the patches of each row: patch i is what patch ``orders[row, i]`` was.

    ``orders`` (B, patches) long. Returns the new prompt and the largest absolute change of
    each row (B,); mask and positions stay. ``NothingTouched`` where a row has not changed.
    """
    places = _patches(model, prompt)
    count = len(places)
    if orders.shape != (len(prompt), count):
        raise ValueError(f"orders of {tuple(orders.shape)}: give {(len(prompt), count)}")
    if not torch.equal(
        orders.sort(dim=1).values, torch.arange(count, device=orders.device).expand_as(orders)
    ):
        raise ValueError(f"a row of orders is no permutation of 0 to {count - 1}")
    old = prompt.embeds[:, places]
    orders = orders.to(old.device)
    embeds = prompt.embeds.clone()
    embeds[:, places] = old.gather(1, orders[:, :, None].expand_as(old))
    change = (embeds - prompt.embeds).abs().flatten(1).amax(1).float()
    if len(change) and not bool(change.all()):
        row = int((change == 0).nonzero()[0])
        raise NothingTouched(f"the shuffle of row {row} changed no image token: all are alike")
    return replace(prompt, embeds=embeds, extras=_along(prompt.extras, orders)), change


def _patches(model, prompt: Prompt) -> Sequence[int]:
    """List the positions of the image tokens, ends of rows left out."""
    places = model.image_tokens.places
    return range(prompt.embeds.shape[1])[places] if isinstance(places, slice) else places


def _along(extras: Mapping[str, torch.Tensor], orders: torch.Tensor) -> dict[str, torch.Tensor]:
    """Permute what else has a vector for each image token."""
    per_token = [name for name, value in extras.items() if value.shape[1:-1] == orders.shape[1:]]
    rows = torch.arange(len(orders), device=orders.device)[:, None]
    return {**extras, **{name: extras[name][rows, orders] for name in per_token}}


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


def _checked(ks: Sequence[int], neurons: int, captions: str, shuffles: int) -> list[int]:
    """Return the different ks, smallest first; ``ValueError`` for what cannot be asked."""
    if captions not in CAPTIONS or shuffles < 1:
        raise ValueError(
            f"captions={captions!r}, shuffles={shuffles}: give one of {', '.join(CAPTIONS)} "
            "and at least one shuffle"
        )
    if not ks or not 1 <= min(ks) <= max(ks) <= neurons:
        raise ValueError(f"ks={list(ks)}: the model has {neurons} neurons; give 1 to {neurons}")
    return sorted(set(ks))


def shuffled_regions(
    model,
    some: Subjects,
    before: Mapping[str, pd.DataFrame],
    ks: Sequence[int],
    *,
    seed: int = 0,
    max_new_tokens: int = 20,
    activation: str = "gated",
    contribution_norm: str = "none",
    batch_size: int = 8,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shuffle the image tokens of each photograph and find its neurons again, cached.

    ``before``: neuron tables by method, of the concepts as they are, with the largest of
    ``ks`` neurons or more. Returns ``ratios`` as ``RegionInvariance.ratios`` and receipts:
    image, text (the caption now), moved (tokens), change (the largest of an entry). TooFew where
    no caption keeps any of its nouns.
    """
    methods = {name: switched(activation, contribution_norm)[name] for name in before}
    tops = {name: top_k(table, max(ks)) for name, table in before.items()}

    def compute(pictures: list, targets: list[Target]) -> pd.DataFrame:
        mine = {t.image for t in targets}
        known = {name: table[table["image"].isin(mine)] for name, table in tops.items()}
        options = {"methods": methods, "before": known, "max_new_tokens": max_new_tokens}
        found = region_invariance(model, pictures, targets, ks=ks, seed=seed, **options)
        return _packed(found)

    key = {
        "ks": list(ks), "seed": seed, "max_new_tokens": max_new_tokens, "methods": list(methods),
        "activation": activation, "contribution_norm": contribution_norm,
    }  # fmt: skip
    table = per_subject("regions", model, some, key, compute, batch_size, progress)
    ratios = table[table["method"] != ""].drop(columns=["text", "moved", "change"])
    receipts = table.loc[table["method"] == "", ["image", "text", "moved", "change"]]
    if ratios.empty:
        raise TooFew(
            f"none of the {len(some)} captions keeps a noun when the image tokens are shuffled; "
            "take more photographs"
        )
    whole = {"token": "int64", "shuffle": "int64", "k": "int64"}
    receipts = receipts.astype({"moved": "int64"})
    return ratios.astype(whole).reset_index(drop=True), receipts.reset_index(drop=True)


def _packed(found: RegionInvariance) -> pd.DataFrame:
    """Lay ratios and receipts in one table; a receipt has the method ''."""
    receipts = pd.DataFrame([vars(one) for one in found.receipts])
    receipts = receipts.merge(found.captions, on=["image", "shuffle"])
    blank = {"method": "", "target": "", "token": -1, "k": -1, "ratio": np.nan}
    return pd.concat([receipts.assign(**blank), found.ratios], ignore_index=True)


def same_neurons(
    found: RegionInvariance, method: str = "contribution", top: int = 4
) -> pd.DataFrame:
    """List each concept's top neurons before and after the first shuffle (paper B, Table 10).

    Columns image, target, before, after (addresses, best first), shared (how many are in
    both). Only concepts that both captions have.
    """
    old, new = (best_of(t, top) for t in (found.before[method], found.after[method][0]))
    rows = []
    for (image, noun), after in new.items():
        before = old[image, noun]
        texts = (", ".join(map(str, some)) for some in (before, after))
        rows.append((image, noun, *texts, len(set(before) & set(after))))
    return pd.DataFrame(rows, columns=["image", "target", "before", "after", "shared"])
