"""What captions name, compared with what is in the scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mmn_utils.datasets.base import Photograph
from mmn_utils.miniature.quality.cards import background_of, concept_of, things_in, words_of
from mmn_utils.miniature.world import World
from mmn_utils.neurons.text import nouns
from mmn_utils.studies.subjects import captions_of


def caption_quality(model, photographs: Sequence[Photograph], world: World) -> pd.DataFrame:
    """Caption scenes greedily and compare with what is in them, one row a scene in their order.

    Columns: image, caption, noun (the first one, "" if none), right (it is in the scene),
    recall (of the scene's objects, those named), precision (of the objects named, those
    there; NaN where none is), background (its name was said), twice (one thing is named
    more than once).
    """
    rows = []
    for photograph, caption in zip(photographs, captions_of(model, photographs), strict=True):
        found = nouns(caption, model)
        noun = found[0].word if found else ""
        rows.append({"image": photograph.id, **_caption_row(caption.text, noun, photograph, world)})
    return pd.DataFrame(rows)


def _caption_row(text: str, noun: str, photograph: Photograph, world: World) -> dict:
    """Compare one caption with its scene; see ``caption_quality``."""
    present, words = things_in(photograph), words_of(text)
    things = [c.name for c in (concept_of(word, world) for word in words) if c is not None]
    named = set(things)
    first = concept_of(noun, world) if noun else None
    there = len(named & present)
    return {
        "caption": text,
        "noun": noun,
        "right": first is not None and first.name in present,
        "recall": there / max(1, len(present)),
        "precision": there / len(named) if named else np.nan,
        "background": background_of(photograph, world) in words,
        "twice": len(things) > len(named),
    }
