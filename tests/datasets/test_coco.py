"""The reader of COCO's format, on planted annotations and on 159 real photographs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmn_utils.datasets import CocoDataset, Photograph, load_dataset
from mmn_utils.datasets.base import decode_mask
from mmn_utils.presets import data_path
from tests.photographs import find_coco_mini

# --- planted annotations ---------------------------------------------------------------


CATEGORIES = [
    {"id": 3, "name": "cat", "supercategory": "animal"},
    {"id": 7, "name": "boat", "supercategory": "vehicle"},
]
SQUARE = [[2, 1, 5, 1, 5, 4, 2, 4]]  # x 2 to 5, y 1 to 4
CROWD = {"size": [6, 8], "counts": [0, 6, 42]}  # the first column
IMAGES = {
    # number: (file, width, height, annotations: (category, segmentation, iscrowd))
    12: ("b.jpg", 8, 6, [(3, SQUARE, 0), (7, SQUARE, 0), (7, SQUARE, 0)]),
    5: ("a.jpg", 8, 6, [(3, SQUARE, 0), (3, CROWD, 1)]),
    40: ("c.jpg", 8, 6, [(3, CROWD, 1)]),
    41: ("d.jpg", 8, 6, [(7, [], 0), (3, [[1, 1, 4, 4]], 0)]),
    100: ("e.jpg", 6, 8, []),
}


def plant(root: Path, split: str = "val2017") -> Path:
    """Write a small data set in COCO's layout; return its root."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir()
    images, instances, captions = [], [], []
    for number, (name, width, height, objects) in IMAGES.items():
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        Image.new("RGB", (width, height), (number, 0, 0)).save(root / split / name, quality=100)
        for category, segmentation, crowd in objects:
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": number,
                    "category_id": category,
                    "segmentation": segmentation,
                    "iscrowd": crowd,
                    "area": 9.0,
                }
            )
        if objects:
            captions += [
                {"id": len(captions) + i, "image_id": number, "caption": f" caption {i}\n"}
                for i in range(5)
            ]
    for kind, rows in (("instances", instances), ("captions", captions)):
        content = {"images": images, "annotations": rows}
        if kind == "instances":
            content["categories"] = CATEGORIES
        (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def planted(tmp_path: Path) -> CocoDataset:
    return load_dataset("coco_val2017", root=plant(tmp_path))


def test_order_ids_and_access(planted):
    assert planted.ids == ("5", "12", "40", "41", "100")
    assert len(planted) == len(list(planted)) == 5
    assert planted[0].id == "5"
    assert planted[-1].id == "100"
    assert planted.by_id(12) == planted.by_id("12") == planted.by_id("000000000012") == planted[1]
    assert planted.categories() == {"cat": "animal", "boat": "vehicle"}
    assert "5 photographs" in repr(planted)
    with pytest.raises(IndexError):
        planted[5]
    with pytest.raises(ValueError, match="'99'"):
        planted.by_id("99")


def test_what_a_photograph_carries(planted):
    photograph = planted.by_id(5)
    assert photograph.captions == tuple(f"caption {i}" for i in range(5))
    assert [one.category for one in photograph.instances] == ["cat", "cat"]
    assert [one.iscrowd for one in photograph.instances] == [False, True]
    assert photograph.instances[0].supercategory == "animal"
    assert photograph.size == (6, 8)
    image = photograph.open()
    assert (image.mode, image.size) == ("RGB", (8, 6))
    bare = planted.by_id(100)
    assert bare.captions == ()
    assert bare.instances == ()


def test_masks_of_polygons_and_crowds(planted):
    square, crowd = (one.mask for one in planted.by_id(5).instances)
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:4, 2:5] = True
    assert square.dtype == bool
    assert np.array_equal(square, expected)
    assert crowd[:, 0].all()
    assert not crowd[:, 1:].any()
    assert np.array_equal(planted.by_id(5).mask("cat"), square | crowd)
    with pytest.raises(ValueError, match="no 'boat' in photograph 5"):
        planted.by_id(5).mask("boat")


