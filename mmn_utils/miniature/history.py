"""What was stored of the trainings: curves, probes, times. Whatever lacks is empty, no error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.miniature.curves import items_seen, training_curve
from mmn_utils.miniature.systems import LIMBER, SYSTEMS

LIMBER_PAIRS = 15_000 * 2_048  # LiMBeR's own training: steps times batch
LIMBER_PROJECTION = 4096 * (1024 + 1)  # parameters between BEiT-large and GPT-J
COLOUR_COLUMNS = ("encoder", "colours", "patch", "object")
TIME_COLUMNS = ("part", "paper", "minutes", "core_minutes", "processor")


@dataclass(frozen=True)
class Curve:
    """A line of a figure, and where it is stored.

    Attributes:
        panel: what is trained.
        line: what this line of the panel is; empty where it is the only one.
        file: stem of the file that has it.
        unit: of what was seen.
        measure: what is measured, in a few words.
        column: the one that has it.
        stage: of the file's rows, those of this one; empty for all.
        after: stem of the training that it went on from, and counts from.
    """

    panel: str
    line: str
    file: str
    unit: str
    measure: str
    column: str = "loss"
    stage: str = ""
    after: str = ""


NEXT_WORD, CODES, NAMED = "loss, next token", "loss, codes", "named rightly"
SMOOTH = "projection_smooth", "projection_untrained_encoder_smooth"
#: Curves of LiMBeR's parts, in the order of the figure.
PARTS = (
    Curve("language model", "", "language", "tokens", NEXT_WORD),
    Curve("encoder", "codes of pixels", "vision", "pictures", CODES, stage="pixels"),
    Curve("encoder", "codes of its own features", "vision", "pictures", CODES, stage="features"),
    Curve("probe of the encoder", "whole object", "vision", "pictures", NAMED, "object"),
    Curve("probe of the encoder", "single patch", "vision", "pictures", NAMED, "patch"),
    Curve("projection", "trained encoder", "projection", "pairs", NEXT_WORD),
    Curve(
        "projection", "trained encoder, smooth labels", SMOOTH[0], "pairs", NEXT_WORD,
        after="projection",
    ),
    Curve("projection", "control", "projection_untrained_encoder", "pairs", NEXT_WORD),
    Curve(
        "projection", "control, smooth labels", SMOOTH[1], "pairs", NEXT_WORD,
        after="projection_untrained_encoder",
    ),
)  # fmt: skip
PAIRS_APART = "loss, pairs apart"
#: Those of paper B's systems.
CHAT = (
    Curve("LLaMA", "", "llama", "tokens", NEXT_WORD),
    Curve("CLIP's tower", "", "clip_seeing", "pictures", "squared error"),
    Curve("CLIP", "", "clip", "pairs", PAIRS_APART),
    Curve("LLaVA: projector", "", "llava_alignment", "pairs", NEXT_WORD),
    Curve("LLaVA: with language model", "", "llava_tuning", "pairs", NEXT_WORD),
    Curve("InstructBLIP: contrast", "", "instructblip_contrast", "pairs", PAIRS_APART),
    Curve("InstructBLIP: captions", "", "instructblip_speaking", "pairs", NEXT_WORD),
    Curve("mPLUG-Owl2", "", "mplug_owl2", "pairs", NEXT_WORD),
)


# --- curves -----------------------------------------------------------------------------


def points(folder: Path, of: Sequence[Curve] = PARTS) -> pd.DataFrame:
    """Read curves point by point: panel, line, unit, measure, items (seen), value.

    A curve that is not stored has one row, without items and value.
    """
    parts = [_points(folder, curve) for curve in of]
    return pd.concat(parts, ignore_index=True).astype({"items": float, "value": float})


def _points(folder: Path, curve: Curve) -> pd.DataFrame:
    table = training_curve(folder / f"{curve.file}.csv")
    if curve.stage:
        table = table[table.get("stage", "") == curve.stage]
    columns = {"items": "items", curve.column: "value"}
    table = table.reindex(columns=list(columns)).dropna().rename(columns=columns)
    if curve.after:
        table["items"] += items_seen(folder, [f"{curve.after}.csv"])
    if table.empty:
        table = pd.DataFrame({"items": [np.nan], "value": [np.nan]})
    named = {name: getattr(curve, name) for name in ("panel", "line", "unit", "measure")}
    return table.assign(**named)[[*named, "items", "value"]]


def ends(points: pd.DataFrame) -> pd.DataFrame:
    """Return of each stored curve what it measures, its first and last value, and what was seen.

    Columns: curve, measure, first, last, seen (with its unit).
    """
    names = ["panel", "line", "measure", "unit"]
    groups = points.dropna().groupby(names, sort=False)
    table = groups.agg(first=("value", "first"), last=("value", "last"), seen=("items", "max"))
    rows = [
        (_name(panel, line), measure, row.first, row.last, f"{row.seen:,.0f} {unit}")
        for (panel, line, measure, unit), row in table.iterrows()
    ]
    return pd.DataFrame(rows, columns=["curve", "measure", "first", "last", "seen"])


def missing(points: pd.DataFrame) -> list[str]:
    """Name the curves that are not stored."""
    absent = points[points["items"].isna()]
    return [_name(*pair) for pair in absent[["panel", "line"]].to_numpy()]


def _name(panel: str, line: str) -> str:
    return f"{panel}, {line}" if line else panel


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
