"""Gaussian noise on write vectors (paper B, section 3.5)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch

from mmn_utils.interventions.weights import WeightReceipt, adding, entry_size, fingerprint
from mmn_utils.neurons.captions import Caption, caption_images, generate
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
    images: Sequence,
    targets: Sequence[Target],
    neurons: Sequence[Sequence[Neuron]],
    *,
    sigma: float = PAPER_SIGMA,
    seed: int = 0,
    relative: bool = False,
    captions: Sequence[Caption] | None = None,
    max_new_tokens: int = 20,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Perturb each target's neurons, and as many random ones of the same layers (Table 5).

    ``images[i]``, ``targets[i]`` and ``neurons[i]`` belong together. Both conditions get the
    same noise; draws depend on seed, image and noun alone. Two rows per target: image,
    target, condition, neurons, ``norm`` of the noise in the mean of the neurons, ``relative``
    the same over the write vectors' norms, captions before and after, ``changed``, and
    ``kept``: the noun is still said. ``captions`` before, if they are known.
    """
    lengths = {len(part) for part in (images, targets, neurons, captions or images)}
    if lengths != {len(targets)}:
        raise ValueError(f"lists of {sorted(lengths)} entries; give one of each for every target")
    if captions is None:
        captions = caption_images(model, images, max_new_tokens, batch_size)
    rows = []
    for image, target, chosen, before in zip(images, targets, neurons, captions, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(f"{target.image} {target.noun}".encode())])
        noise_seed = int(rng.integers(2**31))
        control = random_like(chosen, model.sizes.units, rng)
        prompt = model.prompt([image])
        for condition, some in zip(CONDITIONS, (list(chosen), control), strict=True):
            with perturb(model, some, sigma, noise_seed, relative, hash_weights=False) as receipt:
                after = generate(model, prompt, max_new_tokens)[0]
            rows.append(_row(target, condition, receipt, before, after))
    return pd.DataFrame(rows)


def _row(target: Target, condition: str, receipt: WeightReceipt, before, after) -> dict:
    return {
        "image": target.image,
        "target": target.noun,
        "condition": condition,
        "neurons": " ".join(map(str, receipt.neurons)),
        "norm": float(np.mean(receipt.norms)),
        "relative": float(np.mean(receipt.relative)),
        "before": before.text,
        "after": after.text,
        "changed": after.ids != before.ids,
        "kept": says(after.text, target.noun),
    }
