"""What the layers below edited ones make of a draft: the same whatever the edits write.

Edits tend to lie in the upper layers, and many are tried on the same photographs. A pass over a
draft leaves here what the layers made of it up to the lowest that an edit changes, and later
passes over it begin at the highest layer of these that is not above their own edit's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmn_utils.models.upper import kept_below

ROOM = 512 * 2**20  # bytes that are kept of all drafts; others are read from the start each time


@dataclass(frozen=True, eq=False)
class Lower:
    """One draft: the ``streams`` {layer: (T, d)} that some layers read.

    ``past`` are keys and values (2, heads, T, width) of each layer below the highest of them.
    """

    streams: Mapping[int, Tensor] = field(default_factory=dict)
    past: tuple[Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        """Count what both take."""
        return sum(part.nbytes for part in (*self.streams.values(), *self.past))


@dataclass
class Below:
    """What is known of drafts, by their row, of ``layers`` that edits were lowest in."""

    room: int = ROOM
    layers: set[int] = field(default_factory=set)
    held: dict[int, Lower] = field(default_factory=dict)

    def ask(self, lowest: Iterable[int], slack: int) -> None:
        """Ask for passes that begin at some layers, 0 for the start; others are not to be kept.

        And for one a little below all of them (``slack``): so larger edits, too, find what
        smaller ones have left.
        """
        some = {layer for layer in lowest if layer > 0}
        if some:
            self.layers |= some | {max(1, min(some) - slack)}

    def begin(self, rows: Sequence[int], lowest: Sequence[int]) -> int:
        """Return the highest layer at which a pass over some rows may begin; 0 for the start."""
        known = set.intersection(*(set(self.held.get(row, Lower()).streams) for row in rows))
        return max((layer for layer in known if layer <= min(lowest)), default=0)

    def to_keep(self, begin: int, lowest: Sequence[int]) -> list[int]:
        """List the layers whose streams a pass that begins at one should leave here."""
        return sorted(layer for layer in self.layers if begin < layer <= max(lowest))

    def keep(
        self,
        rows: Sequence[int],
        lengths: Sequence[int],
        lowest: Sequence[int],
        streams: Mapping[int, Tensor],
        past,
    ) -> None:
        """Keep what a pass over drafts made of them, as long as there is room.

        ``lengths`` in tokens of each row, ``lowest`` the layers of its edit, ``streams`` {layer:
        (B, T, d)} that layers read, and the cache, of which what is known already is not needed.
        """
        pairs = kept_below(past, max(streams, default=0))
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            new = {layer: stream for layer, stream in streams.items() if layer <= lowest[i]}
            if pairs is None or not new:
                continue
            old = self.held.get(row, Lower())
            more = {layer: stream[i, :length].clone() for layer, stream in new.items()}
            tokens = [
                torch.stack([part[i, :, :length] for part in pair])
                for pair in pairs[len(old.past) : max(new)]
            ]
            lower = Lower({**old.streams, **more}, (*old.past, *tokens))
            if lower.nbytes - old.nbytes <= self.room:
                self.room -= lower.nbytes - old.nbytes
                self.held[row] = lower

    def streams(self, rows: Sequence[int], layer: int, tokens: int) -> Tensor:
        """Lay out what a layer reads of drafts, zero behind their end: (B, tokens, d)."""
        return torch.stack([_long(self.held[row].streams[layer], tokens) for row in rows])

    def pairs(self, rows: Sequence[int], layer: int, tokens: int) -> list[tuple[Tensor, Tensor]]:
        """Lay keys and values of the layers below one out likewise: (B, heads, tokens, width)."""
        found = []
        for i in range(layer):
            whole = torch.stack([_long(self.held[row].past[i], tokens) for row in rows], dim=1)
            found.append((whole[0], whole[1]))
        return found


def _long(tensor: Tensor, tokens: int) -> Tensor:
    """Pad the last dimension but one with zeros."""
    return torch.nn.functional.pad(tensor, (0, 0, 0, tokens - tensor.shape[-2]))
