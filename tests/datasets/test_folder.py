"""Photographs in a folder of one's own, and what is known about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmn_utils.datasets import ClassFolders, FolderDataset, load_classes, load_dataset, pictures

KINDS = {".jpg": "JPEG", ".JPEG": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF"}
JUNK = (".ipynb_checkpoints/a.png", "__MACOSX/a.png", "._a.png", ".hidden/x.png", "notes.md")


def plant(root: Path, *names: str) -> Path:
    """Write a picture under each name."""
    for place, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (6, 4), (place, 0, 0))
        image.save(path, KINDS.get(path.suffix, "PNG"))
    return root


def write(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        (root / name.replace("__", ".")).write_text(text, encoding="utf-8")


def said(root: Path) -> dict[str, tuple[str, ...]]:
    return {one.id: one.captions for one in load_dataset("folder", root)}


def test_pictures_of_every_kind_are_found_and_nothing_else(tmp_path):
    names = [f"a{suffix}" for suffix in KINDS] + ["sub/deep/b.png"]
    data = load_dataset("folder", plant(tmp_path, *names, *JUNK))
    assert isinstance(data, FolderDataset)
    assert data.ids == tuple(sorted(names))
    assert all(one.open().size == (6, 4) for one in data)
    assert (len(data), data.name, data.words.picture) == (6, "folder", "photograph")
    assert data.by_id("sub/deep/b.png") == data[-1]
    with pytest.raises(ValueError, match=r"no photograph 'b\.png' among the 6"):
        data.by_id("b.png")
    assert [bool(data.lacks(kind)) for kind in ("captions", "objects", "masks", "classes")] == (
        [True] * 4
    )
    assert data.categories() == {}


def test_a_sample_has_at_most_what_is_there_and_begins_a_larger_one(tmp_path):
    data = load_dataset("folder", plant(tmp_path, *(f"{i}.png" for i in range(7))))
    every = data.sample(100, 3)
    assert sorted(one.id for one in every) == sorted(data.ids)
    assert data.sample(4, 3) == every[:4]


def test_captions_come_from_a_table_and_from_texts_beside(tmp_path):
    plant(tmp_path, "a.jpg", "b.png", "sub/c.png", "sub/d.png")
    write(tmp_path, a__txt="a dog\n\n two dogs \n")
    assert said(tmp_path)["a.jpg"] == ("a dog", "two dogs")
    assert load_dataset("folder", tmp_path).lacks("captions") == (
        "3 of 4 photographs have no caption"
    )
    rows = ["File,Caption", 'a.jpg,"one, two"', "b,a cat", "sub/c.png,a boat", "d.png,a house"]
    write(tmp_path, captions__csv="\ufeff" + "\r\n".join([*rows, "b,its tail", "b,"]))
    assert said(tmp_path) == {
        "a.jpg": ("one, two", "a dog", "two dogs"),
        "b.png": ("a cat", "its tail"),
        "sub/c.png": ("a boat",),
        "sub/d.png": ("a house",),
    }
    assert not load_dataset("folder", tmp_path).lacks("captions")


@pytest.mark.parametrize("separator", [";", "\t", "| "])
def test_other_separators_are_seen(tmp_path, separator):
    plant(tmp_path, "a.jpg")
    write(tmp_path, results__csv=separator.join(["image_name", "comment_number", "comment"])
          + "\n" + separator.join(["a.jpg", "0", "a dog, a cat"]))  # fmt: skip
    assert said(tmp_path) == {"a.jpg": ("a dog, a cat",)}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            "who,what\na.jpg,x\n",
            r"captions\.csv has the columns who, what: call one of them 'file'",
        ),
        ("", r"captions\.csv has the columns"),
        ("file,caption\nz.jpg,x\n", r"captions\.csv, line 2: no picture 'z\.jpg'"),
        ("file,caption\na.jpg,x\nb.png,x\n", r"line 3: 2 pictures are called 'b\.png'"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, table, says):
    plant(tmp_path, "a.jpg", "one/b.png", "two/b.png")
    write(tmp_path, captions__csv=table)
    with pytest.raises(ValueError, match=says):
        load_dataset("folder", tmp_path)


def test_subfolders_are_classes(tmp_path):
    names = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(5)]
    data = load_dataset("folder", plant(tmp_path, *names))
    assert {one.label for one in data} == {"cat", "dog"}
    assert not data.lacks("classes")
    classes = load_classes("", data)
    assert classes.classes == ("cat", "dog")
    halves = [{p.id for p in classes.sample(s, "cat", 9, seed=0)} for s in ("train", "val")]
    assert list(map(len, halves)) == [3, 2]
    assert halves[0] | halves[1] == set(names[:5])
    assert classes.sample("train", "dog", 1, 5) == classes.sample("train", "dog", 3, 5)[:1]
    for wrong in (("test", "cat"), ("train", "cow")):
        with pytest.raises(ValueError, match="unknown"):
            classes.paths(*wrong)
    plant(tmp_path, "alone.png")
    data = load_dataset("folder", tmp_path)
    assert "folders of their class" in data.lacks("classes")
    assert data.by_id("alone.png").label is None
    assert load_classes("", data).classes == ()
    assert load_classes("", data).lacks("classes")


def test_folders_of_splits_are_no_classes(tmp_path):
    plant(tmp_path, "train/cat/a.png", "val/dog/b.png")
    assert [one.label for one in load_dataset("folder", tmp_path)] == ["cat", "dog"]


def test_class_folders_pass_over_what_systems_hide(tmp_path):
    good = [f"{split}/{kind}/a.webp" for split in ("train", "val") for kind in ("cat", "dog")]
    plant(tmp_path, *good, "train/.ipynb_checkpoints/a.png", "val/__MACOSX/a.png")
    plant(tmp_path, "train/cat/._a.png", "train/cat/.ipynb_checkpoints/a.png")
    classes = ClassFolders(tmp_path)
    assert classes.classes == ("cat", "dog")
    assert [path.name for path in classes.paths("train", "cat")] == ["a.webp"]
    assert not classes.lacks("classes")
    assert isinstance(load_classes(tmp_path, None), ClassFolders)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match="needs data_root"):
        load_dataset("folder")
    with pytest.raises(FileNotFoundError, match="no folder of photographs"):
        load_dataset("folder", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"files that end in .*\.jpg"):
        load_dataset("folder", tmp_path)


@pytest.mark.parametrize("plug_in", [False, True])
def test_heic_needs_its_plug_in(tmp_path, monkeypatch, plug_in):
    """With a plug-in, made up here, its files are pictures; without, a folder of them is told."""
    monkeypatch.setattr(pictures, "reads_heic", lambda: plug_in)
    plant(tmp_path, "IMG_1.HEIC")
    if plug_in:
        (one,) = load_dataset("folder", tmp_path)
        assert np.asarray(one.open()).shape == (4, 6, 3)
        return
    with pytest.raises(
        FileNotFoundError, match=r"1 pictures.*IMG_1\.HEIC.*pip install pillow-heif"
    ):
        load_dataset("folder", tmp_path)
    plant(tmp_path, "a.jpg")
    assert load_dataset("folder", tmp_path).ids == ("a.jpg",)
