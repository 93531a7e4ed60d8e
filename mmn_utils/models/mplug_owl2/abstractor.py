"""The visual abstractor: learned queries attend to themselves and to all vision tokens.

Fixed sine-cosine embeddings are added to what becomes queries and keys, not to what becomes
values, and the residual is taken from the normalised queries. A learned token ends the
picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmn_utils.models.mplug_owl2.config import AbstractorConfig
from mmn_utils.models.mplug_owl2.pieces import (
    learned_vectors,
    merge_heads,
    named_layers,
    split_heads,
)


class VisualAbstractor(nn.Module):
    """Vision tokens (B, 1 + patches, d) to image tokens (B, queries + 1, language width)."""

    def __init__(self, config: AbstractorConfig, side: int, language_width: int) -> None:
        super().__init__()
        self.side = side
        self.query_embeds = learned_vectors(config.num_learnable_queries, config.hidden_size)
        layers = (CrossBlock(config) for _ in range(config.num_hidden_layers))
        self.encoder = named_layers(nn.ModuleDict({"crossattention": layer}) for layer in layers)
        self.visual_fc = nn.Linear(config.hidden_size, language_width)
        self.vit_eos = learned_vectors(1, language_width)

    def queries(self, vision: Tensor) -> Tensor:
        """Gather what the picture shows into (B, queries, d)."""
        places = self._places(vision)
        queries = self.query_embeds.expand(len(vision), -1, -1)
        for layer in self.encoder["layers"]:
            queries = layer["crossattention"](queries, vision, places)
        return queries

    def project(self, queries: Tensor) -> Tensor:
        """Bring queries into the language model's input space, and end the picture."""
        end = self.vit_eos.expand(len(queries), -1, -1)
        return torch.cat([self.visual_fc(queries), end], dim=1)

    def forward(self, vision: Tensor) -> Tensor:
        """Abstract vision tokens to image tokens."""
        return self.project(self.queries(vision))

    def _places(self, vision: Tensor) -> Tensor:
        """Embed the places of queries, CLS and patches: (queries + 1 + patches, d)."""
        _, count, width = self.query_embeds.shape
        line = line_embedding(count, width, vision.device)
        return torch.cat([line, grid_embedding(self.side, width, vision.device)]).to(vision)


class CrossBlock(nn.Module):
    """One layer: norms, attention, output. Only these two norms have torch's own epsilon."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.attention = CrossAttention(config)
        self.output = CrossOutput(config)
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.normk = nn.LayerNorm(config.hidden_size)

    def forward(self, queries: Tensor, vision: Tensor, places: Tensor) -> Tensor:
        """Let queries (B, n, d) look at themselves and at vision tokens (B, m, d)."""
        queries = self.norm1(queries)
        keys = torch.cat([queries, self.normk(vision)], dim=1)
        return self.output(self.attention(queries, keys, places), queries)


class CrossAttention(nn.Module):
    """Attention of queries (B, n, d) to keys (B, m, d), whose places are added to both."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries: Tensor, keys: Tensor, places: Tensor) -> Tensor:
        """Mix values; ``places`` (m, d), of which the first n are the queries'."""
        query = self.query(queries + places[: queries.shape[1]])
        parts = (query, self.key(keys + places), self.value(keys))
        heads = (split_heads(part, self.heads) for part in parts)
        return merge_heads(F.scaled_dot_product_attention(*heads))


class CrossOutput(nn.Module):
    """What follows the attention: projection and MLP, each beside a residual."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size)
        self.mlp = GatedMlp(config)

    def forward(self, mixed: Tensor, residual: Tensor) -> Tensor:
        """Join mixed values (B, n, d) to the residual (B, n, d)."""
        queries = residual + self.out_proj(mixed)
        return queries + self.mlp(self.norm2(queries))


class GatedMlp(nn.Module):
    """w2(norm(silu(w1 x) · w3 x))."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_ln = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps)

    def forward(self, queries: Tensor) -> Tensor:
        """Transform each query (B, n, d) by itself."""
        return self.w2(self.ffn_ln(F.silu(self.w1(queries)) * self.w3(queries)))


# --- places -----------------------------------------------------------------------------


_WAVELENGTH = 10_000.0  # of the sine-cosine embeddings


def line_embedding(count: int, width: int, device: torch.device | None = None) -> Tensor:
    """Embed places 0, 1, ... of a line: (count, width) float32, sines and then cosines.

    The j-th of width / 2 frequencies is 10000 to the power of -2j / width.
    """
    steps = torch.arange(width // 2, dtype=torch.float32, device=device) / (width / 2)
    places = torch.arange(count, dtype=torch.float32, device=device)
    angles = places[:, None] / _WAVELENGTH**steps
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_embedding(side: int, width: int, device: torch.device | None = None) -> Tensor:
    """Embed CLS, as zeros, and a square of patches: (1 + side², width) float32.

    The first half of the width tells the column, the second the row.
    """
    line = line_embedding(side, width // 2, device)
    columns, rows = line.repeat(side, 1), line.repeat_interleave(side, dim=0)
    return F.pad(torch.cat([columns, rows], dim=-1), (0, 0, 1, 0))