def test_empty_and_degenerate_masks_are_empty(planted):
    """Four numbers are two points, not the box that pycocotools takes them for."""
    for one in planted.by_id(41).instances:
        assert one.mask.shape == (6, 8)
        assert not one.mask.any()


def test_single_objects_exclude_pairs_and_crowds(planted):
    assert planted.single_object("cat") == ("12", "41")
    assert planted.single_object("boat") == ("41",)
    with pytest.raises(ValueError, match="no category 'dog'"):
        planted.single_object("dog")


def test_samples_repeat_and_begin_larger_ones(planted):
    drawn = [photograph.id for photograph in planted.sample(5, seed=1)]
    assert sorted(drawn) == sorted(planted.ids)
    assert [photograph.id for photograph in planted.sample(3, seed=1)] == drawn[:3]
    assert any([p.id for p in planted.sample(5, seed)] != drawn for seed in range(2, 6))
    assert planted.sample(0, seed=1) == []
    with pytest.raises(ValueError, match="6 asked for, but there are 5"):
        planted.sample(6, seed=1)


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.data(),
)
def test_all_forms_of_run_lengths_decode_alike(height, width, data):
    """Property: a mask survives plain and compressed run lengths."""
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits, dtype=bool).reshape(height, width)
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = np.concatenate([[False], mask.T.reshape(-1)])
    changes = np.flatnonzero(np.diff(flat.astype(int)))
    plain = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    for runs in (compressed, {"size": [height, width], "counts": plain}):
        assert np.array_equal(decode_mask(runs, (height, width)), mask)


def test_run_lengths_of_another_photograph_are_refused():
    with pytest.raises(ValueError, match="belongs to another image"):
        decode_mask(CROWD, (8, 6))


# --- files that are missing or wrong ---------------------------------------------------


def test_missing_parts_are_named_with_their_address(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_dataset("coco_val2017", root=tmp_path)
    text = str(error.value)
    for part in ("val2017.zip", "instances_val2017.json", "captions_val2017.json", "COCO_ROOT"):
        assert part in text
    plant(tmp_path)
    (tmp_path / "annotations" / "captions_val2017.json").unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_dataset("coco_val2017", root=tmp_path)
    assert "captions_val2017.json" in str(error.value)
    assert "instances_val2017.json" not in str(error.value)


def test_the_root_may_stand_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("COCO_ROOT", str(plant(tmp_path)))
    assert len(load_dataset("coco_val2017")) == 5


def test_missing_parts_given_one_by_one(tmp_path):
    root = plant(tmp_path)
    instances, captions = (
        root / "annotations" / f"{kind}_val2017.json" for kind in ("instances", "captions")
    )
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        CocoDataset(root / "nowhere", instances, captions)
    with pytest.raises(FileNotFoundError, match="no annotations at"):
        CocoDataset(root / "val2017", root / "nowhere.json", captions)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"images": []}', '{"annotations": [{}]}'])
def test_files_of_another_format_are_refused(tmp_path, content):
    root = plant(tmp_path)
    (root / "annotations" / "instances_val2017.json").write_text(content)
    with pytest.raises(ValueError, match="not in COCO's format"):
        load_dataset("coco_val2017", root=root)


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="miniature/looks"):
        load_dataset("cocoa")


def test_scenes_are_read_by_the_same_class(tmp_path):
    with pytest.raises(FileNotFoundError, match="make miniature"):
        load_dataset("miniature", root=tmp_path)
    for name, split in (("miniature", "val"), ("miniature/looks", "looks")):
        root = plant(tmp_path / split, split)
        (root / "images").mkdir()
        (root / split).rename(root / "images" / split)
        scenes = load_dataset(name, root=root)
        assert isinstance(scenes, CocoDataset)
        assert scenes.name == name
        assert scenes[0].open().size == (8, 6)


# --- photographs of every kind ---------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(5, 4), (1, 1)])
def test_every_mode_opens_as_rgb(tmp_path, mode, size):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new(mode, size).save(path)
    opened = Photograph("x", path).open()
    assert (opened.mode, opened.size, opened.info) == ("RGB", size, {})


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "image.png")
    assert Photograph("x", tmp_path / "image.png").open().getpixel((0, 0)) == (255, 255, 255)


