"""Gaussian noise on write vectors (paper B, section 3.5)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch

from mmn_utils.interventions.drafts import Drafts, captions_now
from mmn_utils.interventions.edit import Edit
from mmn_utils.interventions.weights import WeightReceipt, adding, entry_size, fingerprint
from mmn_utils.neurons.decoding import write_vectors
from mmn_utils.neurons.table import RANDOM, TOP, Neuron, random_like
from mmn_utils.neurons.targets import Target
from mmn_utils.neurons.text import says

PAPER_SIGMA = 0.5
CONDITIONS = (TOP, RANDOM)


def noise(
    model, neurons: Sequence[Neuron], sigma: float, seed: int, relative: bool = False
) -> torch.Tensor:
    """Draw Gaussian noise for write vectors: (n, d) float32, the i-th row the i-th neuron's.

    The draw depends on the seed and the shape alone, so that as many other neurons get the
    same noise. ``sigma`` is the standard deviation of each entry; with ``relative``, in
    units of the root mean square of the vector's own entries.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma={sigma}: give a positive number")
    generator = torch.Generator().manual_seed(seed)
    drawn = sigma * torch.randn(len(neurons), model.sizes.width, generator=generator)
    return drawn * entry_size(model, neurons)[:, None] if relative else drawn


@contextmanager
def perturb(
    model,
    neurons: Sequence[Neuron],
    sigma: float = PAPER_SIGMA,
    seed: int = 0,
    relative: bool = False,
    *,
    prompt=None,
    max_new_tokens: int = 20,
    hash_weights: bool = True,
) -> Iterator[WeightReceipt]:
    """Add Gaussian noise to write vectors while the context lasts (paper B, section 3.5).

    Mean 0, standard deviation ``sigma`` in every entry. The paper's 0.5 belongs to
    LLaVA-13B: in its width of 5120 the noise has a norm near 0.5 sqrt(5120) = 35.8, and
    sqrt(d) sigma in another. What counts is that norm over the write vector's own, which is
    sigma over the root mean square of the vector's entries: the width cancels, the scale of
    the weights does not. To carry the paper's setting over, take ``relative`` with sigma =
    0.5 / ``entry_size`` of the large model's neurons: then each neuron's noise is so many
    times its own write vector, whatever the model. The receipt holds both norms. Errors as
    ``weights.adding``.
    """
    deltas = noise(model, neurons, sigma, seed, relative)
    label = f"noise-{fingerprint(neurons, deltas)}"
    options = {"max_new_tokens": max_new_tokens, "hash_weights": hash_weights}
    with adding(model, neurons, deltas, label, prompt=prompt, **options) as receipt:
        yield receipt


def perturbation_table(
    model,
    drafts: Drafts,
    targets: Sequence[Target],
    neurons: Sequence[Sequence[Neuron]],
    *,
    sigma: float = PAPER_SIGMA,
    seed: int = 0,
    relative: bool = False,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Perturb each target's neurons, and as many random ones of the same layers (Table 5).

    ``targets[i]``, a word of one of the drafts' captions, and ``neurons[i]`` belong together.
    Both conditions get the same noise; draws depend on seed, image and noun alone. Each is put
    in for its own row of a batch (``drafts.captions_now``). Two rows per target: image,
    target, condition, neurons, ``norm`` of the noise in the mean of the neurons, ``relative``
    the same over the write vectors' norms, captions before and after, ``changed``, and
    ``kept``: the noun is still said. ``ValueError`` for lists of different lengths,
    ``KeyError`` for an image without a draft.
    """
    if len(targets) != len(neurons):
        raise ValueError(f"{len(targets)} targets, {len(neurons)} lists of neurons: give one each")
    before = dict(zip(drafts.images, drafts.captions, strict=True))
    owners, noises = [], []
    for target, chosen in zip(targets, neurons, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(f"{target.image} {target.noun}".encode())])
        noise_seed = int(rng.integers(2**31))
        control = random_like(chosen, model.sizes.units, rng)
        owners += [(target, condition) for condition in CONDITIONS]
        noises += [_noise_on(model, some, sigma, noise_seed, relative)
                   for some in (chosen, control)]  # fmt: skip
    images = [target.image for target, _ in owners]
    after, _ = captions_now(model, drafts, images, batch_size=batch_size, edits=noises)
    rows = zip(owners, noises, _relative(model, noises), after, strict=True)
    return pd.DataFrame([_row(*owner, before, *rest) for owner, *rest in rows])


def _noise_on(model, neurons: Sequence[Neuron], sigma: float, seed: int, relative: bool) -> Edit:
    """Put the noise of ``perturb`` into an edit of no concept."""
    deltas = noise(model, neurons, sigma, seed, relative)
    about = {"method": "noise", "sigma": sigma, "seed": seed, "relative": relative}
    nothing = (math.nan,) * len(neurons)
    return Edit(tuple(neurons), deltas, nothing, (), about, model.name, model.revision, model.sizes)


def _relative(model, noises: Sequence[Edit]) -> list[float]:
    """Return the length of each noise over that of its write vector, in the mean of neurons."""
    every = [neuron for one in noises for neuron in one.neurons]
    lengths = write_vectors(model, every).float().norm(dim=1).cpu()
    parts = lengths.split([len(one.neurons) for one in noises])
    return [float((one.norms / part).mean()) for one, part in zip(noises, parts, strict=True)]


def _row(target: Target, condition: str, before, noises: Edit, relative: float, after) -> dict:
    said = before[target.image]
    return {
        "image": target.image,
        "target": target.noun,
        "condition": condition,
        "neurons": " ".join(map(str, noises.neurons)),
        "norm": float(noises.norms.mean()),
        "relative": relative,
        "before": said.text,
        "after": after.text,
        "changed": after.ids != said.ids,
        "kept": says(after.text, target.noun),
    }
