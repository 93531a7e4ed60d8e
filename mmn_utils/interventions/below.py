"""What the layers below the lowest edited one make of a draft: the same for all its edits.

Edits tend to lie in the upper layers, and many are tried on the same photographs. The first
pass over a draft leaves here what the lower layers made of it, and later ones begin there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmn_utils.models.upper import kept_below

ROOM = 512 * 2**20  # bytes that are kept of all drafts; others are read from the start each time


@dataclass(frozen=True, eq=False)
class Lower:
    """One draft: the stream (T, d) that ``layer`` reads, keys and values below it.

    ``past`` (layer, 2, heads, T, width).
    """

    stream: Tensor
    past: Tensor

    @property
    def nbytes(self) -> int:
        """Count what both take."""
        return self.stream.nbytes + self.past.nbytes


@dataclass
class Below:
    """What is known of drafts, by their row, all up to the same layer."""

    room: int = ROOM
    layer: int = 0
    held: dict[int, Lower] = field(default_factory=dict)

    def ask(self, layer: int, fresh: int) -> int:
        """Ask for passes that begin at ``layer`` or below it; returns where they do.

        ``fresh``, a little lower, where what is held begins above: so larger edits, too, find
        what smaller ones have left.
        """
        if not 0 < self.layer <= layer:
            self.layer = fresh
            self.room += sum(lower.nbytes for lower in self.held.values())
            self.held.clear()
        return self.layer

    def knows(self, rows: Sequence[int]) -> bool:
        """Say whether all these drafts are known."""
        return all(row in self.held for row in rows)

    def keep(self, rows: Sequence[int], lengths: Sequence[int], stream: Tensor, past) -> None:
        """Keep what a pass over drafts from the start made of them, as long as there is room.

        ``stream`` (B, T, d) that the layer read, and the cache, each row so many tokens long.
        """
        pairs = kept_below(past, self.layer)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            if pairs is None or row in self.held:
                continue
            tokens = [torch.stack([part[i, :, :length] for part in pair]) for pair in pairs]
            lower = Lower(stream[i, :length].clone(), torch.stack(tokens))
            if lower.nbytes <= self.room:
                self.held[row] = lower
                self.room -= lower.nbytes

    def streams(self, rows: Sequence[int], tokens: int) -> Tensor:
        """Lay the streams of known drafts out, zero behind their end: (B, tokens, d)."""
        return torch.stack([_long(self.held[row].stream, tokens) for row in rows])

    def pairs(self, rows: Sequence[int], tokens: int) -> list[tuple[Tensor, Tensor]]:
        """Lay keys and values out likewise, of each layer: (B, heads, tokens, width) both."""
        whole = torch.stack([_long(self.held[row].past, tokens) for row in rows], dim=2)
        return [(keys, values) for keys, values in whole]


def _long(tensor: Tensor, tokens: int) -> Tensor:
    """Pad the last dimension but one with zeros."""
    return torch.nn.functional.pad(tensor, (0, 0, 0, tokens - tensor.shape[-2]))
