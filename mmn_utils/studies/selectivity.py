"""For what a neuron fires: objects, classes, and the photographs that drive it hardest.

Paper A, section 3.2 (receptive fields against instance masks) and S.4 (classes). Every
table here is computed per image and kept by the cache; who has the neurons and where the
pictures come from is the caller's business.
"""

from __future__ import annotations

import copy
import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from mmn_utils.datasets import ClassFolders, CocoDataset, Photograph
from mmn_utils.measures.estimates import Estimate
from mmn_utils.models.capture import capture, spare_last
from mmn_utils.neurons.attribution import attributed
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.receptive_fields import (
    QUANTILE,
    activation_maps,
    dataset_thresholds,
    iou,
    mask,
    resize_truth,
    upsample,
)
from mmn_utils.neurons.table import NO_PATCH, Neuron, neuron_table, random_like, unique_neurons
from mmn_utils.neurons.targets import Target, objective
from mmn_utils.neurons.text import nouns
from mmn_utils.studies.subjects import per_photograph

TOP, RANDOM = "multimodal", "random"  # conditions, called as the palette calls them
MEAN_MASK = -1  # rank of the mask cut from the mean map of all units
PLURALS = (("", ""), ("", "s"), ("", "es"), ("y", "ies"), ("f", "ves"), ("fe", "ves"))


# --- which photographs, and what they show -------------------------------------------


def same_word(noun: str, name: str) -> bool:
    """Say whether a noun is a name or its regular plural, whatever the case."""
    noun, name = noun.lower(), name.lower()
    return any(
        name.endswith(end) and noun == name[: len(name) - len(end)] + plural
        for end, plural in PLURALS
    )


def mentions(photograph: Photograph, noun: str) -> bool:
    """Say whether a human caption or an annotated category names the noun, in either number."""
    names = {one.category for one in photograph.instances} | {photograph.label or ""}
    words = {word for text in photograph.captions for word in re.findall(r"[^\W\d_]+", text)}
    return any(same_word(noun, name) or same_word(name, noun) for name in names | words if name)


def single_objects(
    dataset: CocoDataset, ids: Sequence[str], categories: int = 12, least: int = 1
) -> dict[str, list[str]]:
    """Choose the categories of Figure 5: {category: photographs with one annotation of it}.

    Of the photographs ``ids``, in their order; the ``categories`` that have most of them,
    most first. ValueError where fewer categories have ``least`` photographs.
    """
    wanted = list(ids)
    found = {}
    for category in dataset.categories():
        single = set(dataset.single_object(category))
        images = [image for image in wanted if image in single]
        if len(images) >= max(least, 1):
            found[category] = images
    if len(found) < categories:
        raise ValueError(
            f"{len(found)} categories have {least} photographs with a single object, "
            f"{categories} are asked for; take more photographs or fewer categories"
        )
    ordered = sorted(found, key=lambda category: -len(found[category]))[:categories]
    return {category: found[category] for category in ordered}


# --- receptive fields against masks ---------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """How a map becomes a mask: at its own quantile, or at each unit's over a data set."""

    quantile: float = QUANTILE
    thresholds: Mapping[Neuron, float] | None = None

    def masks(self, maps: torch.Tensor, neurons: Sequence[Neuron] | None) -> torch.Tensor:
        """Cut upsampled maps (N, H, W) of these neurons; without neurons, at their own quantile."""
        if self.thresholds is None or neurons is None:
            return mask(maps, self.quantile)
        levels = torch.tensor([self.thresholds[neuron] for neuron in neurons])
        return mask(maps, thresholds=levels)


def controls(
    table: pd.DataFrame, units: int, seed: int, k: int | None = None
) -> dict[str, dict[str, list[Neuron]]]:
    """List each image's top ``k`` neurons and as many random ones of the same layers.

    {image: {"multimodal": [...], "random": [...]}}. The draw depends on the seed and the
    image alone, so more images leave it as it is.
    """
    chosen = {}
    for image, rows in table.groupby("image", sort=False):
        top = unique_neurons(rows)[:k]
        rng = np.random.default_rng([seed, zlib.crc32(str(image).encode())])
        chosen[str(image)] = {TOP: top, RANDOM: random_like(top, units, rng)}
    return chosen


