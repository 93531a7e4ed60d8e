"""The record of a projection's training: what captions said of photographs kept apart, and when."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

from mmn_utils.datasets.base import TooFew
from mmn_utils.measures import estimates
from mmn_utils.models.any_encoder import LITE2

ENCODERS = "encoders.csv"
UNTRAINED = f"{LITE2}, untrained"
READERS = (  # an encoder of the probes, the system that reads it, and whether it was trained
    (LITE2, "smol", True),
    (UNTRAINED, "smol/untrained-encoder", False),
)
TABLES = ("captions", "curve", "decoding")


@dataclass(frozen=True)
class Record:
    """What ``make smol`` leaves beside the weights.

    ``captions``: system, source, name, image, caption, right; ``curve``: steps, source, share,
    low, high, n; ``decoding``: steps, image, picture, picture_random; ``training``: the options;
    ``encoders``: encoder, layer, source, share, low, high, n, none where none were tried.
    """

    captions: pd.DataFrame
    curve: pd.DataFrame
    decoding: pd.DataFrame
    training: dict[str, Any]
    encoders: pd.DataFrame | None = None

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

    def probed(self) -> pd.DataFrame:
        """Return what probes of encoders told apart: rows as ``encoders``.

        ``TooFew`` where none were tried.
        """
        if self.encoders is None:
            raise TooFew(
                f"the record has no {ENCODERS}; `python -m mmn_utils.smol FOLDER --only encoders` "
                "writes it"
            )
        return self.encoders

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
    tried = folder / ENCODERS
    return Record(
        *(pd.read_csv(file, keep_default_na=False) for file in files),
        training=json.loads(training),
        encoders=pd.read_csv(tried, dtype={"layer": str}) if tried.is_file() else None,
    )


def shares(table: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """Return the mean of a share within each group, with its interval: share, low, high, n."""
    rows = []
    for key, part in table.groupby(list(by), sort=False):
        found = estimates.share_of(part[column].astype(float).to_numpy())
        numbers = {"share": found.value, "low": found.low, "high": found.high, "n": found.n}
        rows.append({**dict(zip(by, key, strict=True)), **numbers})
    return pd.DataFrame(rows)


def probes_table(probed: pd.DataFrame, named: Callable[[str], str]) -> pd.DataFrame:
    """Lay probes out an encoder and layer a row, a column for each set under its name."""
    numbers = probed[["share", "low", "high", "n"]].itertuples(index=False)
    shares = [format(estimates.Estimate(*row), ".1%") for row in numbers]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for (_, row), text in zip(probed.iterrows(), shares, strict=True):
        cells = rows.setdefault((row["encoder"], row["layer"]), {})
        cells[f"{named(row['source'])}, {row['n']:,} photographs"] = text
    return pd.DataFrame(
        [{"encoder": encoder, "layer": layer, **cells} for (encoder, layer), cells in rows.items()]
    )


def beside(record: Record) -> pd.DataFrame:
    """Set captions of a set beside the probe of the encoder that they went through.

    Rows source, trained (the encoder), captions, probe: of the systems whose projection was
    trained, on the sets that both were asked about.
    """
    probes = record.probed().set_index(["encoder", "source"])["share"]
    said = record.quality().set_index(["system", "source"])["share"]
    rows = [
        {"source": source, "trained": trained, "captions": share, "probe": probes[encoder, source]}
        for encoder, system, trained in READERS
        for source, share in (said[system] if system in said.index else said[:0]).items()
        if (encoder, source) in probes.index
    ]
    return pd.DataFrame(rows, columns=["source", "trained", "captions", "probe"])


def _column(system: str) -> str:
    """Name a column of rows by a system: ``smol/untrained-encoder`` is ``untrained_encoder``."""
    return system.partition("/")[2].replace("-", "_") or "trained"
