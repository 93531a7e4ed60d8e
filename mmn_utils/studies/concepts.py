"""All nouns of all captions, scored by several methods: what paper B's exhibits are made of.

Paper A asks for a caption's first noun (``study``); paper B for every noun, each with its
own token at its own step. Here photographs become such concepts, and each analysis of
paper B runs over them in batches, by pictures, so that a thousand photographs fit. What is
costly is cached image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mmn_utils.datasets.published import published
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.final_norm import frozen_norm
from mmn_utils.neurons.methods import METHODS, by_methods
from mmn_utils.neurons.receptive_fields import activation_maps, iou, mask, resize_truth, upsample
from mmn_utils.neurons.table import Neuron, neuron_table, random_like, top_k
from mmn_utils.neurons.targets import ACTIVATIONS, Target, caption_targets
from mmn_utils.neurons.text import same_word
from mmn_utils.studies.invariance import NS, RegionInvariance, region_invariance
from mmn_utils.studies.sensitivity import COMPARE
from mmn_utils.studies.specificity import (
    MS,
    HeatMap,
    Specificity,
    best_neurons,
    heat_maps,
    specificity,
)
from mmn_utils.studies.store import per_photograph
from mmn_utils.studies.subjects import captions_of, places, with_nouns

if TYPE_CHECKING:
    from mmn_utils.datasets import Instance, Photograph

SWITCHED = ("activation", "contribution")  # methods that read the last token's activation


@dataclass(frozen=True)
class Concepts:
    """Photographs whose captions have nouns, with a target for each different noun.

    ``photographs``, ``captions`` and ``targets`` go together; ``skipped`` names the
    photographs left out (by id) with the reason.
    """

    photographs: list[Photograph]
    captions: list[Caption]
    targets: list[list[Target]]
    skipped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the photographs that stayed."""
        return len(self.photographs)

    @property
    def ids(self) -> list[str]:
        """The photographs' ids."""
        return [photograph.id for photograph in self.photographs]

    @property
    def all_targets(self) -> list[Target]:
        """All targets in the order of the photographs, then of the captions."""
        return [target for some in self.targets for target in some]

    @property
    def texts(self) -> dict[str, str]:
        """Each photograph's caption, by id."""
        return {image: c.text for image, c in zip(self.ids, self.captions, strict=True)}

    def select(self, ids: Sequence[str]) -> Concepts:
        """Take some of the photographs by id, in the order given; ValueError for others."""
        rows = places(ids, self.ids, "photographs", self.skipped)
        lists = (self.photographs, self.captions, self.targets)
        return Concepts(*([values[row] for row in rows] for values in lists))

    def batches(self, size: int) -> Iterator[tuple[list, list[Target]]]:
        """Open the pictures ``size`` at a time: (a picture for each target, targets)."""
        if size < 1:
            raise ValueError(f"batch_size = {size}: give at least 1")
        for start in range(0, len(self), size):
            rows = range(start, min(start + size, len(self)))
            opened = {row: self.photographs[row].open() for row in rows}
            pairs = [(opened[row], target) for row in rows for target in self.targets[row]]
            yield [picture for picture, _ in pairs], [target for _, target in pairs]


def concepts(
    model,
    photographs: Sequence[Photograph],
    *,
    max_new_tokens: int = 20,
    batch_size: int = 16,
    progress: bool = True,
) -> Concepts:
    """Caption photographs and take all nouns of each caption as targets (paper B, B.1).

    Captions are computed or loaded. ValueError where no caption has a noun.
    """
    captions = captions_of(
        model, photographs, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
    )
    kept, skipped = with_nouns(
        photographs, captions, lambda photograph, c: caption_targets(model, photograph.id, c)
    )
    return Concepts(*map(list, zip(*kept, strict=True)), skipped=skipped)


def switched(
    activation: str = "gated", contribution_norm: str = "none"
) -> dict[str, Callable[..., pd.DataFrame]]:
    """Return paper B's three methods with the switches set: {method: function}."""
    methods = {name: partial(METHODS[name], activation=activation) for name in SWITCHED}
    methods["contribution"] = partial(methods["contribution"], contribution_norm=contribution_norm)
    return {name: methods.get(name, METHODS[name]) for name in METHODS}


