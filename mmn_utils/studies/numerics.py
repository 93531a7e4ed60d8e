"""How far a system's answers move when it computes otherwise: type, attention, input size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pandas as pd

from mmn_utils.measures.estimates import shares_of
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.captions import caption_images
from mmn_utils.studies.legibility import same_units
from mmn_utils.studies.subjects import Subjects


@contextmanager
def attending_otherwise(model) -> Iterator[str | None]:
    """Let the language model attend by transformers' other implementation meanwhile; name it.

    ``eager`` for one that attends by ``sdpa``, else ``sdpa``. None, and no change, for a class
    that has one implementation alone.
    """
    language, before = model.language_model, model.language_model.config._attn_implementation
    if not language._supports_attention_backend:
        yield None
        return
    other = "eager" if before == "sdpa" else "sdpa"
    language.set_attn_implementation(other)
    try:
        yield other
    finally:
        language.set_attn_implementation(before)


def moved(
    some: Subjects,
    expected: pd.DataFrame,
    models: dict[str, Callable[[], object]],
    *,
    k: int = 20,
    max_new_tokens: int = 12,
    batch_size: int = 8,
) -> pd.DataFrame:
    """Compare what systems that compute otherwise say, and which units they rank first.

    ``models`` makes each when its turn comes. A row for each photograph and way: image, way, same
    (of the top ``k`` units for the first noun, the share that ``expected`` has, too), caption,
    same_caption.
    """
    rows = []
    for way, make in models.items():
        model = make()
        for start in range(0, len(some), batch_size):
            part = some.select(some.ids[start : start + batch_size])
            rows += _compared(model, part, expected, way, k, max_new_tokens)
    return pd.DataFrame(rows)


def _compared(
    model, part: Subjects, expected: pd.DataFrame, way: str, k: int, longest: int
) -> Sequence[dict]:
    images = [photograph.open() for photograph in part.photographs]
    found = attribution(model, images, part.targets, k=k)
    same = same_units(expected, found, k) / k
    captions = caption_images(model, images, longest, len(images), part.ids)
    return [
        {
            "image": image,
            "way": way,
            "same": same[image],
            "caption": caption.text,
            "same_caption": float(caption.text == before.text),
        }
        for image, caption, before in zip(part.ids, captions, part.captions, strict=True)
    ]


def summary(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Sum up ``moved``: way, the share of top units and of captions that stay, with intervals."""
    found = {
        column: shares_of(rows.pivot(index="image", columns="way", values=column), seed)
        for column in ("same", "same_caption")
    }
    return pd.DataFrame(
        [
            {
                "computed in": way,
                "top units that stay": format(found["same"][way], ".1%"),
                "captions that stay": format(found["same_caption"][way], ".0%"),
            }
            for way in dict.fromkeys(rows["way"])
        ]
    )
