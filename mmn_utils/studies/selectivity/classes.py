"""Do units that were found for a class fire for it? Paper A, S.4."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from mmn_utils.datasets import ClassFolders, Photograph
from mmn_utils.measures.estimates import Estimate
from mmn_utils.models.capture import capture, spare_last
from mmn_utils.neurons.attribution import attributed
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.ranking import scored
from mmn_utils.neurons.table import NO_PATCH, Neuron, neuron_table, random_like
from mmn_utils.neurons.targets import Target, objective, positions_of
from mmn_utils.neurons.text import nouns
from mmn_utils.studies.selectivity.activity import activation_grid, unit_activations
from mmn_utils.studies.store import per_photograph


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

    The same numbers as ``subjects.subjects`` and ``subjects.top_neurons`` for about half the time:
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
    span = positions_of(model, prompt, None)
    length, reduced = prompt.embeds.shape[1], []
    for z, gradient in zip(fields, gradients, strict=True):
        field = attributed(z.detach(), gradient, span, length)
        reduced.append(field.amax(1) if rank_by == "max" else field.sum(1))
    return torch.cat(reduced, dim=1)


def _scored_rows(scores, targets: Sequence[Target], kept, k: int, units: int) -> pd.DataFrame:
    """Lay the top ``k`` of the rows kept out as a neuron table."""
    top = scores[kept].topk(min(k, scores.shape[1]), dim=1)
    index = top.indices.cpu().numpy()
    patches = np.full_like(index, NO_PATCH)
    return scored(targets, index // units, index % units, patches, top.values.cpu().numpy())


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

    @property
    def every_unit(self) -> list[Neuron]:
        """The neuron of each row of ``own``; one that serves two classes is there twice."""
        return [unit for units in self.units.values() for unit in units]

    def sharing(self) -> dict[str, int]:
        """Count the ``places`` of all lists, the ``different`` neurons in them, those that stand
        for more than one class (``shared``), and the ``most`` classes that one stands for.
        """
        counts = Counter(self.every_unit)
        shared = sum(count > 1 for count in counts.values())
        sizes = {"places": counts.total(), "different": len(counts)}
        return {**sizes, "shared": shared, "most": max(counts.values())}


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
    whose largest mean is on their own class, over the classes, its interval from resampling
    each class's images.
    """

    classes: tuple[str, ...]
    mean: np.ndarray
    relative: np.ndarray
    own_share: Estimate

    @property
    def frame(self) -> pd.DataFrame:
        """The means with their names: a row for the ``units of`` each class."""
        frame = pd.DataFrame(self.mean, index=self.classes, columns=self.classes)
        return frame.rename_axis("units of").reset_index()

    @property
    def elsewhere(self) -> float:
        """The average of ``relative`` off the diagonal, with what is negative counted as 0."""
        off = self.relative[~np.eye(len(self.classes), dtype=bool)]
        return float(np.nanmean(off.clip(min=0)))


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
    share = Estimate(_own_share(mean), float(low), float(high), len(classes))
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
