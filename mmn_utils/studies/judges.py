"""The judges of a notebook's texts: a CLIP, which sees the picture, and BERTScore's encoder.

A judge that does not know what it judges gives numbers without a meaning, so either may be
wanting: BERTScore where the photographs have no captions to compare with, CLIPScore where no CLIP
is given and the pictures are none of the miniature's scenes, which are all that its own CLIP has
ever seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from mmn_utils.datasets import MINIATURE, Dataset, Photograph
from mmn_utils.measures.clipscore import ClipEmbeddings, clip_embeddings
from mmn_utils.studies.agreement import agreement

NO_CLIP = "none"  # how a notebook is told to do without CLIPScore
MEASURES = ("bertscore", "clipscore")  # in the order of paper A's Table 1


@dataclass(frozen=True)
class Judges:
    """What scores texts against their photographs.

    ``clip`` is None where there is no CLIPScore, ``encoder`` None for the packaged one.
    ``missing`` says of each measure that there is not why: what completes "since ".
    """

    clip: ClipEmbeddings | None
    encoder: str | None
    missing: Mapping[str, str]

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that there are."""
        return tuple(measure for measure in MEASURES if measure not in self.missing)

    def score(
        self,
        photographs: Sequence[Photograph],
        texts: Mapping[str, Sequence[Sequence[str]]],
        measures: Sequence[str] = MEASURES,
    ) -> pd.DataFrame:
        """Score texts as ``agreement`` does, by those of the measures that there are."""
        there = [measure for measure in measures if measure not in self.missing]
        judges = {"clip": self.clip, "encoder": self.encoder}
        return agreement(photographs, texts, **judges, measures=there)


def find_judges(clip: str, encoder: str, data: Dataset) -> Judges:
    """Find the judges of a data set's texts; a CLIP is loaded now, before any long work.

    ``clip`` is a CLIP's folder or its name on the hub, "none" for no CLIPScore, or "" for the
    miniature's own on the miniature's scenes and none elsewhere; ``encoder`` "" for the packaged
    one. FileNotFoundError, naming ``clip``, where the CLIP cannot be had.
    """
    why = {"clipscore": _why_no_clip(clip, data), "bertscore": data.lacks("captions")}
    missing = {measure: reason for measure, reason in why.items() if reason}
    judge = None if "clipscore" in missing else _load(clip)
    return Judges(judge, encoder or None, missing)


def _why_no_clip(clip: str, data: Dataset) -> str:
    """Say why there is no CLIPScore, "" where there is."""
    if clip == NO_CLIP:
        return f"clip = {NO_CLIP!r} asks for no CLIPScore"
    if clip or data.name in MINIATURE:
        return ""
    # Nothing else fails: it scores whatever picture it is shown.
    return (
        f"no CLIP is given that knows the {data.words.pictures} of {data.name!r} (the miniature's "
        "own knows the miniature's scenes alone); name one by the parameter clip"
    )


def _load(clip: str) -> ClipEmbeddings:
    try:
        return clip_embeddings(clip or None)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; clip = {NO_CLIP!r} does without CLIPScore") from error
