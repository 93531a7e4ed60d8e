"""The list of cut-outs, and the cut-outs as they are opened."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from mmn_utils.datasets.stamps.catalogue import COLUMNS, LIST, read_list, stamps_from
from mmn_utils.datasets.stamps.package import read_files
from tests.datasets.stamps.conftest import write_list

ROW = ("a.png", "horse", "animal", "train", "yes", "no", "00")
OTHER = ("b.png", "apple", "food", "val", "yes", "no", "11")


def with_(row: tuple[str, ...], **changed: str) -> tuple[str, ...]:
    return tuple({**dict(zip(COLUMNS, row, strict=True)), **changed}.values())


def test_the_list_of_the_repository_can_be_used():
    entries = read_list()
    with LIST.open(encoding="utf-8") as file:
        assert len(entries) == len(list(csv.reader(file))) - 1
    assert len({entry.category for entry in entries}) >= 90
    assert len({entry.sha256 for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.category == entry.category.strip().lower()
        assert len(entry.sha256) == 64
        assert not Path(entry.file).is_absolute()
        assert ".." not in entry.file


def test_a_list_is_read_as_it_is(fake):
    entries = fake.entries()
    assert [entry.category for entry in entries[:4]] == ["horse", "horse", "orange", "broccoli"]
    assert [entry.counted for entry in entries[:4]] == [True, True, True, False]
    assert [entry.mirror for entry in entries[:4]] == [True, True, False, True]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, with_(OTHER, split="test")], r"line 3: split is 'test': give train or val"),
        ([ROW, with_(OTHER, counted="1")], r"line 3: counted is '1': give yes or no"),
        ([with_(ROW, category=""), OTHER], r"line 2: no category: fill it in"),
        ([ROW, OTHER[:-1]], r"line 3: no sha256"),
        ([ROW, with_(OTHER, file="a.png")], r"lists a\.png twice"),
        ([ROW, OTHER, with_(OTHER, file="c", supercategory="plant")], "'apple' in 'food' and in"),
        ([ROW], "fewer than two categories"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_list(write_list(tmp_path / "list.csv", rows))


def test_other_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match="give file, category"):
        read_list(write_list(tmp_path / "list.csv", [ROW[:2]], COLUMNS[:2]))


def test_cut_outs_lose_their_empty_margin_and_nothing_else(fake):
    for stamp in fake.stamps():
        alpha = np.asarray(stamp.image)[..., 3]
        assert stamp.image.mode == "RGBA"
        for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
            assert edge.max() >= 8
        assert 30 < min(alpha.shape) < 90


def test_another_version_of_a_file_is_refused(fake):
    entries = fake.entries()
    files = read_files(fake.folder, [entry.file for entry in entries])
    name = entries[2].file
    with pytest.raises(ValueError, match=rf"{name} has the SHA256 .* another version"):
        stamps_from(entries, {**files, name: files[name] + b" "})
