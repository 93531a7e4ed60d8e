"""The objective: codes of patches that are hidden in blocks, and of those in sight."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from mmn_utils.miniature.vision.encoder import build_encoder, embed, layers, localise


class MaskedImageModel(nn.Module):
    """An encoder with a mask token and a linear head over codes."""

    def __init__(self, config: dict, codes: int) -> None:
        super().__init__()
        self.encoder = build_encoder(config)
        localise(self.encoder)
        self.mask_token = nn.Parameter(torch.randn(1, 1, self.encoder.embed_dim) * 0.02)
        self.new_head(codes)

    def new_head(self, codes: int) -> list[nn.Parameter]:
        """Start a fresh head for the codes of a stage; return its parameters."""
        self.norm = nn.LayerNorm(self.encoder.embed_dim)  # the head's own; features stay without
        self.head = nn.Linear(self.encoder.embed_dim, codes)
        return [*self.norm.parameters(), *self.head.parameters()]

    def read(self, pixels: Tensor, masked: Tensor) -> Tensor:
        """Return what the encoder makes of each patch, (B, P, D), hidden or in sight."""
        x = embed(self.encoder, pixels, masked, self.mask_token)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.bfloat16)  # a narrow residual stream: memory is what limits speed
        *_, out = layers(self.encoder, x)
        return out[:, 1:]

    def forward(self, pixels: Tensor, masked: Tensor, codes: Tensor, visible: float) -> Tensor:
        """Return the loss at masked patches, plus ``visible`` times that at as many others.

        Shapes: pixels (B, 3, H, W), masked (B, P) bool with equal counts, codes (B, P).
        """
        patches = self.norm(self.read(pixels, masked))
        loss = F.cross_entropy(self.head(patches[masked]).float(), codes[masked])
        if visible:
            seen = ~masked
            loss = loss + visible * F.cross_entropy(self.head(patches[seen]).float(), codes[seen])
        return loss


def block_mask(rng: np.random.Generator, side: int, count: int) -> np.ndarray:
    """Return a mask (side * side,) with exactly ``count`` patches hidden, in blocks."""
    mask = np.zeros((side, side), dtype=bool)
    while (missing := count - mask.sum()) > 0:
        area, aspect = rng.uniform(4, max(5, min(missing, 40))), np.exp(rng.uniform(-1, 1))
        rows = int(np.clip(round(np.sqrt(area * aspect)), 1, side))
        columns = int(np.clip(round(np.sqrt(area / aspect)), 1, side))
        top, left = rng.integers(side - rows + 1), rng.integers(side - columns + 1)
        mask[top : top + rows, left : left + columns] = True
    hidden = np.flatnonzero(mask)
    mask.reshape(-1)[rng.permutation(hidden)[count:]] = False
    return mask.reshape(-1)


def cut_windows(
    rng: np.random.Generator, images: np.ndarray, codes: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut of each picture (B, H, W, 3), and of its codes (B, P), ``side`` x ``side`` patches.

    Returns (B, h, w, 3) and (B, side * side); where a window falls is drawn.
    """
    grid = codes.reshape(len(codes), round(codes.shape[1] ** 0.5), -1)
    patch = images.shape[1] // grid.shape[1]
    pixels = sliding_window_view(images, (side * patch, side * patch), axis=(1, 2))
    patches = sliding_window_view(grid, (side, side), axis=(1, 2))
    tops, lefts = rng.integers(patches.shape[1], size=(2, len(images)))
    each = np.arange(len(images))
    cut = pixels[each, tops * patch, lefts * patch]  # (B, 3, h, w): the window comes last
    return cut.transpose(0, 2, 3, 1), patches[each, tops, lefts].reshape(len(codes), -1)
