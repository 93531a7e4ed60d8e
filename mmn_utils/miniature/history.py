"""What was stored of the trainings: curves, probes, times. Whatever lacks is empty, no error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mmn_utils.miniature.curves import items_seen, training_curve
from mmn_utils.miniature.systems import LIMBER, SYSTEMS

LIMBER_PAIRS = 15_000 * 2_048  # LiMBeR's own training: steps times batch
LIMBER_PROJECTION = 4096 * (1024 + 1)  # parameters between BEiT-large and GPT-J
COLOUR_COLUMNS = ("encoder", "colours", "patch", "object")
TIME_COLUMNS = ("part", "paper", "minutes", "core_minutes", "processor")


@dataclass(frozen=True)
class Stored:
    """Where a curve is stored: a file's stem, the unit of what was seen, the column drawn."""

    file: str
    unit: str
    column: str = "loss"

    @property
    def measure(self) -> str:
        """What the column holds, in a word."""
        return "loss" if self.column == "loss" else "accuracy"


#: Curves of LiMBeR's parts, in the order of the figure, by title.
PARTS = {
    "language model": Stored("language", "tokens"),
    "encoder": Stored("vision", "pictures"),
    "probe: a patch": Stored("vision", "pictures", "patch"),
    "probe: a whole object": Stored("vision", "pictures", "object"),
    "projection": Stored("projection", "pairs"),
    "projection, control": Stored("projection_untrained_encoder", "pairs"),
}
#: Those of paper B's systems.
CHAT = {
    "LLaMA": Stored("llama", "tokens"),
    "CLIP's tower": Stored("clip_seeing", "pictures"),
    "CLIP": Stored("clip", "pairs"),
    "LLaVA: projector": Stored("llava_alignment", "pairs"),
    "LLaVA: with language model": Stored("llava_tuning", "pairs"),
    "InstructBLIP: contrast": Stored("instructblip_contrast", "pairs"),
    "InstructBLIP: captions": Stored("instructblip_speaking", "pairs"),
    "mPLUG-Owl2": Stored("mplug_owl2", "pairs"),
}


# --- curves -----------------------------------------------------------------------------


def curves(folder: Path, of: Mapping[str, Stored] = PARTS) -> dict[str, pd.DataFrame]:
    """Read curves by title: two columns, named by their unit and measure; empty where none is."""
    found = {}
    for title, stored in of.items():
        curve = training_curve(folder / f"{stored.file}.csv")
        curve = curve.reindex(columns=["items", stored.column]).dropna(subset=stored.column)
        found[title] = curve.set_axis([stored.unit, stored.measure], axis=1)
    return found


def stacked(curves: Mapping[str, pd.DataFrame], value: str = "value") -> pd.DataFrame:
    """Stack the points of all curves: curve, items, and what was measured, as ``value``."""
    columns = ["curve", "items", value]
    points = [
        curve.set_axis(columns[1:], axis=1).assign(curve=title)[columns]
        for title, curve in curves.items()
        if len(curve)
    ]
    return pd.concat(points) if points else pd.DataFrame({column: [] for column in columns})


def ends(curves: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, float]]:
    """Return the first and the last value of each stored curve, and how much was seen by then."""
    points = stacked(curves).groupby("curve", sort=False)
    table = points.agg(first=("value", "first"), last=("value", "last"), seen=("items", "max"))
    return table.to_dict("index")


# --- parts ------------------------------------------------------------------------------


def parts(system, folder: Path) -> pd.DataFrame:
    """Tell of LiMBeR's three parts what each has seen, what it learnt of it, and how much."""
    language, encoder, projection = system.modules()
    seen = {
        "language model": (language, "text", "next word", ["language.csv"], "tokens"),
        "encoder": (
            encoder, "pictures", "what is behind masked patches", ["vision.csv"], "pictures"
        ),
        "projection": (
            projection, "pictures with captions", "the caption", SYSTEMS[LIMBER].curves, "pairs"
        ),
    }  # fmt: skip
    rows = [
        {
            "part": name,
            "has seen": data,
            "learnt to predict": task,
            "trained parameters": f"{_parameters(part):,}",
            "amount": f"{items_seen(folder, files):,.0f}".replace("nan", "unknown number of"),
            "unit": unit,
        }
        for name, (part, data, task, files, unit) in seen.items()
    ]
    table = pd.DataFrame(rows)
    return table.assign(amount=table["amount"] + " " + table.pop("unit"))


def beside_limber(system, folder: Path) -> dict[str, float]:
    """Compare the projection's training with LiMBeR's own: pairs seen by each, and their ratios.

    ``pairs`` and ``more`` are NaN where no curve is stored.
    """
    pairs = items_seen(folder, SYSTEMS[LIMBER].curves)
    projection = system.modules()[-1]
    return {
        "pairs": pairs,
        "limber": LIMBER_PAIRS,
        "more": LIMBER_PAIRS / pairs,
        "larger": LIMBER_PROJECTION / _parameters(projection),
    }


def _parameters(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- tables -----------------------------------------------------------------------------


def times(folder: Path) -> dict[str, Any]:
    """Read how long each part took: ``parts``, a table; ``work``, core minutes by paper and
    processor; ``minutes`` of all in one go, or None.
    """
    table = _table(folder / "times.csv", TIME_COLUMNS)
    whole = table["part"] == "everything"
    work = table[~whole].groupby(["paper", "processor"], sort=False)["core_minutes"].sum()
    return {
        "parts": table[~whole].rename(columns={"core_minutes": "minutes of one core"}),
        "work": [(*where, minutes) for where, minutes in work.items()],
        "minutes": float(table.loc[whole, "minutes"].iloc[0]) if whole.any() else None,
    }


def towers(folder: Path) -> dict[str, dict[str, float]]:
    """Read what a probe names off CLIP's tower after each kind of training: object and patch."""
    return _table(folder / "towers.csv", ("tower",)).set_index("tower").to_dict("index")


def colours(folder: Path) -> pd.DataFrame:
    """Read what a probe names off encoders in scenes of several palettes, a row each."""
    return _table(folder / "colours.csv", COLOUR_COLUMNS)


def probed(colours: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Return the accuracies of ``colours`` by encoder, what was named (patch, object), palette."""
    return {
        encoder: rows.set_index("colours")[["patch", "object"]].to_dict()
        for encoder, rows in colours.groupby("encoder", sort=False)
    }


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    if path.is_file():
        return pd.read_csv(path)
    return pd.DataFrame({column: [] for column in columns})
