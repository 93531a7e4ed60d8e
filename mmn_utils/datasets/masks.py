"""COCO's segmentations, made sane and decoded: polygons and run lengths of every spelling.

``normal`` takes what files of this world hold and returns one of two forms, or says what is wrong
with it; ``decode_mask`` gives nothing else to pycocotools, which may end the process on numbers
that are not finite, and reads beyond its memory where run lengths do not add up.

==============================================  =============================================
a list of polygons [x, y, x, y, ...]            as it is
points [[x, y], ...], one polygon or several    flat
a polygon alone, not in a list                  in a list
fewer than three points, none, null             no area: left out
run lengths, plain or compressed                ``size`` as integers, counts that were checked
a list of run lengths                           their union, as plain run lengths
==============================================  =============================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from numbers import Real
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

POLYGON_MIN = 6  # numbers; pycocotools would read a polygon of four as a box
BEYOND = 10  # sizes of the picture by which a polygon may stick out; it is drawn edge by edge


def normal(segmentation: Any, size: tuple[int, int]) -> Any:
    """Return a segmentation as a list of flat polygons or as run lengths of ``size`` (h, w).

    ValueError says what is wrong and what would mend it, for whatever has no clear meaning.
    """
    if segmentation is None:
        return []
    if isinstance(segmentation, dict):
        return _runs(segmentation, size)
    if not isinstance(segmentation, list | tuple):
        raise ValueError(
            f"its segmentation is {segmentation!r}: give polygons, run lengths, or an empty list"
        )
    if any(isinstance(part, dict) for part in segmentation):
        return _united(segmentation, size)
    if all(isinstance(value, Real) for value in segmentation):
        segmentation = [segmentation]  # one polygon, bare
    elif len(segmentation) >= POLYGON_MIN // 2 and all(map(_is_point, segmentation)):
        segmentation = [segmentation]  # one polygon of points, bare
    polygons = [_polygon(polygon, size) for polygon in segmentation]
    return [polygon for polygon in polygons if len(polygon) >= POLYGON_MIN]


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Decode COCO's polygons or run lengths to a bool mask of ``size`` (height, width).

    Nothing annotated, and polygons of fewer than three points, give an empty mask. ValueError
    as of ``normal``, and where run lengths belong to a photograph of another size.
    """
    found = normal(segmentation, size)
    if not found:
        return np.zeros(size, dtype=bool)
    if isinstance(found, dict):
        runs = found
        if isinstance(runs["counts"], list):
            runs = coco_mask.frPyObjects(runs, *size)
    else:
        runs = coco_mask.merge(coco_mask.frPyObjects(found, *size))
    return coco_mask.decode(runs).astype(bool)


def _is_point(part: Any) -> bool:
    return (
        isinstance(part, list | tuple)
        and len(part) == 2
        and all(isinstance(value, Real) for value in part)
    )


def _polygon(polygon: Any, size: tuple[int, int]) -> Sequence[float]:
    """Return a polygon flat; itself, where it is."""
    if not isinstance(polygon, list | tuple):
        raise ValueError(f"a polygon is {polygon!r}: give a list of numbers")
    if polygon and all(map(_is_point, polygon)):
        polygon = [value for point in polygon for value in point]
    for value in polygon:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(f"a polygon has {value!r} among its numbers: give x, y, x, y, ...")
        if not math.isfinite(value):
            raise ValueError(f"a polygon has the coordinate {value}: mend it or take it out")
    if len(polygon) % 2:
        raise ValueError(
            f"a polygon has {len(polygon)} numbers, an odd count: give an x and a y for each point"
        )
    for values, side in ((polygon[::2], size[1]), (polygon[1::2], size[0])):
        if any(abs(value) > BEYOND * (side + 1) for value in values):
            raise ValueError(
                f"a polygon goes to {max(values, key=abs):g} on a side of {side} pixels: give "
                "coordinates in pixels of this picture"
            )
    return polygon


def _runs(runs: dict, size: tuple[int, int]) -> dict:
    """Check run lengths against the picture's size; return them."""
    if "counts" not in runs:
        raise ValueError(f"its run lengths have {sorted(runs)}, no counts: give size and counts")
    stated = runs.get("size", list(size))
    if not _same_size(stated, size):
        raise ValueError(
            f"a mask of {stated} on a photograph of {list(size)}: the annotation belongs to "
            "another image"
        )
    counts = runs["counts"]
    lengths = counts if isinstance(counts, list | tuple) else _uncompressed(counts)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in lengths):
        raise ValueError("its run lengths are not all whole numbers from 0 up: encode it again")
    if sum(lengths) != size[0] * size[1]:
        raise ValueError(
            f"its run lengths add up to {sum(lengths)}, the picture has {size[0]} x {size[1]} = "
            f"{size[0] * size[1]} pixels: encode it again"
        )
    return {"size": list(size), "counts": list(counts) if lengths is counts else counts}


def _same_size(stated: Any, size: tuple[int, int]) -> bool:
    try:
        return tuple(float(side) for side in stated) == size
    except (TypeError, ValueError):
        return False


def _uncompressed(counts: Any) -> list[int]:
    """Read COCO's compressed run lengths: groups of five bits, each length from the third on as
    the difference from the one two before it."""
    text = counts.decode("latin-1") if isinstance(counts, bytes) else counts
    if not isinstance(text, str):
        raise ValueError(f"its counts are {text!r}: give a list or COCO's compressed text")
    lengths: list[int] = []
    value = shift = 0
    for sign in text:
        bits = ord(sign) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its compressed run lengths hold {sign!r}: encode it again")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last group
            value -= (bits & 16) << (shift - 4) if bits & 16 else 0
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its compressed run lengths break off: encode it again")
    return lengths


def _united(parts: Sequence[Any], size: tuple[int, int]) -> dict:
    """Return the union of run lengths and polygons in one list as plain run lengths."""
    masks = [decode_mask(part if isinstance(part, dict) else [part], size) for part in parts]
    flat = np.logical_or.reduce(masks).ravel(order="F").tolist()
    counts = [len(list(run)) for _, run in groupby(flat)]
    return {"size": list(size), "counts": [0, *counts] if flat[0] else counts}
