"""Photographs by folder and by caption: which, in what order, and what is said of them."""

from __future__ import annotations

import pytest

from mmn_utils.presets import data_path
from mmn_utils.smol.photographs import (
    NAMES_FILE,
    TRAIN,
    VAL,
    Shown,
    class_name,
    find_photographs,
    read_names,
    sources_of,
)
from tests.smol.sets import CAPTIONS, tiny_shown, write_captions, write_sets
from tests.tiny import tiny_images


def test_classes_come_in_order_and_have_their_names(tmp_path):
    shown = [one for one in tiny_shown(tmp_path) if one.source == "kinds"]
    folder = tmp_path / "kinds" / TRAIN
    assert shown == [
        *(
            Shown(folder / "Leopards" / f"image_{i}.png", "kinds", ("a leopard",), "leopard")
            for i in range(3)
        ),
        *(
            Shown(
                folder / "brain_coral" / f"image_{i}.png",
                "kinds",
                ("a brain coral",),
                "brain coral",
            )
            for i in range(2)
        ),
    ]


def test_captions_of_people_go_on_after_a_picture_of(tmp_path):
    shown = [one for one in tiny_shown(tmp_path) if one.source == "said"]
    assert [one.path.name for one in shown] == list(CAPTIONS)  # of gone.png there is no file
    assert shown[0].captions == ("a horse in a field", "two dogs, and a cat")
    assert shown[1].captions == ("the boat on Joshua's water", "a bird above the house")
    assert {one.name for one in shown} == {""}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (" Three men . ", "three men"),
        ("Anna rides a horse.", "Anna rides a horse"),
        ("An apple...", "an apple"),
        ("A", "a"),
    ],
)
def test_a_name_keeps_its_capital(tmp_path, written, said):
    tiny_images(1)[0].save(tmp_path / "a.png")
    (tmp_path / "set").mkdir()
    tiny_images(1)[0].save(tmp_path / "set" / "a.png")
    write_captions(tmp_path / "set", [("a.png", written)])
    assert find_photographs(tmp_path, TRAIN, {})[0].captions == (said,)


def test_what_is_judged_is_never_taught(tmp_path):
    taught = {one.path for one in tiny_shown(tmp_path)}
    judged = find_photographs(tmp_path, VAL, {})
    assert taught.isdisjoint(one.path for one in judged)
    assert [one.path.parts[-4:-1] for one in judged] == [
        ("kinds", VAL, "Leopards"),
        ("kinds", VAL, "Leopards"),
        ("kinds", VAL, "brain_coral"),
    ]
    assert sources_of(judged) == ["kinds"]  # captions of people belong to training


def test_what_a_system_hides_is_no_class_and_no_set(tmp_path):
    before = tiny_shown(tmp_path)
    for folder in (
        tmp_path / "kinds" / TRAIN / ".ipynb_checkpoints",
        tmp_path / ".set" / TRAIN / "a",
    ):
        folder.mkdir(parents=True)
        tiny_images(1)[0].save(folder / "a.png")
    (tmp_path / "kinds" / TRAIN / "Leopards" / "notes.txt").write_text("no picture")
    assert find_photographs(tmp_path, TRAIN, {"Leopards": "leopard"}) == before


@pytest.mark.parametrize("split", [TRAIN, VAL])
def test_a_folder_without_any_is_refused(tmp_path, split):
    (tmp_path / "set" / split / "class").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"no photographs to {split}: give a folder of sets"):
        find_photographs(tmp_path, split, {})
    with pytest.raises(ValueError, match="holds no photographs"):
        find_photographs(tmp_path / "none", split, {})


def test_captions_without_their_columns_are_refused(tmp_path):
    write_sets(tmp_path)
    write_captions(tmp_path / "said", [("0.png", "A horse")], ("file", "caption"))
    with pytest.raises(ValueError, match=r"captions\.csv lacks image in its row 1"):
        find_photographs(tmp_path, TRAIN, {})
    write_captions(tmp_path / "said", [("0.png", "A horse"), ("1.png", " ")])
    with pytest.raises(ValueError, match=r"captions\.csv lacks caption in its row 2"):
        find_photographs(tmp_path, TRAIN, {})


def test_the_repositorys_names_of_classes():
    names = read_names(data_path("smol", NAMES_FILE))
    assert class_name("n02102040", names) == "English springer"
    assert class_name("car_side", names) == "car"
    assert class_name("Brain_Coral", names) == "brain coral"
    assert len(set(names.values())) == len(names)
