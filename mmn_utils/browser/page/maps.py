"""Heat maps of neurons on a run's pictures, kept small: eight bits for each patch, or sixteen."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmn_utils.cache import code_version
from mmn_utils.datasets import Photograph
from mmn_utils.neurons.receptive_fields import QUANTILE, activation_maps
from mmn_utils.neurons.table import neuron_at
from mmn_utils.studies.store import per_photograph

BYTE, WORD = np.dtype("u1"), np.dtype("<u2")


@dataclass(frozen=True)
class HeatMap:
    """A map of P patches in steps of its range, a 255th or a 65535th of it.

    ``steps`` has P bytes, or 2 P of little-endian words, row by row; all zero for a constant map.
    """

    low: float
    high: float
    steps: bytes

    def values(self, patches: int) -> np.ndarray:
        """Return the map's values, float64 (patches): low + step / most * (high - low)."""
        kind = BYTE if len(self.steps) == patches else WORD
        share = np.frombuffer(self.steps, kind) / np.iinfo(kind).max
        return self.low + share * (self.high - self.low)


def heat_map(values: np.ndarray) -> HeatMap:
    """Round a map (patches) to bytes, or to words where bytes would leave nothing above a cut.

    A unit that is a hair below zero nearly everywhere and far below it somewhere has most of
    its patches in the highest of few steps.
    """
    low, high = float(values.min()), float(values.max())
    share = (values.astype(np.float64) - low) / (high - low or 1.0)
    steps = np.rint(share * np.iinfo(BYTE).max).astype(BYTE)
    if _cut(values).any() and not _cut(steps).any():
        steps = np.rint(share * np.iinfo(WORD).max).astype(WORD)
    return HeatMap(low, high, steps.tobytes())


def _cut(values: np.ndarray) -> np.ndarray:
    return values > np.quantile(values, QUANTILE)


def heat_maps(
    model,
    photographs: Sequence[Photograph],
    chosen: Mapping[str, Sequence[str]],
    *,
    progress: bool = True,
) -> dict[str, dict[str, HeatMap]]:
    """Compute the maps of some neurons on some pictures, or load them: {image: {address: map}}.

    ``chosen`` has addresses by the pictures' ids. A picture at a time, so that the same values
    come out whatever has been computed before. ValueError for a model without a grid.
    """
    model.require_grid()
    some = [photograph for photograph in photographs if chosen.get(photograph.id)]
    found: dict[str, dict[str, HeatMap]] = {photograph.id: {} for photograph in some}
    if not some:
        return found

    def compute(rows: list[int]) -> pd.DataFrame:
        return pd.concat([_of_one(model, some[row], chosen[some[row].id]) for row in rows])

    table = per_photograph(
        "heat_maps", model, some, compute, {"code": code_version([sys.modules[__name__]])},
        targets=[list(chosen[one.id]) for one in some], batch_size=1, progress=progress,
    )  # fmt: skip
    for row in table.itertuples():
        found[row.image][row.neuron] = HeatMap(row.low, row.high, row.steps)
    return found


def _of_one(model, photograph: Photograph, addresses: Sequence[str]) -> pd.DataFrame:
    neurons = [neuron_at(model, address) for address in addresses]
    maps = activation_maps(model, [photograph.open()], neurons, [photograph.id])[0]
    maps = maps.flatten(1).cpu().numpy()
    made = [heat_map(values) for values in maps]
    return pd.DataFrame(
        {
            "image": photograph.id,
            "neuron": list(addresses),
            "low": [one.low for one in made],
            "high": [one.high for one in made],
            "steps": [one.steps for one in made],
        }
    )
