"""The directions of all neurons as they lie in an atlas's file, to be compared with one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

_BUFFER = 1 << 20  # bytes of a file that are read at once
_BLOCK = 4096  # directions that are widened together, few enough for the CPU's cache
_AT_ONCE = 32  # neurons that are compared with all others together


class Directions:
    """Unit directions (N, n) float16, read when they are first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _blocks(self) -> list[torch.Tensor]:
        """Directions as they lie in the file, in blocks (rows, n) float16."""
        # A group at a time through a small buffer: a fifth of the time and half the memory.
        file = pq.ParquetFile(self.path, pre_buffer=False, buffer_size=_BUFFER)
        blocks: list[torch.Tensor] = []
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # arrow's memory may only be read: it is
            for group in range(file.num_row_groups):
                for chunk in file.read_row_group(group, use_threads=False).column(0).chunks:
                    flat = torch.frombuffer(chunk.buffers()[1], dtype=torch.float16)
                    rows = flat.reshape(-1, chunk.type.byte_width // 2)
                    blocks += rows[chunk.offset : chunk.offset + len(chunk)].split(_BLOCK)
        return blocks

    def __len__(self) -> int:
        """Count the directions."""
        return sum(map(len, self._blocks))

    def _rows(self, numbers: Sequence[int]) -> torch.Tensor:
        """Read some directions: (numbers, n) float32."""
        starts = np.cumsum([0, *map(len, self._blocks)])
        blocks = np.searchsorted(starts, numbers, side="right") - 1
        pairs = zip(blocks.tolist(), numbers, strict=True)
        return torch.stack([self._blocks[b][i - int(starts[b])] for b, i in pairs]).float()

    def cosines(self, number: int) -> np.ndarray:
        """Return the cosine of every direction with that of a neuron: (N) float32."""
        own = self._rows([number])[0]
        found = torch.empty(len(self))
        wide, row = torch.empty(_BLOCK, len(own)), 0  # one, as freed ones are not always reused
        for block in self._blocks:
            some = wide[: len(block)].copy_(block)
            torch.mv(some, own, out=found[row : row + len(block)])
            row += len(block)
        return found.numpy()

    def nearest(self, number: int, n: int) -> pd.DataFrame:
        """List the n neurons nearest to one, without itself: neuron, cosine."""
        cosines = self.cosines(number)
        cosines[number] = -np.inf
        top = _highest(cosines, min(n, len(cosines) - 1))
        return pd.DataFrame({"neuron": top, "cosine": cosines[top]})

    def nearest_to_each(self, numbers: Sequence[int], n: int) -> pd.DataFrame:
        """List the n neurons nearest to each of many: of, neuron, cosine."""
        tables = [pd.DataFrame({"of": [], "neuron": [], "cosine": []}, dtype=np.int64)]
        for start in range(0, len(numbers), _AT_ONCE):
            some = list(numbers[start : start + _AT_ONCE])
            own = self._rows(some)
            cosines = torch.cat([own @ block.float().T for block in self._blocks], 1).numpy()
            for number, row in zip(some, cosines, strict=True):
                row[number] = -np.inf
                top = _highest(row, min(n, len(row) - 1))
                tables.append(pd.DataFrame({"of": number, "neuron": top, "cosine": row[top]}))
        return pd.concat(tables[1:] or tables, ignore_index=True)


def _highest(values: np.ndarray, n: int) -> Sequence[int]:
    """Return the places of the n highest values, equals by their place."""
    if n < len(values):
        level = np.partition(values, len(values) - n)[len(values) - n]
        places = np.flatnonzero(values >= level)
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")][:n]
