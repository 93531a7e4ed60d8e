"""How much an encoder knows of what photographs show: a linear probe of its pooled features.

A projection hands the language model linear images of an encoder's features. How often a linear
classifier that reads their mean over the picture finds the class, of the same photographs, is
about what captions through that encoder can reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from mmn_utils.cache import atomic
from mmn_utils.datasets.pictures import read_image
from mmn_utils.models.any_encoder import IN_FOCUS, LITE2, Found, load_encoder
from mmn_utils.models.focus import FOCUS
from mmn_utils.models.pixels import to_pixels
from mmn_utils.smol.photographs import Shown
from mmn_utils.smol.training import fast_type
from mmn_utils.smol.views import TOGETHER, digest
from mmn_utils.studies.naming import UNTRAINED, shares
from mmn_utils.training.loop import side_by_side

PART = 500  # photographs, after which what was encoded is safe
LAST = "last"  # the layer of an encoder that has one to offer
STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)  # of the penalty, tried in this order
EVERY = 5  # one of so many training photographs says which strength is best
STEPS = 150  # of L-BFGS, at most; each begins where the stronger penalty's ended


@dataclass(frozen=True)
class Candidate:
    """An encoder to be tried, at one layer or at several that it gives side by side.

    ``fast`` ones compute in bfloat16 where the processor multiplies it fast.
    """

    name: str  # as the table has it
    encoder: str  # see models.any_encoder
    trained: bool = True
    layers: tuple[str, ...] = (LAST,)
    fast: bool = False

    def load(self) -> Found:
        """Load the encoder."""
        found = load_encoder(self.encoder, self.trained)
        if self.fast:
            found.encoder.to(fast_type())
        return found


FOCUS_LAYERS = ("9", "10", "11", "12")
CANDIDATES = (
    Candidate(LITE2, LITE2),
    Candidate(UNTRAINED, LITE2, trained=False),
    Candidate(FOCUS, IN_FOCUS + "+".join(FOCUS_LAYERS), layers=FOCUS_LAYERS, fast=True),
)


# --- features ---------------------------------------------------------------------------------


def pooled(found: Found, shown: Sequence[Shown], layers: int, work: Path) -> Tensor:
    """Encode photographs once, whole, and take the mean over patches: (N, layers, width).

    Kept in ``work``, ``PART`` photographs a file: what was stopped goes on there. In float32, since
    an untrained network's features may be smaller than half precision can tell from zero.
    ``width`` is that of each of the layers.
    """
    parts = []
    for start in range(0, len(shown), PART):
        part = shown[start : start + PART]
        file = work / f"pooled_{digest(found, part, 'pooled', _type_of(found))}.npy"
        if not file.exists():
            print(f"pooled  {start}/{len(shown)} photographs", flush=True)
            values = torch.cat(list(_encoded(found, part))).unflatten(1, (layers, -1))
            with atomic(file) as fresh:
                np.save(fresh, values.numpy())
        parts.append(torch.from_numpy(np.load(file)))
    return torch.cat(parts)


def _type_of(found: Found) -> str:
    """Name the floating point type of an encoder."""
    return str(next(found.encoder.parameters()).dtype).removeprefix("torch.")


def _encoded(found: Found, shown: Sequence[Shown]) -> Iterator[Tensor]:
    dtype = getattr(torch, _type_of(found))

    def encode(start: int) -> Tensor:
        images = [read_image(one.path) for one in shown[start : start + TOGETHER]]
        pixels = to_pixels(images, found.encoder.pixels, found.mean, found.std)
        with torch.no_grad():
            features = found.encoder.features(pixels.to(dtype))
        return features.float().mean(1)

    starts = range(0, len(shown), TOGETHER)
    yield from side_by_side().map(encode, starts)


# --- the probe --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features: weight (classes, width), bias (classes)."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (N, classes) of features (N, width)."""
        return features @ self.weight.T + self.bias


def fit(features: Tensor, labels: Tensor, classes: int, strength: float, start: Probe | None):
    """Fit a multinomial logistic regression, from ``start`` on or from nothing.

    The loss is the mean cross-entropy plus half of ``strength`` times the squared weights; biases
    are free. It is convex: where it ends does not depend on where it starts.
    """
    width = features.shape[1]
    begin = start or Probe(features.new_zeros(classes, width), features.new_zeros(classes))
    weight = begin.weight.clone().requires_grad_()
    bias = begin.bias.clone().requires_grad_()
    steps = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        steps.zero_grad()
        fitted = F.cross_entropy(features @ weight.T + bias, labels)
        value = fitted + 0.5 * strength * weight.pow(2).sum()
        value.backward()
        return value

    steps.step(loss)
    return Probe(weight.detach(), bias.detach())


def probe(train: Tensor, labels: Tensor, val: Tensor) -> Tensor:
    """Return the class (M,) that a probe of ``train`` (N, width) finds in each of ``val``.

    Features are standardised by those of ``train``. The strength of the penalty is the one that
    serves best on every ``EVERY``-th photograph of ``train``, fitted on the others.
    """
    mean, std = train.mean(0), train.std(0)
    std[std == 0] = 1  # else relative, however small they are
    train, val = (train - mean) / std, (val - mean) / std
    classes = int(labels.max()) + 1
    apart = torch.arange(len(train)) % EVERY == EVERY - 1
    right, start = [], None
    for strength in STRENGTHS:
        start = fit(train[~apart], labels[~apart], classes, strength, start)
        found = start.logits(train[apart]).argmax(1)
        right.append(float((found == labels[apart]).float().mean()))
    best = STRENGTHS[int(np.argmax(right))]  # of equals the strongest
    return fit(train, labels, classes, best, None).logits(val).argmax(1)


# --- the table --------------------------------------------------------------------------------


def try_encoders(
    train: Sequence[Shown], val: Sequence[Shown], work: Path, candidates=CANDIDATES
) -> pd.DataFrame:
    """Judge encoders by probes: encoder, layer, source, share, low, high, n.

    One probe tells the classes of all sets apart; it is judged on each set's own photographs.
    Those of ``train`` without a class are left out. Every encoder is loaded before the first is
    asked for features: ``MissingParts`` for one that is not there, ``ValueError`` for a class of
    ``val`` that ``train`` lacks.
    """
    train = [one for one in train if one.name]
    names = sorted({one.name for one in train})
    if lacking := sorted({one.name for one in val} - set(names)):
        raise ValueError(f"no photographs to train show {', '.join(lacking)}, which val has")
    labels = torch.tensor([names.index(one.name) for one in train])
    tables = []
    every = [(one, one.load()) for one in candidates]
    for candidate, found in every:
        count = len(candidate.layers)
        features = [pooled(found, shown, count, work) for shown in (train, val)]
        for place, layer in enumerate(candidate.layers):
            said = probe(features[0][:, place], labels, features[1][:, place])
            table = _by_set(val, [names[int(index)] for index in said])
            tables.append(table.assign(encoder=candidate.name, layer=layer))
    found = pd.concat(tables, ignore_index=True)
    return found[["encoder", "layer", "source", "share", "low", "high", "n"]]


def _by_set(val: Sequence[Shown], said: Sequence[str]) -> pd.DataFrame:
    """Sum up by set how often what was said is the class."""
    right = [word == one.name for word, one in zip(said, val, strict=True)]
    table = pd.DataFrame({"source": [one.source for one in val], "right": right})
    return shares(table.sort_values("source", kind="stable"), ["source"], "right").round(4)
