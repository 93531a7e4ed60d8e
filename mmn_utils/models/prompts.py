"""What the language model is given: embeddings, and where in them the image tokens lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageTokens:
    """Where the image tokens lie in a prompt, and what they look at.

    ``grid`` is (rows, columns) of the patches in reading order, or None where a token has no
    place in the picture; ``pixels`` is the side of the square that the encoder sees. Of the
    ``count``, those ``between`` are no pieces of it, but end a row or part views.
    """

    start: int
    count: int
    grid: tuple[int, int] | None
    pixels: int
    between: frozenset[int] = frozenset()

    @property
    def places(self) -> slice | list[int]:
        """Positions in the prompt of the pieces of the picture, patches in reading order."""
        own = [self.start + i for i in range(self.count) if i not in self.between]
        return own if self.between else slice(self.start, self.start + self.count)


@dataclass(frozen=True, eq=False)
class Prompt:
    """Input of the language model: embeddings with their mask and positions.

    ``embeds`` (B, T, d); ``positions`` (B, T) long; ``mask`` (B, S) long, 1 where a token
    is real. S = T, except in a ``tail``, whose mask also covers what the cache holds.
    ``extras`` (B, ...) each are what else the language model gets of the picture. ``names``
    are what errors call the rows' pictures by, none where nobody has said (``named``).
    """

    embeds: Tensor
    mask: Tensor
    positions: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, embeds: Tensor, mask: Tensor | None = None) -> Prompt:
        """Build a prompt from embeddings (B, T, d); positions count the real tokens."""
        if embeds.ndim != 3:
            raise ValueError(f"embeds of shape {tuple(embeds.shape)}: give (batch, tokens, width)")
        shape = embeds.shape[:2]
        if mask is None:
            mask = torch.ones(shape, dtype=torch.long, device=embeds.device)
        if mask.shape != shape:
            raise ValueError(f"mask of {tuple(mask.shape)} for embeddings of {tuple(shape)}")
        mask = mask.to(embeds.device, torch.long)
        return cls(embeds, mask, (mask.cumsum(1) - 1).clamp(min=0))

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.embeds)

    def named(self, names: Sequence[str]) -> Prompt:
        """Take names for the rows' pictures; ValueError where there are more or fewer."""
        if len(names) != len(self):
            raise ValueError(f"{len(names)} names for {len(self)} rows; give one for each")
        return replace(self, names=tuple(names))

    @property
    def ends(self) -> Tensor:
        """Each row's last token whose mask is 1: (B) long, an index into ``embeds``."""
        tokens = self.embeds.shape[1]
        places = torch.arange(tokens, device=self.mask.device)
        return torch.where(self.mask[:, -tokens:] > 0, places, 0).amax(dim=1)

    def extend(self, embeds: Tensor, mask: Tensor | None = None) -> Prompt:
        """Append embeddings (B, n, d); ``mask`` (B, n) is 0 where a shorter row is padded."""
        more = Prompt.of(embeds, mask)
        if self.mask.shape[1] != self.embeds.shape[1]:
            raise ValueError("a tail cannot be extended; extend the whole prompt, then take tail")
        if len(more) != len(self):
            raise ValueError(f"{len(more)} rows to append to {len(self)}; repeat the prompt first")
        return self.hidden(
            torch.cat([self.mask, more.mask.to(self.mask)], dim=1),
            torch.cat([self.embeds, more.embeds.to(self.embeds)], dim=1),
        )

    def hidden(self, mask: Tensor, embeds: Tensor | None = None) -> Prompt:
        """Take another mask (B, T), with its positions, and other embeddings if given."""
        new = Prompt.of(self.embeds if embeds is None else embeds, mask)
        return replace(self, embeds=new.embeds, mask=new.mask, positions=new.positions)

    def tail(self, tokens: int) -> Prompt:
        """Keep the last tokens only, to follow a cache that holds the ones before."""
        part = self.embeds[:, -tokens:], self.positions[:, -tokens:]
        return replace(self, embeds=part[0], positions=part[1])

    def next(self, embeds: Tensor) -> Prompt:
        """Make the tail of embeddings (B, n, d) that follow this prompt, or this tail.

        What ``extend`` and ``tail`` make of a whole prompt, without a copy of its embeddings.
        """
        if len(embeds) != len(self):
            raise ValueError(f"{len(embeds)} rows to follow {len(self)}; repeat the prompt first")
        mask = torch.cat([self.mask, self.mask.new_ones(embeds.shape[:2])], dim=1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        return replace(self, embeds=embeds.to(self.embeds), mask=mask, positions=positions)

    def expand(self, rows: int) -> Prompt:
        """Let one row stand for several, without a copy."""
        names = self.names * rows
        return replace(self._each(lambda p: p.expand(rows, *p.shape[1:])), names=names)

    def repeat(self, rows: int) -> Prompt:
        """Repeat each row ``rows`` times: a, a, b, b."""
        names = tuple(name for name in self.names for _ in range(rows))
        return replace(self._each(lambda part: part.repeat_interleave(rows, dim=0)), names=names)

    def select(self, rows: slice | Sequence[int] | Tensor) -> Prompt:
        """Take rows by a slice, indices or a bool mask."""
        if not isinstance(rows, (slice, Tensor)):
            if list(rows) == list(range(len(self))):
                return self
            rows = torch.as_tensor(rows, dtype=torch.long, device=self.embeds.device)
        places = torch.arange(len(self))[rows if isinstance(rows, slice) else rows.cpu()]
        names = tuple(self.names[place] for place in places) if self.names else ()
        return replace(self._each(lambda part: part[rows]), names=names)

    def to(self, device: torch.device | str) -> Prompt:
        """Move all parts to a device."""
        return self._each(lambda part: part.to(device))

    def join(self, others: Sequence[Prompt]) -> Prompt:
        """Append the rows of other prompts of the same length."""
        every, fields = (self, *others), ("embeds", "mask", "positions")
        parts = {name: torch.cat([getattr(one, name) for one in every]) for name in fields}
        extras = {name: torch.cat([one.extras[name] for one in every]) for name in self.extras}
        names = tuple(chain(*(one.names for one in every))) if all(p.names for p in every) else ()
        return replace(self, **parts, extras=extras, names=names)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Prompt:
        """Change every part in the same way."""
        parts = {name: change(getattr(self, name)) for name in ("embeds", "mask", "positions")}
        extras = {name: change(value) for name, value in self.extras.items()}
        return replace(self, **parts, extras=extras)
