"""Image encoders behind one small interface: pixels in, patch features out.

The paper's encoder is BEiT-large after self-supervised training alone. timm has no such
weights (its BEiTs are all fine-tuned), so the real encoder comes through transformers,
while the miniature's is timm's class. Both are ``ImageEncoder``, and agree when given
the same weights (``timm_weights`` translates).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import BeitModel

if TYPE_CHECKING:  # it takes a second, which other systems need not wait
    from timm.models.beit import Beit


class ImageEncoder(nn.Module, ABC):
    """Turns pixels into features, one for each patch, in reading order.

    ``width`` of a feature, ``grid`` (rows, columns) of the patches, ``pixels`` = side of
    the square input. Frozen and in evaluation mode from the start.
    """

    width: int
    grid: tuple[int, int]
    pixels: int

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, H, W) to (B, patches, width): the last block's output, CLS dropped.

        Without the final norm: LiMBeR's projection was trained on the residual stream as
        it is (transformers' BEiT has no final norm of its own in this configuration).
        """

    def train(self, mode: bool = True) -> ImageEncoder:
        """Stay in evaluation mode: the encoder is never trained here."""
        return super().train(False)

    def _check(self, pixels: Tensor) -> Tensor:
        side = self.pixels
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, side, side):
            raise ValueError(f"pixels of {tuple(pixels.shape)}: give (batch, 3, {side}, {side})")
        return pixels


class TimmBeit(ImageEncoder):
    """timm's ``Beit``."""

    def __init__(self, beit: Beit) -> None:
        super().__init__()
        self.beit = beit.requires_grad_(False)
        self.width = beit.embed_dim
        self.grid = tuple(beit.patch_embed.grid_size)
        self.pixels = side_of(beit.patch_embed.img_size)
        if beit.rel_pos_bias is not None:
            beit.rel_pos_bias.register_forward_hook(_with_batch)
        self.eval()

    def features(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, H, W) to (B, patches, width)."""
        return self.beit.forward_intermediates(
            self._check(pixels), indices=1, norm=False, output_fmt="NLC", intermediates_only=True
        )[0]


def _with_batch(_module: nn.Module, _inputs: tuple, bias: Tensor) -> Tensor:
    """Give a shared position bias (heads, N, N) the axis without which attention is slow.

    torch's fused kernel takes masks of two or of four axes; a fifth of the encoder's time.
    """
    return bias[None] if bias.ndim == 3 else bias


class HubBeit(ImageEncoder):
    """transformers' ``BeitModel``."""

    def __init__(self, beit: BeitModel) -> None:
        super().__init__()
        config = beit.config
        self.pixels = side_of(config.image_size)
        self.grid = (self.pixels // side_of(config.patch_size),) * 2
        self.width = config.hidden_size
        self.beit = beit.requires_grad_(False)
        # Already so where the configuration pools by the mean, as the paper's does.
        self.beit.layernorm = nn.Identity()
        self.eval()

    def features(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, H, W) to (B, patches, width)."""
        return self.beit(self._check(pixels)).last_hidden_state[:, 1:]


def side_of(size: int | tuple[int, int] | list[int]) -> int:
    """Return the side of a square given as a number or as a pair."""
    if isinstance(size, int):
        return size
    height, width = size
    if height != width:
        raise ValueError(f"{height} x {width}: only square pictures and patches are supported")
    return height


_TABLE = "relative_position_bias_table"
_RENAMED = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    f"shared_position_bias.{_TABLE}": f"rel_pos_bias.{_TABLE}",
}
_RENAMED_IN_BLOCK = {
    "layernorm_before.weight": "norm1.weight",
    "layernorm_before.bias": "norm1.bias",
    "attention.q_proj.bias": "attn.q_bias",
    "attention.v_proj.bias": "attn.v_bias",
    "attention.o_proj.weight": "attn.proj.weight",
    "attention.o_proj.bias": "attn.proj.bias",
    f"relative_position_bias.{_TABLE}": f"attn.{_TABLE}",
    "layernorm_after.weight": "norm2.weight",
    "layernorm_after.bias": "norm2.bias",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "lambda_1": "gamma_1",
    "lambda_2": "gamma_2",
}
_NOT_OF_THE_FEATURES = ("embeddings.mask_token", "layernorm.", "pooler.")
_QKV = tuple(f"attention.{part}_proj.weight" for part in "qkv")


def timm_weights(hub: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a state dict of transformers' ``BeitModel`` into one of timm's ``Beit``.

    Query, key and value matrices are stacked in this order into ``attn.qkv``; BEiT has no
    key bias. Tables of relative position bias are in the same order in both: offsets in
    rows then columns, and at the end CLS to patch, patch to CLS, CLS to CLS. What the
    features do not use (mask token, final norm, pooler) is left out. ``ValueError`` for
    an unknown key.
    """
    weights: dict[str, Tensor] = {}
    for key, value in hub.items():
        if key.startswith(_NOT_OF_THE_FEATURES):
            continue
        name = _timm_name(key)
        if name is None:
            raise ValueError(f"{key!r} is no weight of BeitModel; give its own state_dict()")
        if not key.endswith(_QKV):
            weights[name] = value
        elif name not in weights:
            stem = key.removesuffix(next(part for part in _QKV if key.endswith(part)))
            weights[name] = torch.cat([hub[stem + part] for part in _QKV])
    return weights


def _timm_name(key: str) -> str | None:
    """Name a weight as timm does, or return None for one it cannot have."""
    if not key.startswith("layers."):
        return _RENAMED.get(key)
    _, index, rest = key.split(".", 2)
    name = "attn.qkv.weight" if rest in _QKV else _RENAMED_IN_BLOCK.get(rest)
    return name and f"blocks.{index}.{name}"
