"""The four systems of the miniature side by side: how they see, what learns, what they name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mmn_utils.datasets.base import Photograph
from mmn_utils.miniature.curves import items_seen
from mmn_utils.miniature.quality.captions import caption_quality
from mmn_utils.miniature.quality.intervals import difference, share
from mmn_utils.miniature.world import World
from mmn_utils.models import MissingParts, load_model
from mmn_utils.presets import data_path


@dataclass(frozen=True)
class System:
    """One of the systems.

    Attributes:
        model: name for ``load_model``.
        sees: what looks at the picture, and what becomes of it.
        learns: what captions have taught.
        curves: files of the stages in which it learnt from pictures and words.
    """

    model: str
    sees: str
    learns: str
    curves: tuple[str, ...]


LIMBER = "LiMBeR"
SYSTEMS = {
    LIMBER: System(
        "miniature",
        "BEiT's patches, one linear map",
        "the map",
        ("projection.csv", "projection_smooth.csv"),
    ),
    "LLaVA": System(
        "miniature/llava",
        "CLIP's patches, a projector of two layers",
        "projector and language model",
        ("llava_alignment.csv", "llava_tuning.csv"),
    ),
    "InstructBLIP": System(
        "miniature/instructblip",
        "a vision tower, queries of a Q-Former that reads the instruction too",
        "tower, Q-Former and its projection",
        ("instructblip_contrast.csv", "instructblip_speaking.csv"),
    ),
    "mPLUG-Owl2": System(
        "miniature/mplug_owl2",
        "a vision tower, queries of an abstractor",
        "tower, abstractor, and the norms, keys and values of image tokens",
        ("mplug_owl2.csv",),
    ),
}


def load_systems() -> dict[str, object]:
    """Load the systems whose weights are there, by their names in ``SYSTEMS``."""
    found = {}
    for name, system in SYSTEMS.items():
        try:
            found[name] = load_model(system.model)
        except MissingParts:
            continue
    return found


def captions_by_system(
    models: Mapping[str, object], photographs: Sequence[Photograph], world: World
) -> dict[str, pd.DataFrame]:
    """Caption the same scenes by each system; tables as from ``caption_quality``."""
    return {name: caption_quality(model, photographs, world) for name, model in models.items()}


def rows(captions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Lay out whether each system's first noun is in the scene: a row a scene, 1 or 0.

    Columns: scene, and one for each of ``SYSTEMS`` (limber, llava, instructblip, mplug_owl2),
    without values where a system is not there.
    """
    first = next(iter(captions.values()))
    columns = {
        name.lower().replace("-", "_"): captions[name]["right"].astype(int).to_numpy()
        if name in captions
        else np.full(len(first), np.nan)
        for name in SYSTEMS
    }
    return pd.DataFrame({"scene": first["image"], **columns})


def drawn(
    captions: Mapping[str, pd.DataFrame],
    photographs: Sequence[Photograph],
    rng: np.random.Generator,
    each: int = 3,
) -> list[Photograph]:
    """Draw scenes of which all systems name a thing rightly first, then some of which not all do.

    At most ``each`` of either kind; ``captions`` as from ``captions_by_system``, of these scenes.
    """
    right = np.array([table["right"] for table in captions.values()], dtype=bool).all(axis=0)
    groups = [np.flatnonzero(right), np.flatnonzero(~right)]
    return [photographs[i] for group in groups for i in rng.permutation(group)[:each]]


def said(captions: Mapping[str, pd.DataFrame], photographs: Sequence[Photograph]) -> pd.DataFrame:
    """Take from ``captions_by_system`` what is said of some scenes: its columns, and system."""
    rows = pd.concat([table.assign(system=name) for name, table in captions.items()])
    return rows[rows["image"].isin([photograph.id for photograph in photographs])]


def systems_table(
    models: Mapping[str, object], captions: Mapping[str, pd.DataFrame], curves: Path
) -> pd.DataFrame:
    """Return one row a system of ``SYSTEMS``, in its order.

    Columns: system, sees, language_model, image_tokens, learns, trained (parameters),
    pairs (pictures with words that it learnt from), first_noun (share of the scenes whose
    caption's first noun is there), ci_low, ci_high, recall (of the scenes' objects, those
    named), more (first nouns beyond ``LIMBER``'s on the same scenes), more_low, more_high,
    scenes. Where a system is not there, its numbers are NaN and scenes is 0.
    """
    rows = []
    for name, system in SYSTEMS.items():
        row = {"system": name, "sees": system.sees, "learns": system.learns}
        row["pairs"] = items_seen(curves, system.curves)
        if name in models:
            row |= _shape(models[name], system)
            row |= _words(captions[name], captions[LIMBER])
        else:
            row["scenes"] = 0
        rows.append(row)
    columns = (
        "system sees language_model image_tokens learns trained pairs first_noun ci_low ci_high "
        "recall more more_low more_high scenes"
    )
    return pd.DataFrame(rows).reindex(columns=columns.split())


def _shape(model, system: System) -> dict:
    """Name the language model's class, and count image tokens and trained parameters."""
    return {
        "language_model": type(model.language_model).__name__,
        "image_tokens": model.image_tokens.count,
        "trained": trained_parameters(model, system),
    }


def trained_parameters(model, system: System) -> int:
    """Return how many parameters captions have taught, as its training has noted."""
    if system.model == "miniature":
        *_, projection = model.modules()
        return sum(parameter.numel() for parameter in projection.parameters())
    record = data_path(*system.model.split("/")) / "training.json"
    return json.loads(record.read_text(encoding="utf-8"))["trained_parameters"]


def _words(captions: pd.DataFrame, limber: pd.DataFrame) -> dict:
    """Compare a system's captions with the scenes, and with LiMBeR's of the same scenes."""
    if not np.array_equal(captions["image"], limber["image"]):
        raise ValueError("the systems have to caption the same scenes, in the same order")
    value, low, high, scenes = share(captions["right"])
    more, more_low, more_high = 0.0, 0.0, 0.0  # LiMBeR's own lead, exactly
    if captions is not limber:
        more, more_low, more_high, _ = difference(captions["right"], limber["right"])
    return {
        "first_noun": value, "ci_low": low, "ci_high": high, "recall": captions["recall"].mean(),
        "more": more, "more_low": more_low, "more_high": more_high, "scenes": scenes,
    }  # fmt: skip
