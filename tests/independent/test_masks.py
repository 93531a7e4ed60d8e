"""Where paper A's units look, against the data set's masks: Figure 5.

Per picture: the activations of its top units over the patches, scaled up by a matrix of our own,
cut above their 0.95 quantile; the object's mask as pycocotools reads it.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from pycocotools import mask as coco

from tests.independent import raw, words
from tests.independent.stored import A, about, assert_claim, assert_rows, rows_of, some

pytestmark = pytest.mark.weights


def scaling(patches: int, side: int) -> np.ndarray:
    """Bilinear interpolation from centres of patches to centres of pixels: (side, patches)."""
    place = ((np.arange(side) + 0.5) * patches / side - 0.5).clip(0, patches - 1)
    return np.maximum(1 - np.abs(place[:, None] - np.arange(patches)), 0)


def truth(image: str, category: str) -> np.ndarray:
    """All masks of a category in a picture, in one."""
    known = words.annotations("instances")
    wanted = next(one["id"] for one in known["categories"] if one["name"] == category)
    mine = [one for one in known["annotations"] if one["image_id"] == int(image)]
    masks = [coco.decode(one["segmentation"]) for one in mine if one["category_id"] == wanted]
    return np.logical_or.reduce(masks)


def overlaps(image: str, category: str, k: int, quantile: float) -> dict[str, float]:
    """Mean IoU of the masks of the top units, and of as many random ones of their layers."""
    system, where = raw.limber(), raw.span(raw.limber(), image)
    ids = raw.said(system, image)
    _, step, token = words.nouns(system, ids)[0]
    soft = raw.seen(system, image)
    field = raw.attributions(system, raw.prompt(system, soft, ids[:step]), token, where)
    top = raw.highest(field.amax(1), k)
    active = raw.activations(system, raw.prompt(system, soft))[0][:, where].double().numpy()
    rows, thing = math.isqrt(active.shape[1]), truth(image, category)
    up = scaling(rows, len(thing))
    found = {}
    for name, units in (("top", top), ("random", words.random_units(system, top, image, 0))):
        fields = [up @ active[layer, :, unit].reshape(rows, rows) @ up.T for layer, unit in units]
        masks = [field > np.quantile(field, quantile) for field in fields]
        found[name] = np.mean([(m & thing).sum() / (m | thing).sum() for m in masks])
    return found


def test_overlap_of_figure_5():
    facts, rows = about(A, "A-fig-5"), rows_of(A, "A-fig-5")
    settings = facts["top_units"]["masks"], facts["mask_quantile"]
    first = rows.drop_duplicates("image").set_index("image")
    own = {
        image: overlaps(image, first.loc[image, "category"], *settings)
        for image in some(rows["image"], 6)
    }
    assert_rows(first.reset_index(), own)
    means = rows.groupby("image")[["top", "random"]].mean().mean()
    assert_claim(A, "A-fig-5-ratio", means["top"] / means["random"])
