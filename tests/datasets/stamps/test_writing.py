"""The data set on disk, as it is written and as it is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmn_utils.datasets import CocoDataset, load_classes, load_dataset
from mmn_utils.datasets.stamps import __main__ as command
from mmn_utils.datasets.stamps import read_credits, writing
from mmn_utils.datasets.stamps.composition import choose, compose
from mmn_utils.datasets.stamps.writing import Order, make

ORDER = Order(scenes=7, class_pictures=(3, 2), seed=5)


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def home(fake, tmp_path) -> Path:
    assert make(fake.folder, ORDER, tmp_path / "made", fake.list)
    return tmp_path / "made"


def test_the_same_order_gives_the_same_bytes_and_another_seed_others(fake, home, tmp_path):
    assert make(fake.folder, ORDER, tmp_path / "again", fake.list)
    assert files(home) == files(tmp_path / "again")
    other = Order(ORDER.scenes, ORDER.class_pictures, seed=6)
    assert make(fake.folder, other, tmp_path / "other", fake.list)
    assert (
        files(home)["images/val/000001.jpg"] != files(tmp_path / "other")["images/val/000001.jpg"]
    )


def test_scenes_open_as_a_data_set_with_the_masks_that_were_composed(fake, home):
    data = load_dataset("stamps", home)
    assert isinstance(data, CocoDataset)
    assert (data.name, data.ids) == ("stamps", tuple(str(n) for n in range(1, 8)))
    assert data.categories() == {
        "horse": "animal", "orange": "food", "broccoli": "food", "apple": "food"
    }  # fmt: skip
    for kind in ("captions", "objects", "masks"):
        assert data.lacks(kind) == ""
    for number, shown in enumerate(choose(fake.stamps(), 7, 5), start=1):
        photograph, scene = data.by_id(number), compose(shown, np.random.default_rng([5, number]))
        assert [one.category for one in photograph.instances] == [
            stamp.entry.category for stamp in shown
        ]
        for one, thing in zip(photograph.instances, scene.things, strict=True):
            assert np.array_equal(one.mask, thing.mask)
            assert one.area == thing.mask.sum() > 0
        # JPEG at this quality: a few levels off on average
        difference = np.asarray(photograph.open(), float) - scene.pixels
        assert np.abs(difference).mean() < 4
        assert len(set(photograph.captions)) == 5
    assert data.words.picture == "composed photograph"


def test_class_folders_keep_cut_outs_of_training_and_validation_apart(home, monkeypatch, fake):
    folders = load_classes(home / "classes", load_dataset("stamps", home))
    assert folders.classes == ("apple", "horse")  # the others have cut-outs of one split alone
    assert [len(folders.paths(split, "horse")) for split in ("train", "val")] == [3, 2]
    assert folders.sample("val", "horse", 1, 0)[0].open().size == (320, 240)
    assert folders.words.picture == "composed photograph"
    shown: dict[str, set[str]] = {}

    def record(stamps, rng):
        scene = compose(stamps, rng)
        shown.setdefault(stamps[0].entry.split, set()).add(stamps[0].entry.file)
        return scene

    monkeypatch.setattr(writing, "compose", record)
    writing.write_classes(home / "once-more", fake.stamps(), ORDER)
    assert shown["train"].isdisjoint(shown["val"])
    assert files(home / "once-more") == files(home / "classes")


def test_scenes_have_no_classes_of_their_own_and_say_so(home):
    own = load_classes("", load_dataset("stamps", home))
    assert own.classes == ()
    assert "folders of their class" in own.lacks("classes")


def test_what_is_there_is_left_and_nothing_is_asked_for(fake, home):
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    assert make("/nowhere", ORDER, home, fake.list) is False
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Order(8, (3, 2), 5), r"scenes of \{'scenes': 7\}, not of \{'scenes': 8\}: remove it"),
        (Order(7, (3, 2), 6), r"\{'seed': 5\}, not of \{'seed': 6\}"),
        (Order(7, (3, 3), 5), r"'class_pictures': \[3, 2\]"),
    ],
)
def test_scenes_of_another_order_are_never_replaced(fake, home, order, message):
    before = files(home)
    with pytest.raises(ValueError, match=message):
        make(fake.folder, order, home, fake.list)
    assert files(home) == before


def test_a_folder_of_other_files_is_never_replaced(fake, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="mine holds other files"):
        make(fake.folder, ORDER, tmp_path / "mine", fake.list)
    assert files(tmp_path / "mine") == {"letter.txt": b"dear"}


def test_a_writing_that_fails_leaves_nothing(fake, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(writing, "write_classes", fail)
    with pytest.raises(OSError, match="disk full"):
        make(fake.folder, ORDER, tmp_path / "out" / "made", fake.list)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [((0,), "scenes = 0"), ((3, (1, 0)), "class_pictures"), ((3, (-1, 2)), "class_pictures"),
     ((3, (0, 0), -1), "seed = -1")],
)  # fmt: skip
def test_orders_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Order(*values)


def test_without_class_pictures_there_are_no_class_folders(fake, tmp_path):
    assert make(fake.folder, Order(1, (0, 0)), tmp_path / "made", fake.list)
    assert not (tmp_path / "made" / "classes").exists()


def test_missing_scenes_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="make stamps"):
        load_dataset("stamps", tmp_path)
    with pytest.raises(FileNotFoundError, match="make stamps"):
        read_credits(tmp_path)


def test_the_credit_says_whose_and_under_which_licence(home):
    line = read_credits(home).line
    for part in ("Bill Kendrick", "tuxpaint-stamps-default 2022.06.04-1", "version 2 or later"):
        assert part in line
    assert line.count(". ") == 0  # one sentence
    assert load_dataset("stamps", home).credit == read_credits(home).notice
    assert read_credits(home).notice.startswith(f"{line} So are the figures")


def test_the_command_makes_the_data_set_once(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        command, "make", lambda given, order, home: make(given, order, home, fake.list)
    )
    place = str(tmp_path / "made")
    arguments = [str(fake.folder), "--scenes", "2", "--class-pictures", "0", "0", "--data", place]
    for said in ("2 scenes made in", "2 scenes are in"):
        assert command.main(arguments) == 0
        told = capsys.readouterr().out
        assert said in told
        assert "Bill Kendrick" in told
    assert command.main([*arguments, "--seed", "1"]) == 2
    assert "error: " in capsys.readouterr().err
    assert command.main(["/nowhere", "--data", str(tmp_path / "other")]) == 2
    assert "nothing at /nowhere" in capsys.readouterr().err
