"""The record of a projection's training: what captions said of photographs kept apart, and when."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

from mmn_utils.measures import estimates

TABLES = ("captions", "curve", "decoding")


@dataclass(frozen=True)
class Record:
    """What ``make smol`` leaves beside the weights.

    ``captions``: system, source, name, image, caption, right; ``curve``: steps, source, share,
    low, high, n; ``decoding``: steps, image, picture, picture_random; ``training``: the options.
    """

    captions: pd.DataFrame
    curve: pd.DataFrame
    decoding: pd.DataFrame
    training: dict[str, Any]

    def paired(self) -> pd.DataFrame:
        """Lay captions out a photograph a row: source, image, and whether each system was right."""
        table = self.captions.assign(right=self.captions["right"].astype(float))
        table["system"] = [_column(name) for name in table["system"]]
        keys = ["source", "name", "image"]
        # COCO's names are the nouns that each system said, so they tell no photographs apart
        table.loc[table["source"].str.startswith("coco"), "name"] = ""
        wide = table.pivot(index=keys, columns="system", values="right")
        return wide.reset_index().rename_axis(columns=None)

    def quality(self) -> pd.DataFrame:
        """Return how often captions were right: system, source, share, low, high, n."""
        return shares(self.captions, ["system", "source"], "right")

    def decoded(self) -> pd.DataFrame:
        """Return the share of top units that write the noun: steps, way, share, low, high, n."""
        ways = self.decoding.melt(["image", "steps"], var_name="way", value_name="share")
        return shares(ways, ["steps", "way"], "share")

    def ends(self) -> pd.DataFrame:
        """Return what top units write at the first and at the last step that was kept.

        Rows image, when (first or last), share.
        """
        steps = self.decoding["steps"]
        parts = [
            self.decoding[steps == at].assign(when=when)
            for when, at in (("first", steps.min()), ("last", steps.max()))
        ]
        columns = {"picture": "share"}
        return pd.concat(parts)[["image", "when", "picture"]].rename(columns=columns)


def read_record(folder: Path) -> Record:
    """Read the record of a training; ``ValueError`` where it is not whole."""
    files = [folder / f"{name}.csv" for name in TABLES]
    weights = folder / "projection.safetensors"
    lacking = [str(file) for file in (*files, weights) if not file.is_file()]
    if lacking:
        raise ValueError(
            f"record = {str(folder)!r}: {', '.join(lacking)} is not there; "
            "`make smol PHOTOGRAPHS=FOLDER` writes it"
        )
    with safe_open(weights, "pt") as opened:
        training = (opened.metadata() or {}).get("training")
    if training is None:
        raise ValueError(
            f"{weights} does not say how it was trained; `make smol` writes one that does"
        )
    return Record(
        *(pd.read_csv(file, keep_default_na=False) for file in files), json.loads(training)
    )


def shares(table: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """Return the mean of a share within each group, with its interval: share, low, high, n."""
    rows = []
    for key, part in table.groupby(list(by), sort=False):
        found = estimates.share_of(part[column].astype(float).to_numpy())
        numbers = {"share": found.value, "low": found.low, "high": found.high, "n": found.n}
        rows.append({**dict(zip(by, key, strict=True)), **numbers})
    return pd.DataFrame(rows)


def _column(system: str) -> str:
    """Name a column of rows by a system: ``smol/untrained-encoder`` is ``untrained_encoder``."""
    return system.partition("/")[2].replace("-", "_") or "trained"
