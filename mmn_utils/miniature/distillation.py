"""Teach the tiny CLIP's tower to see before it meets a text: the encoder's features.

CLIP learns what things look like from hundreds of millions of pairs. From the few pairs
that there are here a tower learns hardly more than backgrounds, and whatever reads its
patches stays blind. So, as EVA-CLIP's, it begins from self-supervised learning: it
guesses what the miniature's encoder, which saw pictures alone, makes of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel

from mmn_utils.miniature.vision.encoder import to_input
from mmn_utils.training.features import FeatureStore
from mmn_utils.training.loop import Schedule, fast_autocast, train

#: layers of the tower that are taught: LLaVA reads the last but one, mPLUG-Owl2 the last.
TAUGHT = (-2, -1)
SEEING = Schedule(
    steps=3500, rate=1.5e-3, warmup=100, final=0.02, weight_decay=0.05, save_every=200
)


@dataclass(frozen=True)
class DistillationOptions:
    """Training."""

    batch: int = 32
    schedule: Schedule = SEEING
    seed: int = 0


def gathered(features: Tensor, side: int) -> Tensor:
    """Join the features (B, P, D) of the patches that lie in each of ``side`` x ``side`` squares.

    Returns (B, side * side, r * r * D), where P = (r * side) ** 2. Raises ValueError for
    other numbers of patches.
    """
    batch, patches, width = features.shape
    reach = round(patches**0.5) // side
    if (reach * side) ** 2 != patches:
        raise ValueError(f"{patches} patches do not fill {side} x {side} squares evenly")
    grid = features.view(batch, side, reach, side, reach, width)
    return grid.transpose(2, 3).reshape(batch, side * side, -1)


class Distillation(nn.Module):
    """A tower, and a linear head on each layer that is taught."""

    def __init__(self, tower: CLIPVisionModel, width: int) -> None:
        super().__init__()
        config = tower.config
        self.tower, self.side = tower, config.image_size // config.patch_size
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, width))
            for _ in TAUGHT
        )

    def forward(self, pixels: Tensor, features: Tensor) -> Tensor:
        """Return the mean squared error; pixels (B, 3, H, W), features (B, P, D), standardised."""
        with fast_autocast():
            states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        return self.error(states, features)

    def error(self, states: Sequence[Tensor], features: Tensor) -> Tensor:
        """Return the same from the tower's hidden states, each (B, 1 + squares, d)."""
        with fast_autocast():
            guessed = [head(states[i][:, 1:]) for i, head in zip(TAUGHT, self.heads, strict=True)]
        truth = gathered(features, self.side)
        return torch.stack([F.mse_loss(guess.float(), truth) for guess in guessed]).mean()


def distil(
    tower: CLIPVisionModel,
    store: FeatureStore,
    images: np.ndarray,
    options: DistillationOptions,
    work: Path,
) -> Distillation:
    """Teach a tower in place, from its values or from the last checkpoint in ``work``.

    Returns it with the heads that read its layers.
    """
    patches, width = store.values.shape[1:]
    config = tower.config
    squares = (config.image_size // config.patch_size) ** 2
    torch.manual_seed(options.seed)
    model = Distillation(tower, patches * width // squares)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([options.seed, 6, step])
        rows = np.sort(rng.choice(len(images), options.batch, replace=False))
        return model(to_input(images[rows]), store.batch(rows))

    train(
        "clip_seeing",
        list(model.parameters()),
        loss_at,
        options.schedule,
        work,
        options.batch,
        state=model,
    )
    return model
