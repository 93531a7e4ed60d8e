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
from mmn_utils.datasets.base import TooFew
from mmn_utils.models.capture import capture, spare_last
from mmn_utils.neurons.attribution import attributed
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.decoding import Signed, signed
from mmn_utils.neurons.ranking import TopK
from mmn_utils.neurons.table import Neuron, neuron_table, random_like
from mmn_utils.neurons.targets import Target, objective, positions_of
from mmn_utils.neurons.text import nouns, same_word
from mmn_utils.studies.selectivity.activity import activation_grid, unit_activations
from mmn_utils.studies.signs import Readable, interpretable_rows
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
    one pass over the image serves caption and gradient. Photographs whose caption has no
    noun have no rows.
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
    with (
        torch.enable_grad(),
        spare_last(model, ends),
        capture(model, "pre", grad=True) as seen,
        capture(model) as active,
    ):
        logits, past = model.forward(prompt, use_cache=True)
        fields = dict(sorted(seen.values.items()))
    begun, names = (logits.detach(), _branch(past)), [p.id for p in photographs]
    captions = generate(model, prompt, max_new_tokens, begun, images=names)
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
    top, span, length = TopK(k, rank_by), positions_of(model, prompt, None), prompt.embeds.shape[1]
    for (layer, z), gradient in zip(fields.items(), gradients, strict=True):
        field = attributed(z.detach()[kept], gradient[kept], span, length)
        spared = z.shape[1] < length
        top.add(layer, field, None if spared else active.values[layer][kept][:, span])
    return top.table([targets[row] for row in kept])


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


def usual_signs(
    table: pd.DataFrame, label_of: Mapping[str, str], units: Mapping[str, Sequence[Neuron]]
) -> dict[str, list[Signed]]:
    """Pair each label's units with the sign that their activation has on most of its images.

    Of as many, 1. ``table`` holds the rows that the units were found by.
    """
    rows = table.assign(label=table["image"].map(label_of)).dropna(subset="label")
    votes: dict[tuple[str, Neuron], int] = Counter()
    for label, (neuron, sign) in zip(rows["label"], signed(rows), strict=True):
        votes[label, neuron] += sign
    return {
        label: [(neuron, -1 if votes[label, neuron] < 0 else 1) for neuron in some]
        for label, some in units.items()
    }


@dataclass(frozen=True)
class ClassStudy:
    """Units found on some pictures of each class, and how active they are on others.

    ``units[name]`` are a class's, steadiest first; a class whose captions have no such unit is
    left out; ``signed[name]`` are the same with the sign that their activation has on most of
    the pictures where they were found. ``own`` and ``chance`` are mean activations (units,
    images): of all those units, which were found for the classes ``set_of``, and of random ones
    of the same layers; the images are the ``pictures``, of the classes ``image_class``.
    ``named[name]`` is the share of the pictures on which they were found whose caption's first
    noun is the class.
    """

    units: dict[str, list[Neuron]]
    signed: dict[str, list[Signed]]
    pictures: dict[str, list[Photograph]]
    own: np.ndarray
    chance: np.ndarray
    named: dict[str, float]

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

    @property
    def every_signed(self) -> list[Signed]:
        """The same with their signs, as ``decoding`` takes them."""
        return [pair for pairs in self.signed.values() for pair in pairs]

    def most_and_least_named(self) -> list[str]:
        """The class whose pictures' captions name it most often, and the one named least."""
        ordered = sorted(self.units, key=lambda name: -self.named[name])
        return list(dict.fromkeys([ordered[0], ordered[-1]]))

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
    readable: Readable,
    *,
    per_class: Mapping[str, int],
    n_units: int = 20,
    seed: int = 0,
    progress: bool = True,
    **asked,
) -> ClassStudy:
    """Find each class's units on training pictures and watch them on validation pictures.

    Paper A, S.4. ``names`` of classes, empty for the folders' first ten; ``readable`` says which
    units may be found, by the sign that they have on a picture (``signs.interpretable_ends``);
    ``per_class`` pictures of each split, ``n_units`` of each class. What else is ``asked`` goes to
    ``class_table``. Whoever asks for the same at the same time shares the work, through the cache.
    TooFew where a class has no pictures of either split, or fewer than two classes have units.
    """
    names = [folders.names.get(name, name) for name in names or folders.classes[:10]]
    training = {name: folders.sample("train", name, per_class["train"], seed) for name in names}
    shown = {name: folders.sample("val", name, per_class["val"], seed) for name in names}
    _require_both(training, shown)
    class_of = {p.id: name for name, pictures in training.items() for p in pictures}
    pictures = [picture for some in training.values() for picture in some]
    found = class_table(model, pictures, progress=progress, **asked)
    named = named_shares(found, class_of)
    found = found[interpretable_rows(readable, found)]
    kept = steady_units(found, class_of, n_units)
    units = {name: kept[name] for name in names if name in kept}
    if len(units) < 2:
        raise TooFew(
            f"units were found for {len(units)} of {len(names)} classes, which leaves none to "
            "compare; take more photographs of each class"
        )
    pairs = usual_signs(found, class_of, units)
    rng = np.random.default_rng(seed)
    everyone = [unit for some in units.values() for unit in some]
    random = [u for some in units.values() for u in random_like(some, model.sizes.units, rng)]
    shown = {name: shown[name] for name in units}
    seen = [picture for some in shown.values() for picture in some]
    activity = unit_activations(model, seen, [*everyone, *random], progress=progress)
    ids = [picture.id for picture in seen]
    grids = (activation_grid(activity, ids, some) for some in (everyone, random))
    return ClassStudy(units, pairs, shown, *grids, named)


def _require_both(training: Mapping[str, list], shown: Mapping[str, list]) -> None:
    for name, some in training.items():
        if not (some and shown[name]):
            raise TooFew(
                f"class {name!r} has {len(some) + len(shown[name])} photograph to find units on "
                "and to watch them on; put two or more into its folder"
            )


def named_shares(table: pd.DataFrame, class_of: Mapping[str, str]) -> dict[str, float]:
    """Return the share of each class's pictures whose caption's first noun is the class.

    By class, of all pictures ``class_of`` knows; ``table`` of ``class_table``, in which a picture
    without a noun has no rows.
    """
    noun_of = table.drop_duplicates("image").set_index("image")["target"].to_dict()
    named = [is_of_class(noun_of.get(image, ""), name) for image, name in class_of.items()]
    return pd.Series(named).groupby(list(class_of.values()), sort=False).mean().to_dict()


def is_of_class(word: str, name: str) -> bool:
    """Say whether a word is a class's name or one of the words of it, in either number."""
    return any(same_word(word.strip(), part) for part in name.split())