def test_rotation_follows_the_annotation(tmp_path):
    """EXIF turns a photograph, unless its annotation is of the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "image.jpg"
    Image.new("RGB", (8, 6)).save(path, exif=exif)
    assert Photograph("x", path).open().size == (6, 8)
    assert Photograph("x", path, size=(6, 8)).open().size == (8, 6)
    assert Photograph("x", path, size=(8, 6)).open().size == (6, 8)
    assert not dict(Photograph("x", path).open().getexif())


def test_photographs_that_cannot_be_opened_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        Photograph("x", tmp_path / "gone.jpg").open()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        Photograph("x", broken).open()
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 50).save(whole)
    broken.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        Photograph("x", broken).open()
    with pytest.raises(ValueError, match="64 x 64 pixels, its annotation 64 x 63"):
        Photograph("x", whole, size=(64, 63)).open()


# --- real photographs ------------------------------------------------------------------


@pytest.fixture(scope="module", params=["val2017", "train2017"])
def real(request) -> tuple[CocoDataset, COCO]:
    root = find_coco_mini()
    if root is None:
        pytest.skip("no shared/data/coco_mini above the repository, MMN_COCO_MINI not set")
    annotations = root / "annotations" / f"instances_{request.param}.json"
    return load_dataset(f"coco_{request.param}", root=root), COCO(str(annotations))


def test_real_photographs_open_in_their_annotated_size(real):
    dataset, _ = real
    assert len(dataset) in (79, 80)
    sizes = set()
    for photograph in dataset:
        image = photograph.open()
        assert image.mode == "RGB"
        assert (image.height, image.width) == photograph.size
        assert len(photograph.captions) >= 5
        assert all(photograph.captions)
        sizes.add(photograph.size)
    assert len(sizes) > 5


def test_real_masks_are_pycocotools(real):
    """Every mask, crowds included, equals pycocotools' own; an object's has nearly its area."""
    dataset, reference = real
    crowds = 0
    for photograph in dataset:
        annotations = reference.imgToAnns[int(photograph.id)]
        assert len(annotations) == len(photograph.instances)
        for one, annotation in zip(photograph.instances, annotations, strict=True):
            mask = one.mask
            assert mask.shape == photograph.size
            assert np.array_equal(mask, reference.annToMask(annotation).astype(bool))
            if not one.iscrowd:  # COCO states crowds' areas more generously
                assert mask.sum() == pytest.approx(one.area, rel=0.06, abs=20)
            crowds += one.iscrowd
    assert crowds > 0


def test_real_greyscale_photographs_are_among_them(real):
    dataset, _ = real
    modes = set()
    for photograph in dataset:
        with Image.open(photograph.path) as stored:
            modes.add(stored.mode)
            if stored.mode == "L":
                red, green, blue = photograph.open().split()
                assert red.tobytes() == green.tobytes() == blue.tobytes()
    assert "RGB" in modes


def test_real_single_objects(real):
    dataset, reference = real
    assert len(dataset.categories()) == 80
    for category in ("person", "dog", "train"):
        number = reference.getCatIds(catNms=[category])[0]
        for image_id in dataset.ids:
            found = [a for a in reference.imgToAnns[int(image_id)] if a["category_id"] == number]
            single = len(found) == 1 and not found[0]["iscrowd"]
            assert (image_id in dataset.single_object(category)) == single


# --- the miniature's scenes ------------------------------------------------------------


@pytest.mark.parametrize("name", ["miniature", "miniature/looks"])
def test_the_shipped_scenes_are_whole(name):
    """Every scene has a picture of 112 pixels, five captions and objects with masks."""
    if not data_path("miniature", "coco").is_dir():
        pytest.skip("data/miniature/coco is absent; make it with 'make miniature'")
    scenes = load_dataset(name)
    for scene in scenes.sample(min(50, len(scenes)), seed=0):
        assert scene.open().size == (112, 112)
        assert len(scene.captions) == 5
        assert 1 <= len(scene.instances) <= 3
        assert all(one.mask.any() and one.supercategory for one in scene.instances)
