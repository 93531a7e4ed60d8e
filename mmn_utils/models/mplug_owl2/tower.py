"""The vision tower: ViT-L/14 on 448 pixels, norms before and behind the layers, CLS kept.

Query, key and value come from one matrix, interleaved per head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmn_utils.models.mplug_owl2.config import VisionConfig
from mmn_utils.models.mplug_owl2.pieces import learned_vectors, merge_heads, named_layers


class VisionModel(nn.Module):
    """Pixels (B, 3, H, W) to CLS and patches (B, 1 + patches, d), normalised again."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = named_layers(VisionLayer(config) for _ in range(config.num_hidden_layers))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels."""
        tokens = self.embeddings(pixels)
        for layer in self.encoder["layers"]:
            tokens = layer(tokens)
        return self.post_layernorm(tokens)


class VisionEmbeddings(nn.Module):
    """Pixels (B, 3, H, W) to CLS and patches (B, 1 + patches, d), normalised."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.cls_token = learned_vectors(1, width)
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = learned_vectors(1 + config.side**2, width)
        self.pre_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed pixels."""
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1)
        return self.pre_layernorm(tokens + self.position_embedding)


class VisionLayer(nn.Module):
    """Attention, then MLP, each behind a norm and beside a residual."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMlp(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens (B, T, d)."""
        tokens = tokens + self.self_attn(self.input_layernorm(tokens))
        return tokens + self.mlp(self.post_attention_layernorm(tokens))


class VisionAttention(nn.Module):
    """Attention of every token to every token; one matrix makes query, key and value.

    Its rows are interleaved per head: the first head's query, key, value, then the next's.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens (B, T, d)."""
        mixed = self.query_key_value(tokens).unflatten(-1, (self.heads, 3, -1))
        query, key, value = mixed.permute(3, 0, 2, 1, 4)
        return self.dense(merge_heads(F.scaled_dot_product_attention(query, key, value)))


class VisionMlp(nn.Module):
    """Two matrices around x · sigmoid(1.702 x)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform each token (B, T, d) by itself."""
        hidden = self.fc1(tokens)
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden))
