"""Small pieces that all parts of the network are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Cut (B, T, d) into heads: (B, heads, T, d / heads)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """Join heads (B, heads, T, size) to (B, T, d)."""
    return heads.transpose(1, 2).flatten(2)


def learned_vectors(count: int, width: int) -> nn.Parameter:
    """Make learned vectors (1, count, width)."""
    return nn.Parameter(0.02 * torch.randn(1, count, width))


def named_layers(layers) -> nn.ModuleDict:
    """Wrap layers in a container that only gives them their published names."""
    return nn.ModuleDict({"layers": nn.ModuleList(layers)})
