"""From embeddings back to token ids, for models that look more than an embedding up by them.

Gemma 4 adds to every layer something of its own for each token. A prompt of this project holds
embeddings only, so ids are found by comparing rows bit for bit; what is no row of the
embeddings' table, a piece of the picture, counts as padding, as in the model's own forward.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_AT_ONCE = 1 << 14  # rows of the table that are hashed together


class TokenIds:
    """Rows of an embedding module by their bits."""

    def __init__(self, embeddings: nn.Module, padding: int) -> None:
        self.embeddings, self.padding = embeddings, padding
        self.made_of = _place(embeddings)
        ids = torch.arange(len(embeddings.weight), device=embeddings.weight.device)
        keys = torch.cat([self._keys(embeddings(some)) for some in ids.split(_AT_ONCE)])
        self.keys, self.order = keys.sort(stable=True)

    @torch.no_grad()
    def __call__(self, embeds: Tensor) -> Tensor:
        """Find the ids (B, T) of embeddings (B, T, d); ``ValueError`` for a row of two tokens."""
        keys = self._keys(embeds)
        first, end = (torch.searchsorted(self.keys, keys, right=right) for right in (False, True))
        ids = self.order[first.clamp(max=len(self.keys) - 1)]
        known = (end > first) & (self.embeddings(ids) == embeds).all(-1)
        twice = known & (end > first + 1)
        if twice.any():
            raise ValueError(
                f"token {int(ids[twice][0])} has the embedding of another token, so what each "
                "layer adds for it is not settled; use other words"
            )
        return torch.where(known, ids, self.padding)

    def fits(self, embeddings: nn.Module) -> bool:
        """Say whether the table was made of these very embeddings."""
        return embeddings is self.embeddings and _place(embeddings) == self.made_of

    def _keys(self, rows: Tensor) -> Tensor:
        """Hash the bits of rows (..., d) to 64 each."""
        whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()]
        generator = torch.Generator().manual_seed(0)
        factors = torch.randint(2**62, (rows.shape[-1],), generator=generator) | 1
        return (rows.contiguous().view(whole).long() * factors.to(rows.device)).sum(-1)


def _place(embeddings: nn.Module) -> tuple:
    """Tell weights from others, and from themselves in another type or elsewhere."""
    weight = embeddings.weight
    return weight.dtype, weight.device, weight.data_ptr()
