"""Paper A's units by attribution, and what they write, recomputed: Tables S.1 and 1, Figure S.4.

Per picture: Z dy/dZ by one backward pass of ours at all patches, units ranked by their highest
patch, decoded by the sign of their activation there; the random unit beside each is read at the
same patch.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.independent import raw, words
from tests.independent.stored import A, about, assert_claim, assert_rows, rows_of, some

TOP = 100  # units of a picture
pytestmark = pytest.mark.weights


@cache
def scored(image: str) -> tuple[str, list[raw.Unit], list[int], raw.Tensor]:
    """The caption's noun, its top units with the patch of each, all activations at patches."""
    system = raw.limber()
    soft, ids = raw.seen(system, image), raw.said(system, image)
    noun, step, token = words.nouns(system, ids)[0]
    embeds, where = raw.prompt(system, soft, ids[:step]), raw.span(system, image)
    field = raw.attributions(system, embeds, token, where)
    units = raw.highest(field.amax(1), TOP)
    patches = [int(field[layer, :, unit].argmax()) for layer, unit in units]
    return noun, units, patches, raw.activations(system, embeds)[0][:, where]


@cache
def decoded(image: str) -> dict[str, list[list[str]]]:
    """What the top units, and random ones of their layers, write at the top units' patches."""
    system = raw.limber()
    _, units, patches, active = scored(image)
    sets = {"top": units, "random": words.random_units(system, units, image, seed=0)}
    return {
        name: [
            words.spoken(system, (layer, unit), active[layer, patch, unit])
            for (layer, unit), patch in zip(chosen, patches, strict=True)
        ]
        for name, chosen in sets.items()
    }


def test_translation_of_table_s1():
    n = about(A, "A-table-S1")["n_table"]
    rows = rows_of(A, "A-table-S1", f"units == {n}")
    own = {}
    for image in some(rows["image"], 6):
        noun = scored(image)[0]
        each = decoded(image).items()
        own[image] = {k: np.mean([words.writes(t, noun) for t in s[:n]]) for k, s in each}
    assert_rows(rows, own)
    assert_claim(A, "A-table-S1-translation", (rows["top"] - rows["random"]).mean())


def test_interpretable_of_table_1():
    rows = rows_of(A, "A-table-1")
    own = {}
    for image in some(rows["image"], 6):
        share = {k: np.mean(list(map(words.interpretable, s))) for k, s in decoded(image).items()}
        own[image] = {
            "interpretable": share["top"], "interpretable_random": share["random"]
        }  # fmt: skip
    assert_rows(rows, own)
    assert_claim(A, "A-table-1-interpretable", rows["interpretable"].mean())


def test_band_of_figure_s4():
    """Every top unit of a picture is among the rows, as often as there are lists with it."""
    rows = rows_of(A, "A-fig-S4").set_index(["layer", "unit"])
    images = list(dict.fromkeys(rows_of(A, "A-table-S1")["image"]))
    assert rows["lists"].sum() == TOP * len(images)
    seen = [unit for image in some(images, 6) for unit in scored(image)[1]]
    for unit in set(seen):
        assert rows.loc[unit, "lists"] >= seen.count(unit)
    layers = len(raw.limber().out)
    for layer, band in rows["band"].groupby("layer"):
        inside = min((layer + 1) / layers, 11 / 28) - max(layer / layers, 5 / 28)
        assert np.allclose(band, np.clip(inside * layers, 0, 1), atol=1e-5)
    assert_claim(A, "A-fig-S4-band", rows["band"].mean())
