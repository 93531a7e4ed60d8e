"""Do words fit a picture? Tokens as text, their scores, and what to compare them with.

Paper A asks it of soft prompts (section 3.1) and of decoded neurons (section 2.2), with
the same two scores: CLIPScore against the picture, BERTScore against its human captions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mmn_utils.datasets import Photograph
from mmn_utils.datasets.base import TooFew
from mmn_utils.measures.bertscore import bertscore
from mmn_utils.measures.clipscore import ClipEmbeddings, clip_embeddings, clipscore
from mmn_utils.neurons.text import same_word

MEASURES = ("clipscore", "bertscore")


def listed(tokens: Iterable[str]) -> str:
    """Write tokens as one text, comma-separated without their blanks: what the papers score."""
    return ", ".join(token.strip() for token in tokens)


def other_images(n: int, rng: np.random.Generator) -> np.ndarray:
    """Pair each of ``n`` images with another one: a random cycle, long (n,), no fixed point.

    TooFew for fewer than two.
    """
    if n < 2:
        raise TooFew(
            f"{n} of the photographs with words to judge, which are to be paired with each other; "
            "take more photographs"
        )
    order = rng.permutation(n)
    partner = np.empty(n, dtype=np.int64)
    partner[order] = np.roll(order, -1)
    return partner


def agreement(
    photographs: Sequence[Photograph],
    texts: Mapping[str, Sequence[Sequence[str]]],
    *,
    clip: ClipEmbeddings | str | Path | None = None,
    encoder: str | Path | None = None,
    measures: Sequence[str] = MEASURES,
) -> pd.DataFrame:
    """Score texts of several conditions against their photographs.

    ``texts[condition][i]`` are those of ``photographs[i]``. Columns condition, image,
    rank (place among the image's texts), text, and each of ``measures``: ``clipscore``
    with the picture, ``bertscore`` as the mean over its human captions. Each different
    pair is scored once, each text embedded once. ValueError for another measure and for
    conditions that do not have one list for each photograph.
    """
    unknown = set(measures) - set(MEASURES)
    if unknown:
        raise ValueError(f"measures {sorted(unknown)}: choose from {', '.join(MEASURES)}")
    table = _long(photographs, texts)
    different = table[["image", "text"]].drop_duplicates()
    known = {photograph.id: photograph for photograph in photographs}
    if "clipscore" in measures:
        embeddings = clip if isinstance(clip, ClipEmbeddings) else clip_embeddings(clip)
        embeddings.learn(different["text"].tolist())
        parts = [
            clipscore([known[image]] * len(part), part.tolist(), embeddings)
            for image, part in different.groupby("image", sort=False)["text"]
        ]
        order = different.groupby("image", sort=False).ngroup().argsort(kind="stable")
        different = different.iloc[order].assign(clipscore=np.concatenate(parts))
    if "bertscore" in measures:
        references = [known[image].captions for image in different["image"]]
        scores = bertscore(different["text"].tolist(), references, encoder)
        different = different.assign(bertscore=scores)
    return table.merge(different, on=["image", "text"], how="left", validate="many_to_one")


def _long(
    photographs: Sequence[Photograph], texts: Mapping[str, Sequence[Sequence[str]]]
) -> pd.DataFrame:
    """Lay the texts out: condition, image, rank, text."""
    rows = []
    for condition, lists in texts.items():
        if len(lists) != len(photographs):
            raise ValueError(
                f"{condition!r} has texts for {len(lists)} of {len(photographs)} photographs; "
                "give a list for each, empty where there is none"
            )
        for photograph, some in zip(photographs, lists, strict=True):
            if isinstance(some, str):
                raise ValueError(
                    f"{condition!r} of {photograph.id} is the text {some!r}; give a list"
                )
            rows += [(condition, photograph.id, rank, text) for rank, text in enumerate(some)]
    return pd.DataFrame(rows, columns=["condition", "image", "rank", "text"])


def per_image(
    table: pd.DataFrame, measure: str, images: Sequence[str], how: str = "mean"
) -> pd.DataFrame:
    """Reduce scores to one per image and condition: rows in the order of ``images``.

    ``how``: mean or max over the image's texts. ValueError where an image has no text.
    """
    wide = table.groupby(["image", "condition"], sort=False)[measure].agg(how).unstack()
    wide = wide.reindex(images)
    if wide.isna().any(axis=None):
        image, condition = wide.isna().stack().idxmax()
        raise ValueError(f"image {image} has no text of {condition!r}; leave the image out")
    return wide[list(dict.fromkeys(table["condition"]))]


# --- what decoded neurons say ------------------------------------------------------------


def writes_noun(tokens: Iterable[str], noun: str) -> bool:
    """Say whether decoded tokens hold a noun, in the singular or the regular plural."""
    words = (token.strip() for token in tokens)
    # Only a word of the same first letter can be the same word; that spares most looks.
    near = (word for word in words if word[:1].lower() == noun[:1].lower())
    return any(same_word(word, noun) for word in near if word)
