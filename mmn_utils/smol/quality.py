"""How well captions name what photographs show that no training has seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd
from PIL import Image

from mmn_utils.cache import atomic
from mmn_utils.datasets import Photograph
from mmn_utils.datasets.pictures import read_image
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.text import nouns, says
from mmn_utils.smol.photographs import Shown
from mmn_utils.studies.annotations import mentions
from mmn_utils.studies.subjects import captions_of

TOKENS = 6  # of a caption, within which the class must be named
TOGETHER = 16
Listed = TypeVar("Listed", Sequence[Shown], pd.DataFrame)


def named(model, shown: Sequence[Shown]) -> pd.DataFrame:
    """Caption photographs of classes; say whether the first ``TOKENS`` tokens name the class.

    One row a photograph: source, name, image, caption, right. The whole name, as whole words:
    "guitar" does not name an electric guitar.
    """
    rows = []
    for start in range(0, len(shown), TOGETHER):
        part = shown[start : start + TOGETHER]
        images: list[Image.Image] = [read_image(one.path) for one in part]
        found = generate(model, model.prompt(images), TOKENS)
        rows += [
            {
                "source": one.source,
                "name": one.name,
                "image": one.path.name,
                "caption": caption.text,
                "right": says(caption.text, one.name),
            }
            for one, caption in zip(part, found, strict=True)
        ]
    return pd.DataFrame(rows)


def first_nouns(model, photographs: Sequence[Photograph]) -> pd.DataFrame:
    """Caption photographs; say whether the first noun is one of their categories or captions.

    One row a photograph: image, caption, noun ("" where there is none), right.
    """
    rows = []
    for photograph, caption in zip(photographs, captions_of(model, photographs), strict=True):
        found = nouns(caption, model)
        noun = found[0].word if found else ""
        right = bool(noun) and mentions(photograph, noun)
        rows.append({"image": photograph.id, "caption": caption.text, "noun": noun, "right": right})
    return pd.DataFrame(rows)


def spread(shown: Listed, count: int) -> Listed:
    """Take ``count`` photographs, or rows, or more, fewer than twice as many, evenly over a list.

    So evenly over its classes. All of them where there are no more than that.
    """
    return shown[:: max(1, len(shown) // count)]


def write_rows(rows: pd.DataFrame, file: Path) -> None:
    """Write rows as CSV, all of them or none."""
    with atomic(file) as fresh:
        rows.to_csv(fresh, index=False, lineterminator="\n")
