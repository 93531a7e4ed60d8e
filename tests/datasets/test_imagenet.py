"""Folders of classes: ImageNet's, and the miniature's."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mmn_utils.datasets import ClassFolders

COUNTS = {"train": 4, "val": 2}


def plant(root: Path, classes=("n01", "n02", "n03")) -> Path:
    for split, count in COUNTS.items():
        for class_name in classes:
            folder = root / split / class_name
            folder.mkdir(parents=True)
            for i in range(count):
                suffix = ".JPEG" if i % 2 else ".png"
                Image.new("L", (9, 7)).save(folder / f"{class_name}_{i}{suffix}", format="PNG")
            (folder / "notes.txt").write_text("not an image")
    return root


def test_classes_and_samples(tmp_path):
    folders = ClassFolders(plant(tmp_path))
    assert folders.classes == ("n01", "n02", "n03")
    assert len(folders.paths("train", "n01")) == 4
    drawn = folders.sample("val", "n02", 2, seed=0)
    assert {p.id for p in drawn} == {"val/n02/n02_0.png", "val/n02/n02_1.JPEG"}
    assert {p.label for p in drawn} == {"n02"}
    assert drawn[0].open().mode == "RGB"
    assert drawn[0].captions == drawn[0].instances == ()


def test_samples_repeat_and_begin_larger_ones(tmp_path):
    folders = ClassFolders(plant(tmp_path))
    drawn = folders.sample("train", "n01", 4, seed=3)
    assert folders.sample("train", "n01", 2, seed=3) == drawn[:2]
    with pytest.raises(ValueError, match="5 asked for, but there are 4 train images of 'n01'"):
        folders.sample("train", "n01", 5, seed=3)


def test_names_from_a_mapping_and_from_imagenets_list(tmp_path):
    plant(tmp_path / "data")
    listing = tmp_path / "names.txt"
    listing.write_text("n01 tench, Tinca tinca\nn02 crane\n\nn03 crane\nn09 unused\n")
    for names in ({"n01": "tench", "n02": "crane", "n03": "crane"}, listing, str(listing)):
        folders = ClassFolders(tmp_path / "data", names)
        (drawn,) = folders.sample("train", "tench", 1, seed=0)
        assert drawn.label == "tench"
        assert drawn.id.startswith("train/n01/")
        assert folders.sample("train", "n01", 1, seed=0) == [drawn]
        with pytest.raises(ValueError, match=r"\['n02', 'n03'\]"):
            folders.paths("train", "crane")
    with pytest.raises(ValueError, match="no names for 2 classes, the first is 'n02'"):
        ClassFolders(tmp_path / "data", {"n01": "tench"})


@pytest.mark.parametrize("split", ["test", "Val", "validation", ""])
def test_split_names_are_strict(tmp_path, split):
    folders = ClassFolders(plant(tmp_path))
    with pytest.raises(ValueError, match="unknown split"):
        folders.sample(split, "n01", 1, seed=0)


def test_unknown_classes_are_refused(tmp_path):
    folders = ClassFolders(plant(tmp_path))
    for wrong in ("n04", "../val/n01", ""):
        with pytest.raises(ValueError, match="unknown class"):
            folders.paths("train", wrong)


def test_missing_and_unequal_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image-net\.org"):
        ClassFolders(tmp_path / "nowhere")
    root = plant(tmp_path / "data")
    (root / "val" / "n99").mkdir()
    with pytest.raises(ValueError, match="n99"):
        ClassFolders(root)