def check_settings(
    model,
    *,
    k: int,
    ks: Sequence[int],
    others: Sequence[int] = (),
    ns: Sequence[int] = NS,
    ms: Sequence[int] = MS,
    activation: str = "gated",
    contribution_norm: str = "none",
    compare: str = "tokens",
) -> None:
    """Raise ValueError, before anything is computed, for settings that a model cannot have.

    ``k`` is one of ``ks``; these and ``others`` are numbers of neurons, ``ns`` of images,
    ``ms`` of tokens; ``compare`` as in ``sensitivity``. ``gate`` needs gated MLPs.
    """
    neurons = model.sizes.layers * model.sizes.units
    _within("ks", ks, 1, neurons)
    _within("numbers of neurons", [k, *others], 1, neurons)
    _within("ns", ns, 2, None)
    _within("ms", ms, 1, model.sizes.vocabulary)
    if k not in ks:
        raise ValueError(f"k = {k} is not among ks = {list(ks)}; add it there")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation = {activation!r}: give one of {', '.join(ACTIVATIONS)}")
    if compare not in COMPARE:
        raise ValueError(f"compare = {compare!r}: give one of {', '.join(COMPARE)}")
    frozen_norm(model, contribution_norm)
    if activation == "gate":
        model.gate_module(0)


def _within(name: str, values: Sequence[int], low: int, high: int | None) -> None:
    if not values or min(values) < low or (high is not None and max(values) > high):
        most = "" if high is None else f" to {high}"
        raise ValueError(f"{name} = {list(values)}: give numbers from {low}{most}")


def of_paper(system: str) -> dict[str, pd.DataFrame]:
    """Return the paper's own numbers for one of its systems: {exhibit: rows of that model}.

    ValueError for another name.
    """
    found = {}
    for exhibit in ("B-table-2", "B-table-3", "B-fig-4", "B-table-4"):
        table = published(exhibit)
        if system not in set(table["model"]):
            known = ", ".join(dict.fromkeys(table["model"]))
            raise ValueError(f"paper_model = {system!r}: the paper has {known}")
        found[exhibit] = table[table["model"] == system].drop(columns="model")
    return found


# --- top neurons ------------------------------------------------------------------------


