"""Paper A's units switched off by hooks of our own: Figure 6 and Table S.3.

Per picture: the ranking by attribution, the noun's probability behind the caption so far, and
the caption by transformers' ``generate``, with the largest number of units at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

from tests.independent import raw, words
from tests.independent.stored import A, about, assert_claim, assert_rows, rows_of, some

pytestmark = pytest.mark.weights


@cache
def units_off(image: str, k: int) -> dict[str, Sequence[raw.Unit]]:
    """Nothing, the top ``k`` units, and as many random ones of their layers."""
    system = raw.limber()
    ids = raw.said(system, image)
    _, step, token = words.nouns(system, ids)[0]
    embeds = raw.prompt(system, raw.seen(system, image), ids[:step])
    field = raw.attributions(system, embeds, token, raw.span(system, image))
    top = raw.highest(field.amax(1), k)
    return {"whole": [], "top": top, "random": words.random_units(system, top, image, seed=0)}


def test_probability_of_figure_6():
    system, k = raw.limber(), about(A, "A-fig-6")["largest"]
    rows = rows_of(A, "A-fig-6", f"k == {k}")
    own = {}
    for image in some(rows["image"], 6):
        ids = raw.said(system, image)
        _, step, token = words.nouns(system, ids)[0]
        embeds, left = raw.prompt(system, raw.seen(system, image), ids[:step]), {}
        for name, units in units_off(image, k).items():
            with raw.without(system, units):
                left[name] = raw.probability(system, embeds, token)
        own[image] = {name: left[name] / left["whole"] for name in ("top", "random")}
    assert_rows(rows, own)
    assert_claim(A, "A-fig-6-top", (1 - rows["top"]).mean())
    assert_claim(A, "A-fig-6-random", rows["random"].mean())
    assert_claim(A, "A-fig-6-gap", (rows["random"] - rows["top"]).mean())


def test_captions_of_table_s3():
    system, k = raw.limber(), about(A, "A-table-S3")["largest"]
    rows = rows_of(A, "A-table-S3")
    own = {}
    for image in some(rows["image"], 6):
        soft, ids = raw.seen(system, image), raw.said(system, image)
        stored = rows.set_index("image").loc[image]
        noun = words.nouns(system, ids)[0][0]
        assert (system.text(ids).strip(), noun) == (stored["caption"], stored["noun"])
        own[image] = {}
        for name in ("top", "random"):
            with raw.without(system, units_off(image, k)[name]):
                text = system.text(raw.caption(system, soft)).strip()
            assert text == stored[name]
            still = noun in text.replace(".", " ").replace(",", " ").split()
            own[image] |= {f"{name}_noun": still, f"{name}_same": text == stored["caption"]}
    assert_rows(rows, own)
    assert_claim(A, "A-table-S3-noun", rows["top_noun"].mean())
    assert_claim(A, "A-table-S3-random", rows["random_same"].mean())
