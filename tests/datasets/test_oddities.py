"""COCO files as this world has them: each oddity is read right, or refused with its place."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mmn_utils.datasets import CocoDataset, masks
from mmn_utils.datasets.masks import decode_mask

H, W = 6, 8
SQUARE = [2, 1, 5, 1, 5, 4, 2, 4]
POINTS = [[2, 1], [5, 1], [5, 4], [2, 4]]
COLUMN = {"size": [H, W], "counts": [0, 6, 42]}
CATS = [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 7, "name": "boat"}]
IMAGE = {"id": 5, "file_name": "a.png", "width": W, "height": H}
ONE = {"id": 1, "image_id": 5, "category_id": 3, "segmentation": [SQUARE], "iscrowd": 0, "area": 9}
SAID = {"id": 1, "image_id": 5, "caption": "a cat"}


def sane(segmentation):
    """Decode by pycocotools alone, bool (H, W)."""
    runs = coco_mask.frPyObjects(segmentation, H, W)
    runs = coco_mask.merge(runs) if isinstance(runs, list) else runs
    return coco_mask.decode(runs).astype(bool)


def plant(root: Path, instances=None, captions=None, images=(IMAGE,), cats=CATS) -> CocoDataset:
    """Write a file of each kind that is given, and pictures; open them."""
    folder, paths = root / "images", []
    for kind, rows in (("instances", instances), ("captions", captions)):
        path = root / f"{kind}.json"
        if rows is not None:
            content = {"images": list(images), "annotations": rows}
            path.write_text(json.dumps(content | ({"categories": cats} if kind[0] == "i" else {})))
        paths.append(path if rows is not None else None)
    for record in (IMAGE, *images):
        place = folder / str(record.get("file_name") or "a.png").replace("\\", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (W, H)).save(place, "PNG")
    return CocoDataset(folder, *paths)


def without(record, *names):
    return {name: value for name, value in record.items() if name not in names}


SQUARE_MASK, COLUMN_MASK, NOTHING = sane([SQUARE]), sane(COLUMN), np.zeros((H, W), bool)
SHORT_RUNS = coco_mask.frPyObjects({"size": [H, W - 1], "counts": [0, 6, 36]}, H, W - 1)
COMPRESSED = {"size": [H, W], "counts": coco_mask.encode(np.asfortranarray(SQUARE_MASK))["counts"]}


@pytest.mark.parametrize(
    ("segmentation", "mask"),
    {
        "flat": ([SQUARE], SQUARE_MASK),
        "nested polygon": ([POINTS], SQUARE_MASK),
        "points alone": (POINTS, SQUARE_MASK),
        "bare": (SQUARE, SQUARE_MASK),
        "floats": ([[float(x) for x in SQUARE]], SQUARE_MASK),
        "two polygons": ([SQUARE, [0, 0, 1, 0, 1, 6, 0, 6]], SQUARE_MASK | COLUMN_MASK),
        "run lengths": (COLUMN, COLUMN_MASK),
        "a list of run lengths": ([COLUMN], COLUMN_MASK),
        "a list of both": ([COLUMN, SQUARE], COLUMN_MASK | SQUARE_MASK),
        "compressed": ({**COMPRESSED, "counts": COMPRESSED["counts"].decode()}, SQUARE_MASK),
        "without size": ({"counts": COLUMN["counts"]}, COLUMN_MASK),
        "sides as floats": ({**COLUMN, "size": [6.0, 8.0]}, COLUMN_MASK),
        "two points": ([[1, 1, 4, 4]], NOTHING),
        "two points among others": ([SQUARE, [1, 1, 4, 4], []], SQUARE_MASK),
        "none": ([], NOTHING),
        "null": (None, NOTHING),
    }.values(),
)
def test_segmentations_are_what_pycocotools_makes_of_the_sane_spelling(
    tmp_path, segmentation, mask
):
    (found,) = plant(tmp_path, [{**ONE, "segmentation": segmentation}]).by_id(5).instances
    assert np.array_equal(found.mask, mask)
    assert np.array_equal(decode_mask(segmentation, (H, W)), mask)


@pytest.mark.parametrize(
    ("segmentation", "says"),
    {
        "odd": ([[*SQUARE, 1]], "9 numbers, an odd count"),
        "odd and short": ([[1, 2, 3]], "3 numbers, an odd count"),
        "nan": ([[*SQUARE[:-1], math.nan]], "coordinate nan"),
        "infinite": ([[*SQUARE[:-1], math.inf]], "coordinate inf"),
        "nan in two points": ([[math.nan, 1, 4, 4]], "coordinate nan"),
        "far": ([[*SQUARE[:-1], 1e9]], r"goes to 1e\+09 on a side of 6"),
        "texts": ([["2"] * 6], "'2' among its numbers"),
        "null inside": ([[*SQUARE[:-1], None]], "None among"),
        "text": ("2,1,5,1", "give polygons"),
        "few runs": ({**COLUMN, "counts": [0, 6, 41]}, "add up to 47"),
        "many runs": ({**COLUMN, "counts": [0, 6, 43]}, "add up to 49"),
        "negative runs": ({**COLUMN, "counts": [0, 60, -12]}, "whole numbers from 0 up"),
        "broken runs": ({**COLUMN, "counts": [0.5, 47.5]}, "whole numbers from 0 up"),
        "few compressed": ({**COLUMN, "counts": SHORT_RUNS["counts"].decode()}, "add up to 42"),
        "cut": ({**COLUMN, "counts": COMPRESSED["counts"].decode() + "o"}, "break off"),
        "no code": ({**COLUMN, "counts": "é"}, "hold 'é'"),
        "no counts": ({"size": [H, W]}, "no counts"),
        "other size": ({**COLUMN, "size": [W, H]}, "another image"),
    }.values(),
)
def test_segmentations_without_a_clear_meaning_are_refused(
    tmp_path, monkeypatch, segmentation, says
):
    """Before pycocotools sees them: it may end the process on numbers that are not finite."""
    monkeypatch.setattr(masks, "coco_mask", None)
    data = plant(tmp_path, [ONE, {**ONE, "id": 17, "segmentation": segmentation}])
    with pytest.raises(ValueError, match=rf"instances\.json, annotation 17: .*{says}"):
        data.by_id(5)
    with pytest.raises(ValueError, match=says):
        decode_mask(segmentation, (H, W))


TWICE = {**IMAGE, "id": 6}
READ = {
    # name: (what is written, (cats, crowds) of the photograph, pictures with a single cat)
    "sane": ({"instances": [ONE]}, (["cat"], [False]), ("5",)),
    "an id twice": (
        {"instances": [ONE, {**ONE, "segmentation": [POINTS]}]},
        (["cat", "cat"], [False] * 2),
        (),
    ),
    "an annotation twice": ({"instances": [ONE, dict(ONE)]}, (["cat"], [False]), ("5",)),
    "a name twice": (
        {
            "instances": [ONE, {**ONE, "id": 2, "category_id": 9}],
            "cats": [*CATS, {**CATS[0], "id": 9}],
        },
        (["cat", "cat"], [False] * 2),
        (),
    ),
    "crowd as text 0": ({"instances": [{**ONE, "iscrowd": "0"}]}, (["cat"], [False]), ("5",)),
    "crowd as text 1": ({"instances": [{**ONE, "iscrowd": "1"}]}, (["cat"], [True]), ()),
    "crowd false": ({"instances": [{**ONE, "iscrowd": False}]}, (["cat"], [False]), ("5",)),
    "crowd true": ({"instances": [{**ONE, "iscrowd": True}]}, (["cat"], [True]), ()),
    "crowd null": ({"instances": [{**ONE, "iscrowd": None}]}, (["cat"], [False]), ("5",)),
    "crowd absent": ({"instances": [without(ONE, "iscrowd")]}, (["cat"], [False]), ("5",)),
    "a record twice": ({"instances": [ONE], "images": [IMAGE, IMAGE]}, (["cat"], [False]), ("5",)),
    "two records of a file": (
        {"instances": [ONE, {**ONE, "id": 2, "image_id": 6}], "images": [IMAGE, TWICE]},
        (["cat", "cat"], [False] * 2),
        (),
    ),
    "ids as text": (
        {
            "instances": [{**ONE, "image_id": "000005", "category_id": "3"}],
            "images": [{**IMAGE, "id": "000000000005"}],
        },
        (["cat"], [False]),
        ("5",),
    ),
    "ids as floats": ({"instances": [{**ONE, "image_id": 5.0}]}, (["cat"], [False]), ("5",)),
    "sides missing": (
        {"instances": [ONE], "images": [without(IMAGE, "height", "width")]},
        (["cat"], [False]),
        ("5",),
    ),
    "height null": (
        {"instances": [ONE], "images": [{**IMAGE, "height": None}]},
        (["cat"], [False]),
        ("5",),
    ),
    "sides as text": (
        {"instances": [ONE], "images": [{**IMAGE, "height": "6"}]},
        (["cat"], [False]),
        ("5",),
    ),
    "other images": (
        {"instances": [ONE, {**ONE, "id": 2, "image_id": 77}]},
        (["cat"], [False]),
        ("5",),
    ),
    "boxes only": (
        {"instances": [{**without(ONE, "segmentation"), "bbox": [2, 1, 3, 3]}]},
        (["cat"], [False]),
        ("5",),
    ),
    "area null": ({"instances": [{**ONE, "area": None}]}, (["cat"], [False]), ("5",)),
}


@pytest.mark.parametrize("name", READ)
def test_records_with_a_clear_meaning_are_read(tmp_path, name):
    written, (cats, crowds), single = READ[name]
    data = plant(tmp_path, **written)
    assert data.ids == ("5",)
    photograph = data.by_id(5)
    assert photograph.open().size == (W, H)
    assert photograph.size == (H, W)
    assert [one.category for one in photograph.instances] == cats
    assert [one.iscrowd for one in photograph.instances] == crowds
    assert data.single_object("cat") == single
    assert data.categories() == {"cat": "animal", "boat": ""}
    assert bool(data.lacks("masks")) == (name == "boxes only")
    assert not data.lacks("objects")
    expected = NOTHING if name == "boxes only" else SQUARE_MASK
    assert all(np.array_equal(one.mask, expected) for one in photograph.instances)


def test_both_ids_of_a_file_find_its_photograph(tmp_path):
    data = plant(tmp_path, [{**ONE, "image_id": 6}], [SAID], images=[IMAGE, TWICE])
    assert data.by_id(6) == data.by_id(5) == data[0]
    assert data[0].captions == ("a cat",)


REFUSED = {
    "a category that is not there": (
        {"instances": [{**ONE, "category_id": 4}]},
        "annotation 1: .*4 is none",
    ),
    "no categories": (
        {"instances": [ONE], "cats": []},
        "annotation 1: .*is none of the categories",
    ),
    "no category": (
        {"instances": [without(ONE, "category_id")]},
        "annotation 1: its category_id is None",
    ),
    "no image": ({"instances": [without(ONE, "image_id")]}, "annotation 1: its image_id is None"),
    "a crowd of some kind": (
        {"instances": [{**ONE, "iscrowd": "maybe"}]},
        "annotation 1: .*'maybe'",
    ),
    "an area that is none": (
        {"instances": [{**ONE, "area": math.nan}]},
        "annotation 1: its area is nan",
    ),
    "records that disagree": (
        {"instances": [ONE], "images": [IMAGE, {**IMAGE, "file_name": "b.png"}]},
        "image 5: its file_name is 'b.png', and 'a.png'",
    ),
    "sizes that disagree": (
        {"instances": [ONE], "images": [IMAGE, {**TWICE, "width": 9}]},
        "image 6: its width is 9, and 8 in the record of image 5",
    ),
    "a height of no pixels": (
        {"instances": [], "images": [{**IMAGE, "height": 0}]},
        "image 5: its height is 0",
    ),
    "no file": (
        {"instances": [], "images": [{**IMAGE, "file_name": None}]},
        "image 5: it has no file_name",
    ),
    "one name for two things": (
        {"instances": [], "cats": [*CATS, {"id": 9, "name": "cat", "supercategory": "tool"}]},
        "category 9: 'cat' is of 'tool' here",
    ),
    "one id for two names": (
        {"instances": [], "cats": [*CATS, {"id": 3, "name": "dog"}]},
        "category 3: it is 'dog' here",
    ),
    "a name that is none": ({"instances": [], "cats": [{"id": 3}]}, "category 3: it has no name"),
    "a caption that is none": (
        {"captions": [{**SAID, "caption": 4}]},
        r"captions\.json, annotation 1: its caption is 4",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_records_without_a_clear_meaning_are_refused(tmp_path, name):
    written, says = REFUSED[name]
    with pytest.raises(ValueError, match=rf"\.json, {says}|{says}"):
        plant(tmp_path, **written)


def test_captions_that_say_nothing_are_left_out(tmp_path):
    rows = [SAID, *({**SAID, "id": i, "caption": text} for i, text in enumerate((None, "", " \n")))]
    data = plant(tmp_path, None, [*rows, {"id": 9, "image_id": 5}])
    assert data.by_id(5).captions == ("a cat",)
    assert not data.lacks("captions")
    for kind in ("objects", "masks", "classes"):
        assert data.lacks(kind)
    assert data.categories() == {}


def test_a_set_has_captions_if_all_its_photographs_do(tmp_path):
    images = [IMAGE, {**IMAGE, "id": 6, "file_name": "b.png"}]
    assert plant(tmp_path, None, [SAID], images).lacks("captions").startswith("1 of 2")
    assert plant(tmp_path, [ONE], None).lacks("captions") == "no photograph has a caption"
    with pytest.raises(ValueError, match="choose from captions"):
        plant(tmp_path, [ONE]).lacks("sound")


@pytest.mark.parametrize("named", ["sub/a.png", "sub\\a.png", "a.png", "images/sub/a.png"])
def test_images_in_subfolders_are_found(tmp_path, named):
    root = tmp_path / "images"
    data = plant(tmp_path, [ONE], None, [{**IMAGE, "file_name": named}])
    for path in [*root.rglob("*.png")]:
        path.unlink()
    (root / "sub").mkdir(exist_ok=True)
    Image.new("RGB", (W, H)).save(root / "sub" / "a.png")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "a.png").write_bytes(b"junk")
    assert data[0].path == root / "sub" / "a.png"
    assert data[0].open().size == (W, H)
    if named == "a.png":
        (root / "other").mkdir()
        (root / "other" / "a.png").write_bytes(b"")
        del data._subfolders
        with pytest.raises(ValueError, match="several below"):
            data.by_id(5)


def test_some_annotations_are_needed(tmp_path):
    with pytest.raises(ValueError, match="give those of instances, captions or both"):
        plant(tmp_path)