def top_neurons(
    model,
    some: Concepts,
    *,
    k: int = 100,
    activation: str = "gated",
    contribution_norm: str = "none",
    batch_size: int = 8,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Score all concepts by each method: {method: neuron table} of the top ``k``, cached."""
    methods = switched(activation, contribution_norm)

    def compute(pictures: list, targets: list[Target]) -> pd.DataFrame:
        found = by_methods(model, pictures, targets, k=k, methods=methods)
        return pd.concat([table.assign(method=name) for name, table in found.items()])

    key = {"k": k, "activation": activation, "contribution_norm": contribution_norm}
    table = _opened("concepts", model, some, key, compute, batch_size, progress)
    parts = dict(iter(table.groupby("method", sort=False)))
    return {name: neuron_table(parts[name].drop(columns="method")) for name in methods}


def _opened(
    kind: str, model, some: Concepts, key: dict[str, Any], compute, batch_size: int, progress: bool
) -> pd.DataFrame:
    """Compute a table from opened pictures and their targets, or load it."""

    def batch(rows: list[int]) -> pd.DataFrame:
        chosen = some.select([some.ids[row] for row in rows])
        return compute(*next(chosen.batches(len(chosen))))

    return per_photograph(
        kind, model, some.photographs, batch, key,
        targets=some.targets, batch_size=batch_size, progress=progress,
    )  # fmt: skip


def layer_counts(
    tables: Mapping[str, pd.DataFrame], layers: int, ks: Sequence[int]
) -> pd.DataFrame:
    """Count the different neurons and the entries of top-k lists in each layer (Fig. 2).

    ``tables`` by method; one row per (method, k, layer): layer from 0, depth of its centre,
    neurons (different ones), entries (in the lists of all concepts).
    """
    rows = []
    for method, table in tables.items():
        for k in ks:
            top = top_k(table, k)
            entries = np.bincount(top["layer"], minlength=layers)
            once = top.drop_duplicates(["layer", "unit"])
            neurons = np.bincount(once["layer"], minlength=layers)
            each = zip(range(layers), neurons.tolist(), entries.tolist(), strict=True)
            rows += [(method, k, layer, (layer + 0.5) / layers, *both) for layer, *both in each]
    return pd.DataFrame(rows, columns=["method", "k", "layer", "depth", "neurons", "entries"])


def upper_share(table: pd.DataFrame, layers: int, k: int) -> pd.Series:
    """Return the share of each image's different top-``k`` neurons in the upper half of layers."""
    once = top_k(table, k).drop_duplicates(["image", "layer", "unit"])
    return (once["layer"] >= layers / 2).groupby(once["image"], sort=False).mean()


# --- where they look --------------------------------------------------------------------


def why_no_grid(model) -> str | None:
    """Return the adapter's reason why there are no heat maps; None where there are."""
    try:
        model.require_grid()
    except ValueError as error:
        return str(error)
    return None


@torch.no_grad()
def focus(model, picture, lists: Sequence[Sequence[Neuron]], ks: Sequence[int]) -> torch.Tensor:
    """Average the activations of the first k neurons of each list: (lists, ks, h, w) float32.

    One pass serves all. ValueError for a model without a grid and for too short a list.
    """
    model.require_grid()
    shortest = min(map(len, lists))
    if shortest < max(ks):
        raise ValueError(f"{shortest} neurons are scored, {max(ks)} are asked; score with more")
    every = list(dict.fromkeys(neuron for some in lists for neuron in some[: max(ks)]))
    place = {neuron: i for i, neuron in enumerate(every)}
    maps = activation_maps(model, [picture], every)[0]
    rows = [[maps[[place[n] for n in some[:k]]].mean(0) for k in ks] for some in lists]
    return torch.stack([torch.stack(row) for row in rows])


def focus_table(
    model,
    some: Concepts,
    table: pd.DataFrame,
    ks: Sequence[int],
    *,
    quantile: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare masks of top-k neurons with the objects that concepts name (paper B, 3.3.1).

    One row per (image, target, condition, k) with the IoU of the mask of the mean map and
    all objects of that name: ``multimodal`` and ``random`` units of the same layers. Only
    concepts that name an annotated object have rows. ValueError without a grid.
    """
    model.require_grid()
    rng, rows, best = np.random.default_rng(seed), [], best_of(table, max(ks))
    for photograph, targets in zip(some.photographs, some.targets, strict=True):
        truths = {t.noun: object_mask(model, photograph, t.noun) for t in targets}
        nouns = [noun for noun, truth in truths.items() if truth is not None]
        if not nouns:
            continue
        tops = [best[photograph.id, noun] for noun in nouns]
        drawn = [random_like(top, model.sizes.units, rng) for top in tops]
        maps = focus(model, photograph.open(), [*tops, *drawn], ks)
        masks = mask(upsample(maps, model.image_tokens.pixels), quantile).cpu()
        conditions = ["multimodal"] * len(nouns) + ["random"] * len(nouns)
        for noun, condition, cuts in zip(nouns * 2, conditions, masks, strict=True):
            found = zip(ks, iou(cuts, truths[noun]).tolist(), strict=True)
            rows += [(photograph.id, noun, condition, k, value) for k, value in found]
    return pd.DataFrame(rows, columns=["image", "target", "condition", "k", "iou"])


def best_of(table: pd.DataFrame, k: int) -> dict[tuple[str, str], list[Neuron]]:
    """List each concept's top ``k`` neurons: {(image, noun): neurons, best first}."""
    top = top_k(table, k)
    neurons = [Neuron(*pair) for pair in zip(top["layer"], top["unit"], strict=True)]
    found: dict[tuple[str, str], list[Neuron]] = {}
    for image, noun, neuron in zip(top["image"], top["target"], neurons, strict=True):
        found.setdefault((image, noun), []).append(neuron)
    return found


def object_mask(model, photograph: Photograph, noun: str) -> torch.Tensor | None:
    """Join the masks of the objects that a noun names, in the encoder's square: bool (H, W).

    None where the noun names none, or where they vanish at that size.
    """
    masks = [
        resize_truth(_cut(model, one.mask), model.image_tokens.pixels)
        for one in named_by(photograph, noun)
    ]
    truth = torch.stack(masks).any(0) if masks else None
    return truth if truth is not None and truth.any() else None


def seen(model, picture: Image.Image) -> Image.Image:
    """Return the part of a picture that the encoder sees, which heat maps lie over."""
    return Image.fromarray(_cut(model, np.asarray(picture.convert("RGB"))))


def _cut(model, field: np.ndarray) -> np.ndarray:
    """Cut the middle square out of a field (h, w, ...) where the adapter does, else keep it."""
    if getattr(getattr(model, "facts", None), "fit", "square") != "crop":
        return field
    height, width = field.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return field[top : top + side, left : left + side]


def named_by(photograph: Photograph, noun: str) -> list[Instance]:
    """List the photograph's annotated objects that a noun names, singular or plural."""
    return [one for one in photograph.instances if same_word(noun, one.category)]


def examples(some: Concepts, n: int) -> Concepts:
    """Choose ``n`` photographs to show: the first whose nouns name an object, then the first.

    The choice follows from the sample and from no eye.
    """
    named = [
        photograph.id
        for photograph, targets in zip(some.photographs, some.targets, strict=True)
        if any(named_by(photograph, target.noun) for target in targets)
    ]
    return some.select(list(dict.fromkeys([*named, *some.ids]))[:n])


# --- the same neurons? ------------------------------------------------------------------


def shuffled_regions(
    model,
    some: Concepts,
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
    image, text (the caption now), moved (tokens), change (the largest of an entry).
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
    table = _opened("regions", model, some, key, compute, batch_size, progress)
    ratios = table[table["method"] != ""].drop(columns=["text", "moved", "change"])
    receipts = table.loc[table["method"] == "", ["image", "text", "moved", "change"]]
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


def most_images(ratios: pd.DataFrame, least: int = 5) -> int:
    """Return the largest N that ``least`` concepts reach, else the N that most concepts reach.

    ``ratios`` as from ``invariance.cross_image_invariance``; a mean over two concepts says
    little. ValueError where no concept is in enough images.
    """
    if ratios.empty:
        raise ValueError("no concept is in two photographs or more; take more photographs")
    reached = ratios.groupby("n")["concept"].nunique()
    enough = reached[reached >= least]
    return int(enough.index.max() if len(enough) else reached.idxmax())


# --- their concept only? ----------------------------------------------------------------


def specificity_of(
    model, some: Concepts, table: pd.DataFrame, *, batch_size: int = 16, **options
) -> Specificity:
    """Measure S@m of each photograph's best neuron, in batches; as ``specificity``."""
    parts = []
    for pictures, targets in some.batches(batch_size):
        picture_of = {t.image: p for t, p in zip(targets, pictures, strict=True)}
        mine = table[table["image"].isin(picture_of)]
        chosen, neurons = best_neurons(mine, targets)
        images = [picture_of[t.image] for t in chosen]
        parts.append(specificity(model, images, chosen, neurons, **options))
    scores = pd.concat([part.scores for part in parts], ignore_index=True)
    return Specificity(scores, parts[0].ms)


def heat_maps_of(
    model, some: Concepts, table: pd.DataFrame, *, batch_size: int = 16, **options
) -> list[HeatMap]:
    """Score each concept's top neuron for all concepts of its image, in batches; ``heat_maps``."""
    maps = []
    for pictures, targets in some.batches(batch_size):
        mine = table[table["image"].isin({t.image for t in targets})]
        maps += heat_maps(model, pictures, targets, mine, **options)
    return maps
