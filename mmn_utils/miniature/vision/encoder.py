"""The encoder itself: a small BEiT, its files, and the features that it makes of pictures.

The class and its parameters are timm's; the forward here, which the tests compare with
timm's own, is faster in training and also takes windows of a picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models.beit import Beit
from torch import Tensor, nn

from mmn_utils.training.loop import fast_autocast, side_by_side

CONFIG = {
    "img_size": 112,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
    "init_values": None,  # no layer scale: it slows the start of so short a training
    "use_abs_pos_emb": False,
    "use_shared_rel_pos_bias": True,
    "num_classes": 0,
    "global_pool": "token",
}
PIXEL_MEAN = PIXEL_STD = 0.5


def build_encoder(config: dict | None = None) -> Beit:
    """Return timm's BEiT of a configuration, freshly initialised."""
    return Beit(**(config or CONFIG))


def load_encoder(weights: Path, config: Path | None = None) -> Beit:
    """Load an encoder saved by ``save_encoder``, in float32, ready to be used."""
    facts = json.loads((config or weights.parent / "vision.json").read_text(encoding="utf-8"))
    model = build_encoder(facts["architecture"])
    model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    return model.eval()


def save_encoder(model: Beit, weights: Path) -> None:
    """Save an encoder in half precision, and its configuration beside it."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to(torch.float16).contiguous() for k, v in model.state_dict().items()}
    save_file(state, weights, metadata={"format": "pt"})
    facts = {"architecture": CONFIG, "mean": [PIXEL_MEAN] * 3, "std": [PIXEL_STD] * 3}
    (weights.parent / "vision.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


def to_input(images: np.ndarray) -> Tensor:
    """Turn pictures (B, H, W, 3) uint8 into the encoder's input (B, 3, H, W)."""
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()
    return (pixels / 255 - PIXEL_MEAN) / PIXEL_STD


# --- forward ----------------------------------------------------------------------------


def localise(model: Beit, slope: float = 0.5, reach: float = 1.0) -> None:
    """Let each head prefer patches near a point above, below, left or right of its own.

    Masked patches all look alike and there are no absolute positions, so a local
    and directed start is what lets the first layers tell one from another.
    """
    rows, columns = model.patch_embed.grid_size
    dy, dx = np.mgrid[-(rows - 1) : rows, -(columns - 1) : columns]
    centres = [(-reach, 0), (reach, 0), (0, -reach), (0, reach)]
    table = model.rel_pos_bias.relative_position_bias_table
    with torch.no_grad():
        for head in range(table.shape[1]):
            y, x = centres[head % len(centres)]
            distance = np.hypot(dy - y, dx - x).reshape(-1)
            table[: distance.size, head] = torch.from_numpy(-slope * distance).float()


def _attend(attention: nn.Module, x: Tensor, bias: Tensor) -> Tensor:
    """Return one attention layer's output (B, N, D), as timm computes it."""
    batch, tokens, width = x.shape
    qkv_bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    qkv = F.linear(x, attention.qkv.weight, qkv_bias)
    q, k, v = qkv.view(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    # Spelt out: the fused kernel has no fast backward pass where the bias is learned.
    scores = torch.matmul(q * attention.scale, k.transpose(-2, -1)).add_(bias.to(q.dtype))
    mixed = scores.softmax(-1).to(v.dtype) @ v
    return attention.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


def embed(model: Beit, pixels: Tensor, masked: Tensor | None, mask_token: Tensor | None) -> Tensor:
    """Return CLS and patch embeddings (B, 1 + P, D); ``masked`` (B, P) patches are hidden.

    The pictures may be smaller than the model's, see ``position_bias``.
    """
    patches = model.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
    if masked is not None:
        patches = torch.where(masked[..., None], mask_token.to(patches.dtype), patches)
    cls = model.cls_token.expand(len(pixels), -1, -1).to(patches.dtype)
    return torch.cat((cls, patches), 1)


def position_bias(model: Beit, patches: int) -> Tensor:
    """Return what attention adds for CLS and a square of patches, (heads, 1 + P, 1 + P).

    It depends on how far two patches lie apart, so a window of a picture has it as well.
    """
    bias = model.rel_pos_bias()
    rows, columns = model.patch_embed.grid_size
    if patches == rows * columns:
        return bias
    side = round(patches**0.5)
    corner = torch.arange(rows * columns).view(rows, columns)[:side, :side].flatten()
    kept = torch.cat((torch.zeros(1, dtype=torch.long), 1 + corner))
    return bias[:, kept[:, None], kept]


def layers(model: Beit, x: Tensor, depth: int | None = None) -> Iterator[Tensor]:
    """Yield the output (B, 1 + P, D) of each of the first ``depth`` blocks."""
    bias = position_bias(model, x.shape[1] - 1)[None]
    for block in model.blocks[:depth]:
        x = x + _attend(block.attn, block.norm1(x), bias)
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
        yield x


@torch.no_grad()
def features(model: Beit, images: Tensor, depth: int | None = None) -> Tensor:
    """Return patch features (B, P, D): the last block's output, no CLS, no norm."""
    *_, out = layers(model, embed(model, images, None, None), depth)
    return out[:, 1:]


def encode_images(
    model: Beit, images: np.ndarray, depth: int | None = None, batch: int = 64
) -> Iterator[Tensor]:
    """Yield features (B, P, D) of pictures (N, H, W, 3), batch after batch, in float32."""

    def encoded(start: int) -> Tensor:
        with fast_autocast():
            return features(model, to_input(images[start : start + batch]), depth).float()

    starts = range(0, len(images), batch)
    with side_by_side() as pool:  # two batches at a time: no more of them are held
        for first in range(0, len(starts), 2):
            yield from pool.map(encoded, starts[first : first + 2])
