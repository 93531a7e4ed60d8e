"""A share of a table's batches, for one of several processes or machines."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence


def shard_slice(total: int, shard: tuple[int, int]) -> slice:
    """Return the part of ``total`` items that shard ``(index, shards)`` owns.

    A pure function; the shards are contiguous, disjoint, cover all items, and their
    sizes differ by one at most.
    """
    index, shards = shard
    if shards < 1 or not 0 <= index < shards:
        raise ValueError(f"shard = {shard!r} must be (index, shards) with 0 <= index < shards")
    return slice(index * total // shards, (index + 1) * total // shards)


def read_shard(text: str) -> tuple[int, int]:
    """Read ``3/8`` as (index, shards); ValueError for anything else."""
    if not re.fullmatch(r"\d+/\d+", text):
        raise ValueError(f"shard = {text!r}: give index/shards, such as 0/8 for the first of eight")
    index, shards = map(int, text.split("/"))
    shard_slice(0, (index, shards))
    return index, shards


def shard_of(ids: Sequence[str], shard: tuple[int, int], batch_size: int) -> list[str]:
    """Return the ids that shard ``(index, shards)`` owns: whole batches, as evenly as they go.

    What is computed together is then the same however many shards there are.
    """
    part = shard_slice(-(-len(ids) // batch_size), shard)
    return list(ids[part.start * batch_size : part.stop * batch_size])


_SHARDS: dict[str, tuple[int, int]] = {}  # kind of table to the shard that is asked for


class _ShardDone(Exception):
    """A shard is computed, and the block that asked for it has nothing more to do."""


@contextlib.contextmanager
def only_shard(kind: str, shard: tuple[int, int]) -> Iterator[None]:
    """Compute one shard of the first table of this kind, and end this block there.

    ``shard`` is (index, shards). The block asks for the table as ever; what it needs of other
    kinds is computed or loaded whole. The shards together leave in the cache what a run without
    them would, batch by batch. ValueError where the block asks for no table of the kind.
    """
    shard_slice(0, shard)
    _SHARDS[kind] = shard
    try:
        yield
        raise ValueError(f"nothing of the kind {kind!r} was computed")
    except _ShardDone:
        pass
    finally:
        del _SHARDS[kind]


def mine_of(kind: str, ids: Sequence[str], batch_size: int) -> list[str]:
    """Return the ids that are asked for here: all, or those of the shard of this kind."""
    return shard_of(ids, _SHARDS.get(kind, (0, 1)), batch_size)


def end_of_shard(kind: str) -> None:
    """End the block that asked for a shard of this kind, if one did."""
    if kind in _SHARDS:
        raise _ShardDone
