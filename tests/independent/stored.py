"""What a run has stored, read as plain files: rows, parameters, claims."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mmn_utils.presets import ROOT

FIGURES = ROOT / "figures"
A, B = "miniature", "miniature-llava"  # the runs of paper A and of paper B
DIGITS = 1e-4  # relative: five significant digits, of rows and of a mean of them
NEAR = 5e-4  # relative: float32, in another order of the sums, then five digits


def rows_of(run: str, exhibit: str, query: str = "") -> pd.DataFrame:
    """The rows beneath an exhibit; yes and no are 1 and 0."""
    path = FIGURES / run / f"{exhibit}.numbers.csv"
    table = pd.read_csv(path, dtype={"image": str}).replace({"yes": 1.0, "no": 0.0})
    return table.query(query) if query else table


def about(run: str, exhibit: str) -> dict:
    """Parameters of the run and the plain facts of an exhibit, in one."""
    record = json.loads((FIGURES / run / f"{exhibit}.json").read_text(encoding="utf-8"))
    return record["parameters"] | record["facts"]


def some(images: Sequence[str], count: int) -> list[str]:
    """``count`` different pictures, spread over the rows."""
    images = list(dict.fromkeys(images))
    places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    return [images[place] for place in places]


def assert_rows(
    rows: pd.DataFrame, own: Mapping[str, Mapping[str, float]], rtol: float = NEAR
) -> None:
    """Compare {picture: {column: number}} with stored rows, of which each picture has one."""
    stored = rows.set_index("image")
    assert stored.index.is_unique
    assert len(own) >= 4
    for image, columns in own.items():
        for name, value in columns.items():
            other = stored.loc[image, name]
            assert np.isclose(value, other, rtol=rtol, atol=1e-6), (image, name, value, other)


def assert_claim(run: str, claim: str, value: float) -> None:
    """Compare a number with the value of a claim in the run's ledger."""
    ledger = pd.read_csv(FIGURES / run / "claims.csv").set_index("id")
    stored = ledger.loc[claim, "value"]
    assert np.isclose(value, stored, rtol=DIGITS, atol=1e-6), (claim, value, stored)
