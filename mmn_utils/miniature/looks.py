"""Which held-out looks are new: each beside the looks that were trained on.

A look that no part has seen is a test of what was learnt only if it does not nearly coincide with
one that was. How alike two glyphs are is the correlation of their luminance on white, both as
large as the same square and one of them moved, and mirrored, to where they agree best, since
scenes mirror and place their things at random. A held-out look is *near* where that is above
``NEAR`` with a look that its concept was trained on, else *far*. Looks of other concepts do not
count, as one that resembles them misleads; the most alike of them is listed beside.

``data/miniature/looks.csv`` is written with the pictures, which need the font; to read it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mmn_utils.datasets.base import Photograph
from mmn_utils.miniature.scenes.sprites import glyph
from mmn_utils.miniature.world import World

NEAR = 0.8  # correlation above which a look is nearly one that was trained on
SIDE = 32  # pixels of the square that a glyph fills; scenes show things about as large
SHIFT = 4  # pixels that one glyph may be moved in either direction
LUMA = (0.299, 0.587, 0.114)


# --- glyph by glyph ---------------------------------------------------------------------


def luminance(picture: Image.Image) -> np.ndarray:
    """Return an RGBA picture's luminance on white, 0 to 1: (SIDE, SIDE), as large as that holds."""
    scale = SIDE / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    small = picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    canvas.paste(small, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    pixels = np.asarray(canvas, dtype=float) / 255
    return pixels[..., :3] @ np.array(LUMA) * pixels[..., 3] + 1 - pixels[..., 3]


def likeness(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the best correlation of a picture (SIDE, SIDE) with each of others (N, SIDE, SIDE).

    Best over moves of up to ``SHIFT`` pixels and the mirror image; what moves in is white.
    Values in -1 to 1: (N,). ValueError for a picture of one shade, which correlates with none.
    """
    wide = np.pad(one, SHIFT, constant_values=1.0)
    moved = np.lib.stride_tricks.sliding_window_view(wide, one.shape).reshape(-1, *one.shape)
    versions = np.concatenate([moved, moved[..., ::-1]])
    return (_standard(others) @ _standard(versions).T).max(axis=1)


def _standard(pictures: np.ndarray) -> np.ndarray:
    """Return pictures as rows of mean 0 and length 1, whose products are correlations."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if (lengths < 1e-9).any():
        raise ValueError("a picture of one shade has no correlation; give glyphs with ink")
    return rows / lengths


def compare(world: World, font: Path) -> pd.DataFrame:
    """Compare each held-out look with all that were trained on, a row each.

    Columns: concept, look (code point); nearest of the concept's own training looks, and their
    likeness; other, the concept whose training look is most like it else, and other_likeness.
    """
    trained = [(c.name, look) for c in world.concepts for look in c.looks]
    owners = np.array([name for name, _ in trained])
    pictures = np.stack([luminance(glyph(look, font)) for _, look in trained])
    rows = []
    for concept in world.with_look(held_out=True):
        like = likeness(luminance(glyph(concept.held_out_look, font)), pictures)
        own, other = (
            int(np.where(mine, like, -np.inf).argmax())
            for mine in (owners == concept.name, owners != concept.name)
        )
        rows.append((concept.name, concept.held_out_look, trained[own][1], like[own],
                     trained[other][0], like[other]))  # fmt: skip
    columns = ["concept", "look", "nearest", "likeness", "other", "other_likeness"]
    return pd.DataFrame(rows, columns=columns)


# --- what is kept of it -----------------------------------------------------------------


def keep(table: pd.DataFrame, path: Path) -> None:
    """Write ``compare``'s table as CSV, with four digits."""
    table.to_csv(path, index=False, lineterminator="\n", float_format="%.4f")


def read(path: Path, world: World) -> pd.DataFrame:
    """Read ``compare``'s table; ValueError where it is not of this world's held-out looks."""
    table = pd.read_csv(path, dtype={"look": str, "nearest": str})
    held_out = {c.name: c.held_out_look for c in world.with_look(held_out=True)}
    if dict(zip(table["concept"], table["look"], strict=True)) != held_out:
        raise ValueError(
            f"{path} compares other looks than {len(held_out)} held out in this world; make it "
            "again by python -m mmn_utils.miniature.scenes"
        )
    return table


def near(table: pd.DataFrame) -> frozenset[str]:
    """Return the concepts whose held-out look is nearly one that was trained on."""
    return frozenset(table["concept"][table["likeness"] > NEAR])


def split(scenes: Iterable[Photograph], near: frozenset[str]) -> Mapping[str, list[Photograph]]:
    """Sort scenes of held-out looks: ``far``, whose looks are all new, and ``near``, the rest."""
    found: dict[str, list[Photograph]] = {"far": [], "near": []}
    for scene in scenes:
        known = any(thing.category in near for thing in scene.instances)
        found["near" if known else "far"].append(scene)
    return found
