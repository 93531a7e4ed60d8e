"""What the encoder learns to guess: discrete codes of patches, by k-means.

First of the pixels in a window around each patch, then (as in HuBERT) of what an earlier
encoder makes of the patches around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from torch import Tensor

from mmn_utils.miniature.vision.encoder import encode_images, to_input
from mmn_utils.miniature.vision.recipe import Recipe, Stage


def pixel_codes(recipe: Recipe, stage: Stage, images: np.ndarray) -> Tensor:
    """Return codes (N, P) of the pixels around each patch."""
    rng = np.random.default_rng([recipe.seed, 1])
    patch = recipe.config["patch_size"]
    chosen = np.sort(rng.permutation(len(images))[: max(1, recipe.code_sample // 50)])
    sample = windows(images[chosen], patch).flatten(0, 1)
    sample = sample[torch.from_numpy(rng.permutation(len(sample))[: recipe.code_sample])]
    whiten = fit_whitener(sample, sample.shape[1] * 4 // 9, power=0.5)
    centres = kmeans(whiten(sample), stage.codes, recipe.seed)
    parts = []
    for start in range(0, len(images), 512):
        window = windows(images[start : start + 512], patch)
        parts.append(nearest(whiten(window.flatten(0, 1)), centres).view(window.shape[:2]))
    return torch.cat(parts).to(torch.int16)


def neighbourhood_means(x: Tensor, reach: int) -> Tensor:
    """Return features (B, P, D) averaged over the ``reach`` x ``reach`` patches around each."""
    side = int(x.shape[1] ** 0.5)
    grid = x.transpose(1, 2).unflatten(2, (side, side))
    means = F.avg_pool2d(grid, reach, stride=1, padding=reach // 2, count_include_pad=False)
    return means.flatten(2).transpose(1, 2)


def feature_codes(recipe: Recipe, stage: Stage, model: Beit, images: np.ndarray) -> Tensor:
    """Return codes (N, P) of the encoder's own features around each patch.

    Averaging over neighbours and whitening fully bring the codes closer to
    things than to strokes and colours.
    """
    rng = np.random.default_rng([recipe.seed, 2])
    parts = encode_images(model, images, stage.layer)
    out = torch.cat([neighbourhood_means(x, stage.reach).half() for x in parts])
    flat = out.flatten(0, 1)
    rows = torch.from_numpy(rng.integers(len(flat), size=recipe.code_sample))
    sample = flat[rows].float()
    whiten = fit_whitener(sample, dimensions=sample.shape[1], power=1.0)
    centres = kmeans(whiten(sample), stage.codes, recipe.seed)
    parts = [nearest(whiten(x.float()), centres) for x in flat.split(200_000)]
    return torch.cat(parts).view(out.shape[:2]).to(torch.int16)


# --- pixels -----------------------------------------------------------------------------


def windows(images: np.ndarray, patch: int) -> Tensor:
    """Return the surroundings of each patch, three patches wide, as 6 x 6 means (B, P, 108)."""
    means = F.avg_pool2d(to_input(images), patch // 2)
    padded = F.pad(means, (2, 2, 2, 2), mode="replicate")
    return F.unfold(padded, kernel_size=6, stride=2).transpose(1, 2)


# --- axes and centres -------------------------------------------------------------------


@dataclass(frozen=True)
class Whitener:
    """Principal axes (D, d) about a mean (D,), the spread of each partly evened out."""

    mean: Tensor
    axes: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        return (points - self.mean) @ self.axes


def fit_whitener(points: Tensor, dimensions: int, power: float) -> Whitener:
    """Fit principal axes; ``power`` 0 keeps the spread of each, 1 makes all alike."""
    mean = points.mean(0)
    centred = points - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(points))
    keep = values.argsort(descending=True)[:dimensions]
    return Whitener(mean, vectors[:, keep] * values[keep].clamp(min=1e-6) ** (-power / 2))


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Return the index (N,) of the centre (K, D) nearest to each point (N, D)."""
    half_norms = centres.square().sum(1) / 2
    chunks = [(part @ centres.T - half_norms).argmax(1) for part in points.split(16384)]
    return torch.cat(chunks)


def kmeans(points: Tensor, codes: int, seed: int, rounds: int = 15) -> Tensor:
    """Return ``codes`` centres (K, D) of points (N, D); empty ones are drawn again."""
    generator = torch.Generator().manual_seed(seed)
    centres = points[torch.randperm(len(points), generator=generator)[:codes]].clone()
    for _ in range(rounds):
        owner = nearest(points, centres)
        counts = torch.bincount(owner, minlength=codes)
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero().flatten()
        centres[empty] = points[torch.randint(len(points), (len(empty),), generator=generator)]
    return centres
