"""Patch features of a frozen encoder, computed once, and a linear map that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmn_utils.cache import atomic, locked


@dataclass(frozen=True)
class FeatureStore:
    """Patch features of many pictures, float16 (N, patches, width), and their statistics."""

    values: np.ndarray
    mean: Tensor
    std: Tensor

    @property
    def patches(self) -> int:
        """How many patches a picture has."""
        return self.values.shape[1]

    def batch(self, rows: np.ndarray, patches: np.ndarray | None = None) -> Tensor:
        """Return standardised features (B, n, width) of pictures, float32: some patches or all."""
        values = self.values[rows] if patches is None else self.values[rows][:, patches]
        return (torch.from_numpy(values).float() - self.mean) / self.std


def statistics(values: np.ndarray) -> FeatureStore:
    """Add mean and spread of some 2,000 pictures to the features (N, patches, width) of all."""
    sample = torch.from_numpy(np.array(values[:: max(1, len(values) // 2000)]))
    sample = sample.float().flatten(0, 1)
    return FeatureStore(values, sample.mean(0), sample.std(0) + 1e-6)


def kept(
    file: Path, shape: tuple[int, int, int], encode: Callable[[], Iterable[Tensor]]
) -> FeatureStore:
    """Write features part by part into a float16 file, all of them or none, or read it.

    What ``encode`` yields, (n, patches, width) at a time, fills ``shape``; of two trainings that
    need the same, one computes it. ``ValueError`` where it does not fill it, or the file that is
    there has another shape.
    """
    if not file.exists():
        with locked(file.parent):
            if not file.exists():
                _write(file, shape, encode())
    values = np.load(file, mmap_mode="r")
    if values.shape != shape:
        raise ValueError(f"{file} holds {values.shape}, not {shape}: move it away to encode anew")
    return statistics(values)


def _write(file: Path, shape: tuple[int, int, int], parts: Iterable[Tensor]) -> None:
    start = 0
    with atomic(file) as fresh:
        values = np.lib.format.open_memmap(fresh, "w+", np.float16, shape)
        for part in parts:
            values[start : start + len(part)] = part.half().numpy()
            start += len(part)
        if start != len(values):
            raise ValueError(f"{start} pictures were encoded, not {len(values)}")
        values.flush()


def fold(linear: torch.nn.Linear, store: FeatureStore) -> dict[str, Tensor]:
    """Return weight and bias that take raw features: the standardisation folded in."""
    weight = linear.weight.detach() / store.std
    return {"weight": weight, "bias": linear.bias.detach() - weight @ store.mean}
