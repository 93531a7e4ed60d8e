"""The decoder's layers: LLaMA-2's, in which norms, keys and values go by modality.

They have one set of weights for text tokens and another for image tokens. Each token goes
through its own set alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    repeat_kv,
)

from mmn_utils.models.mplug_owl2.config import MplugOwl2Config
from mmn_utils.models.mplug_owl2.pieces import merge_heads, split_heads

TEXT, IMAGE = 0, 1  # places in a MultiwayNetwork


@dataclass(frozen=True)
class Split:
    """Which tokens of (B, T) are text and which image: row numbers, and their way back."""

    rows: tuple[Tensor, Tensor]  # text, image: indices into B · T
    back: Tensor  # (B · T): where in text-then-image each token is

    @classmethod
    def of(cls, image: Tensor) -> Split | None:
        """Split by a bool mask (B, T); None where all tokens are text."""
        if not image.any():
            return None
        image = image.flatten()
        rows = ((~image).nonzero().flatten(), image.nonzero().flatten())
        return cls(rows, torch.cat(rows).argsort())


class MultiwayNetwork(nn.Module):
    """The same kind of module once for text and once for image tokens."""

    def __init__(self, text: nn.Module, image: nn.Module) -> None:
        super().__init__()
        self.multiway = nn.ModuleList([text, image])

    def forward(self, hidden: Tensor, split: Split | None) -> Tensor:
        """Send each token of (B, T, d) through its own module, and through no other.

        A split of one row holds for all.
        """
        if split is None:
            return self.multiway[TEXT](hidden)
        pairs = zip(self.multiway, split.rows, strict=True)
        if len(split.back) == hidden.shape[1]:
            along = [module(hidden.index_select(1, places)) for module, places in pairs]
            return torch.cat(along, dim=1).index_select(1, split.back)
        flat = hidden.flatten(0, 1)
        parts = [module(flat.index_select(0, rows)) for module, rows in pairs]
        return torch.cat(parts).index_select(0, split.back).unflatten(0, hidden.shape[:2])


class AdaptiveLayer(nn.Module):
    """A layer of LLaMA whose norms, keys and values go by modality; the MLP is shared."""

    def __init__(self, config: MplugOwl2Config, layer: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = AdaptiveAttention(config, layer)
        self.mlp = LlamaMLP(
            LlamaConfig(hidden_size=width, intermediate_size=config.intermediate_size)
        )
        self.input_layernorm = MultiwayNetwork(*(LlamaRMSNorm(width, eps) for _ in range(2)))
        self.post_attention_layernorm = MultiwayNetwork(
            *(LlamaRMSNorm(width, eps) for _ in range(2))
        )

    def forward(self, hidden: Tensor, split: Split | None, *context) -> Tensor:
        """Transform tokens (B, T, d); ``context`` is the attention's."""
        normed = self.input_layernorm(hidden, split)
        hidden = hidden + self.self_attn(normed, split, *context)
        return hidden + self.mlp(self.post_attention_layernorm(hidden, split))


class AdaptiveAttention(nn.Module):
    """Causal attention with rotary embeddings; keys and values by modality."""

    def __init__(self, config: MplugOwl2Config, layer: int) -> None:
        super().__init__()
        width, some = config.hidden_size, config.num_key_value_heads * config.head_size
        self.layer, self.head_size = layer, config.head_size
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = MultiwayNetwork(*(nn.Linear(width, some, bias=False) for _ in range(2)))
        self.v_proj = MultiwayNetwork(*(nn.Linear(width, some, bias=False) for _ in range(2)))
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self,
        hidden: Tensor,
        split: Split | None,
        rotary: tuple[Tensor, Tensor],
        visible: Tensor | None,
        past: DynamicCache | None,
    ) -> Tensor:
        """Mix tokens (B, T, d); ``visible`` as from ``visible_keys``, the cache grows in place."""
        parts = (self.q_proj(hidden), self.k_proj(hidden, split), self.v_proj(hidden, split))
        query, key, value = (split_heads(x, x.shape[-1] // self.head_size) for x in parts)
        query, key = apply_rotary_pos_emb(query, key, *rotary)
        if past is not None:
            key, value = past.update(key, value, self.layer)
        mixed = F.scaled_dot_product_attention(
            query,
            repeat_kv(key, self.groups),
            repeat_kv(value, self.groups),
            attn_mask=visible,
            is_causal=visible is None and query.shape[2] > 1,
        )
        return self.o_proj(merge_heads(mixed))


# --- what attention is told -------------------------------------------------------------


def rotary_embedding(
    positions: Tensor, config: MplugOwl2Config, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines (B, T, head size) of LLaMA's rotary embedding, in float32."""
    size = config.head_size
    steps = torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size
    angles = positions[..., None].float() * (1.0 / config.rope_theta**steps)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def visible_keys(
    mask: Tensor | None, held: int, tokens: int, device: torch.device
) -> Tensor | None:
    """Say which of held + T keys each of T tokens sees: bool, to broadcast to (B, 1, T, S).

    None where plain causality says it all. A token always sees itself, so that padding in
    front has something to attend to.
    """
    if mask is not None and mask.ndim == 4:  # ready: 0 where a token sees a key
        return mask == 0
    whole = mask is None or bool(mask.all())
    if whole and (held == 0 or tokens == 1):
        return None
    keys = torch.arange(held + tokens, device=device)
    own = keys[held:, None]
    if whole:
        return (keys <= own)[None, None]
    return (keys <= own) & (mask.bool()[:, None, None, :] | (keys == own))