def iou_table(
    model,
    photographs: Sequence[Photograph],
    objects: Mapping[str, Sequence[str]],
    neurons: Mapping[str, Mapping[str, Sequence[Neuron]]],
    *,
    cut: Cut | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare receptive fields with instance masks (paper A, section 3.2), computed or loaded.

    ``objects`` gives each image's categories, ``neurons`` its conditions' neurons. One row
    per (image, category, condition, rank): layer, unit, and iou float32 on the model's
    pixels. Rank ``MEAN_MASK`` is the mask of the mean of the condition's maps, at its own
    quantile. An object too small to be left on the model's pixels has no rows.
    """
    cut = cut or Cut()

    def compute(places: list[int]) -> pd.DataFrame:
        chosen = [photographs[place] for place in places]
        sets = [neurons[photograph.id] for photograph in chosen]
        every = sorted({n for conditions in sets for some in conditions.values() for n in some})
        fields = activation_maps(model, [p.open() for p in chosen], every)
        place = {neuron: i for i, neuron in enumerate(every)}
        rows = []
        for photograph, conditions, field in zip(chosen, sets, fields, strict=True):
            for condition, some in conditions.items():
                maps = field[[place[neuron] for neuron in some]]
                masks = masks_with_mean(model, maps, some, cut)
                rows += _against(model, photograph, objects, condition, some, masks)
        return pd.DataFrame(rows, columns=["image", *IOU_COLUMNS])

    asked = {"quantile": cut.quantile, "seen": _digest(objects, neurons, cut)}
    return per_photograph(
        "iou", model, photographs, compute, asked,
        batch_size=batch_size, progress=progress, empty_ok=True,
    )  # fmt: skip


IOU_COLUMNS = ["category", "condition", "rank", "layer", "unit", "iou"]


def masks_with_mean(model, maps: torch.Tensor, neurons: Sequence[Neuron], cut: Cut) -> torch.Tensor:
    """Cut the neurons' maps (N, h, w) and, last, their mean: bool (N + 1, H, W).

    On the model's pixels. The mean has no threshold of its own over a data set, so it is
    always cut at its own quantile.
    """
    size = model.image_tokens.pixels
    single = cut.masks(upsample(maps, size), neurons)
    mean = cut.masks(upsample(maps.mean(0, keepdim=True), size), None)
    return torch.cat([single, mean])


def _against(model, photograph, objects, condition, neurons, masks) -> list[tuple]:
    """Compare one condition's masks with each object of one photograph."""
    rows = []
    for category in objects[photograph.id]:
        truth = resize_truth(photograph.mask(category), model.image_tokens.pixels)
        if not truth.any():
            continue
        values = iou(masks, truth).tolist()
        ranks = [*range(len(neurons)), MEAN_MASK]
        addresses = [*((n.layer, n.unit) for n in neurons), (-1, -1)]
        rows += [
            (photograph.id, category, condition, rank, *address, value)
            for rank, address, value in zip(ranks, addresses, values, strict=True)
        ]
    return rows


def unit_thresholds(
    model,
    photographs: Sequence[Photograph],
    neurons: Iterable[Neuron],
    quantile: float = QUANTILE,
    *,
    batch_size: int = 8,
    at_once: int = 512,
) -> dict[Neuron, float]:
    """Take each neuron's quantile over all patches of all photographs, as network dissection does.

    ``at_once`` neurons are held together, each for (photographs, h, w).
    """
    neurons, levels = sorted(set(neurons)), {}
    for start in range(0, len(neurons), at_once):
        some = neurons[start : start + at_once]
        parts = [
            activation_maps(model, [p.open() for p in photographs[i : i + batch_size]], some).cpu()
            for i in range(0, len(photographs), batch_size)
        ]
        found = dataset_thresholds(torch.cat(parts), quantile).tolist()
        levels.update(zip(some, found, strict=True))
    return levels


def iou_by_image(table: pd.DataFrame, mean_mask: bool = False) -> pd.DataFrame:
    """Average an IoU table over units: one row per (category, image), a column per condition.

    ``mean_mask`` takes the mask of the mean map instead of the mean over single masks.
    """
    rows = table[(table["rank"] == MEAN_MASK) == mean_mask]
    means = rows.groupby(["category", "image", "condition"], sort=False)["iou"].mean()
    return means.unstack("condition")[[TOP, RANDOM]].reset_index().rename_axis(columns=None)


# --- how active ------------------------------------------------------------------------


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
        flat = activation_maps(model, [p.open() for p in chosen], neurons).flatten(2)
        return pd.DataFrame(
            {
                "image": np.repeat(np.array([p.id for p in chosen], dtype=object), len(neurons)),
                "layer": [n.layer for n in neurons] * len(chosen),
                "unit": [n.unit for n in neurons] * len(chosen),
                "peak": flat.amax(-1).flatten().cpu().numpy(),
                "mean": flat.mean(-1).flatten().cpu().numpy(),
            }
        )

    return per_photograph(
        "activity", model, photographs, compute, {"neurons": _digest(list(map(str, neurons)))},
        batch_size=batch_size, progress=progress,
    )  # fmt: skip


def activation_grid(
    table: pd.DataFrame, images: Sequence[str], neurons: Sequence[Neuron], value: str = "mean"
) -> np.ndarray:
    """Lay a table of ``unit_activations`` out as (neurons, images), in the orders given."""
    wide = table.pivot(index=["layer", "unit"], columns="image", values=value)
    order = pd.MultiIndex.from_tuples([(n.layer, n.unit) for n in neurons])
    return wide.reindex(index=order, columns=list(images)).to_numpy()


def strongest(table: pd.DataFrame, neuron: Neuron, n: int) -> list[str]:
    """Name the ``n`` images that a neuron's peak is largest on, the largest first."""
    rows = table[(table["layer"] == neuron.layer) & (table["unit"] == neuron.unit)]
    return rows.sort_values("peak", ascending=False, kind="stable")["image"].head(n).tolist()


def steady_units(
    table: pd.DataFrame, label_of: Mapping[str, str], n: int = 20
) -> dict[str, list[Neuron]]:
    """Find each label's ``n`` units that are in the table for the most of its images.

    Paper A, S.4. Most images first; of as many, those with the larger sum of scores.
    """
    rows = table.assign(label=table["image"].map(label_of)).dropna(subset="label")
    groups = rows.groupby(["label", "layer", "unit"], sort=True)
    counts = groups.agg(images=("image", "nunique"), score=("score", "sum")).reset_index()
    counts = counts.sort_values(["images", "score"], ascending=False, kind="stable")
    return {
        label: [Neuron(int(a), int(b)) for a, b in some[["layer", "unit"]].head(n).to_numpy()]
        for label, some in sorted(counts.groupby("label", sort=True))
    }


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


# --- classes ---------------------------------------------------------------------------


def class_table(
    model,
    photographs: Sequence[Photograph],
    *,
    k: int = 100,
    target: str = "logit",
    rank_by: str = "max",
    max_new_tokens: int = 20,
    batch_size: int = 40,
    progress: bool = True,
) -> pd.DataFrame:
    """Caption photographs and score their units in one go: the neuron table, computed or loaded.

    The same numbers as ``study.subjects`` and ``study.top_neurons`` for about half the time:
    one pass over the image serves caption and gradient. ``patch`` is not looked for.
    Photographs whose caption has no noun have no rows.
    """
    if rank_by not in ("max", "sum"):
        raise ValueError(f"rank_by={rank_by!r}: give 'max' or 'sum'")
    known = {}

    def compute(rows: list[int]) -> pd.DataFrame:
        chosen = [photographs[row] for row in rows]
        return _caption_and_score(model, chosen, known, k, target, rank_by, max_new_tokens)

    asked = {"k": k, "target": target, "rank_by": rank_by, "max_new_tokens": max_new_tokens}
    table = per_photograph(
        "classes", model, photographs, compute, asked,
        batch_size=batch_size, progress=progress, empty_ok=True,
    )  # fmt: skip
    return neuron_table(table)


def _caption_and_score(model, photographs, known, k, target, rank_by, max_new_tokens):
    """Score one batch; ``known`` remembers the noun of every caption that came before."""
    prompt = model.prompt([photograph.open() for photograph in photographs])
    ends = int(prompt.ends.min())
    with torch.enable_grad(), spare_last(model, ends), capture(model, "pre", grad=True) as seen:
        logits, past = model.forward(prompt, use_cache=True)
        fields = dict(sorted(seen.values.items()))
    captions = generate(model, prompt, max_new_tokens, (logits.detach(), _branch(past)))
    for caption in captions:
        if caption.ids not in known:
            known[caption.ids] = next(iter(nouns(caption, model)), None)
    kept = [row for row, caption in enumerate(captions) if known[caption.ids]]
    # A row without a noun still needs some target; its scores are dropped.
    targets = [
        Target.of(p.id, known[c.ids], c) if known[c.ids] else Target(p.id, "", 0, ())
        for p, c in zip(photographs, captions, strict=True)
    ]
    with torch.enable_grad():
        y = objective(_at_target(model, prompt, past, logits, targets), targets, target)
        gradients = torch.autograd.grad(y.sum(), list(fields.values()))
    scores = _reduced(model, prompt, fields.values(), gradients, rank_by)
    return _scored_rows(scores, [targets[row] for row in kept], kept, k, model.sizes.units)


def _branch(past):
    """Copy a cache so that what one copy appends, the other does not see; tensors are shared."""
    other = copy.copy(past)
    other.layers = [copy.copy(layer) for layer in past.layers]
    return other


def _at_target(model, prompt, past, logits, targets: Sequence[Target]) -> torch.Tensor:
    """Return the logits (B, V) that predict each target, with the graph of the image's pass.

    Captions up to their targets follow the cache, shorter ones padded in front.
    """
    longest = max(len(target.prefix) for target in targets)
    if longest == 0:
        return logits
    ids = torch.zeros(len(targets), longest, dtype=torch.long)
    real = torch.zeros_like(ids)
    for row, target in enumerate(targets):
        if target.prefix:
            ids[row, -len(target.prefix) :] = torch.tensor(target.prefix)
            real[row, -len(target.prefix) :] = 1
    longer = prompt.extend(model.embed(ids), real)
    forced, _ = model.forward(longer.tail(longest), past=past, use_cache=True)
    whole = torch.tensor([not target.prefix for target in targets], device=forced.device)
    return torch.where(whole[:, None], logits, forced)


def _reduced(model, prompt, fields, gradients, rank_by: str) -> torch.Tensor:
    """Reduce Z times dy/dZ (Eq. 2) over the image's patches: (B, layers x units) float32."""
    span = slice(model.image_tokens.start, model.image_tokens.start + model.image_tokens.count)
    length, reduced = prompt.embeds.shape[1], []
    for z, gradient in zip(fields, gradients, strict=True):
        field = attributed(z.detach(), gradient, span, length)
        reduced.append(field.amax(1) if rank_by == "max" else field.sum(1))
    return torch.cat(reduced, dim=1)


def _scored_rows(scores, targets: Sequence[Target], kept, k: int, units: int) -> pd.DataFrame:
    """Lay the top ``k`` of the rows kept out as a neuron table."""
    top = scores[kept].topk(min(k, scores.shape[1]), dim=1)
    index, count = top.indices.cpu().numpy(), top.indices.shape[1]
    return neuron_table(
        {
            "image": [t.image for t in targets for _ in range(count)],
            "target": [t.noun for t in targets for _ in range(count)],
            "token": [t.token for t in targets for _ in range(count)],
            "layer": (index // units).ravel(),
            "unit": (index % units).ravel(),
            "patch": np.full(index.size, NO_PATCH),
            "score": top.values.cpu().numpy().ravel(),
        }
    )


@dataclass(frozen=True)
class ClassStudy:
    """Units found on some pictures of each class, and how active they are on others.

    ``units[name]`` are a class's, steadiest first; a class whose captions have no such unit is
    left out. ``own`` and ``chance`` are mean activations (units, images): of all those units,
    which were found for the classes ``set_of``, and of random ones of the same layers; the
    images are the ``pictures``, of the classes ``image_class``.
    """

    units: dict[str, list[Neuron]]
    pictures: dict[str, list[Photograph]]
    own: np.ndarray
    chance: np.ndarray

    @property
    def set_of(self) -> list[str]:
        """The class that each row of ``own`` was found for."""
        return [name for name, units in self.units.items() for _ in units]

    @property
    def image_class(self) -> list[str]:
        """The class of each column."""
        return [name for name, pictures in self.pictures.items() for _ in pictures]


def class_study(
    model,
    folders: ClassFolders,
    names: Sequence[str],
    readable: np.ndarray,
    *,
    per_class: Mapping[str, int],
    n_units: int = 20,
    seed: int = 0,
    progress: bool = True,
    **asked,
) -> ClassStudy:
    """Find each class's units on training pictures and watch them on validation pictures.

    Paper A, S.4. ``names`` of classes, empty for the folders' first ten; ``readable`` bool
    (layers, units) says which units may be found; ``per_class`` pictures of each split,
    ``n_units`` of each class. What else is ``asked`` goes to ``class_table``. Whoever asks for
    the same at the same time shares the work, through the cache.
    """
    names = [folders.names.get(name, name) for name in names or folders.classes[:10]]
    training = {name: folders.sample("train", name, per_class["train"], seed) for name in names}
    shown = {name: folders.sample("val", name, per_class["val"], seed) for name in names}
    class_of = {p.id: name for name, pictures in training.items() for p in pictures}
    pictures = [picture for some in training.values() for picture in some]
    found = class_table(model, pictures, progress=progress, **asked)
    kept = steady_units(found[readable[found["layer"], found["unit"]]], class_of, n_units)
    units = {name: kept[name] for name in names if name in kept}
    rng = np.random.default_rng(seed)
    everyone = [unit for some in units.values() for unit in some]
    random = [u for some in units.values() for u in random_like(some, model.sizes.units, rng)]
    shown = {name: shown[name] for name in units}
    seen = [picture for some in shown.values() for picture in some]
    activity = unit_activations(model, seen, [*everyone, *random], progress=progress)
    ids = [picture.id for picture in seen]
    grids = (activation_grid(activity, ids, some) for some in (everyone, random))
    return ClassStudy(units, shown, *grids)


@dataclass(frozen=True)
class ClassMatrix:
    """Mean activation of each class's units on each class's images (paper A, Figure S.2).

    ``mean`` (classes of units, classes of images); ``relative`` is each row over its own
    largest mean, NaN where no mean of the row is positive; ``own_share`` the share of rows
    whose largest mean is on their own class, its interval from resampling each class's
    images.
    """

    classes: tuple[str, ...]
    mean: np.ndarray
    relative: np.ndarray
    own_share: Estimate


def class_matrix(
    activations: np.ndarray,
    set_of: Sequence[str],
    class_of: Sequence[str],
    *,
    n: int = 1000,
    seed: int = 0,
) -> ClassMatrix:
    """Average activations (units, images) by the class of the unit and the class of the image.

    ``set_of`` names each unit's class, ``class_of`` each image's. ValueError where a class
    has units but no images, or the other way round.
    """
    classes = tuple(sorted(set(set_of)))
    if set(class_of) != set(classes):
        raise ValueError(f"units of {classes} but images of {tuple(sorted(set(class_of)))}")
    sets = np.array(set_of)
    images = np.array(class_of)
    per_set = np.stack([activations[sets == name].mean(0) for name in classes])
    columns = [per_set[:, images == name] for name in classes]
    mean = np.stack([column.mean(1) for column in columns], axis=1)
    rng = np.random.default_rng(seed)
    counts = [column.shape[1] for column in columns]
    drawn = [c[:, rng.integers(0, m, (n, m))] for c, m in zip(columns, counts, strict=True)]
    again = np.stack([column.mean(2) for column in drawn], axis=2)  # (classes, n, classes)
    shares = [_own_share(again[:, i]) for i in range(n)]
    low, high = np.quantile(shares, [0.025, 0.975])
    largest = mean.max(1, keepdims=True)
    relative = np.divide(mean, largest, out=np.full_like(mean, np.nan), where=largest > 0)
    share = Estimate(_own_share(mean), float(low), float(high), len(images))
    return ClassMatrix(classes, mean, relative, share)


def _own_share(mean: np.ndarray) -> float:
    return float((mean.argmax(1) == np.arange(len(mean))).mean())


def prefers_own(
    activations: np.ndarray, set_of: Sequence[str], class_of: Sequence[str]
) -> np.ndarray:
    """Say of each unit whether its mean activation is largest on its own class: bool (units,)."""
    classes, images = np.unique(np.array(class_of)), np.array(class_of)
    means = np.stack([activations[:, images == name].mean(1) for name in classes], axis=1)
    return classes[means.argmax(1)] == np.array(set_of)


# --- inside -----------------------------------------------------------------------------


def _digest(*parts: Any) -> str:
    """Hash what a table was asked for; every part prints the same in every run."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:16]
