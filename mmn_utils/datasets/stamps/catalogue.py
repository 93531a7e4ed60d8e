"""The list of cut-outs that are used, and the cut-outs themselves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from PIL import Image

from mmn_utils.presets import data_path

LIST = data_path("stamps", "stamps.csv")
COLUMNS = ("file", "category", "supercategory", "split", "counted", "mirror", "sha256")
SPLITS = ("train", "val")
VISIBLE = 8  # alpha below it counts as the empty margin around a cut-out
YES_NO = {"yes": True, "no": False}


@dataclass(frozen=True)
class Entry:
    """A line of the list.

    Attributes:
        file: path below the package's folder of stamps.
        category, supercategory: what it shows, as in COCO.
        split: which class folders show it; scenes show every one.
        counted: whether an article stands before the noun ("a horse", but "broccoli").
        mirror: whether it may be turned left to right.
        sha256: of the file's bytes.
    """

    file: str
    category: str
    supercategory: str
    split: str
    counted: bool
    mirror: bool
    sha256: str


@dataclass(frozen=True)
class Stamp:
    """A cut-out: its line of the list and its pixels, RGBA, without the empty margin."""

    entry: Entry
    image: Image.Image = field(repr=False, compare=False)


def read_list(path: str | Path = LIST) -> tuple[Entry, ...]:
    """Read a list of cut-outs, a CSV file with the columns of ``COLUMNS``.

    ValueError, naming file and line, for other columns, other values than the column has, a file
    twice and a category in two supercategories; FileNotFoundError where there is no list.
    """
    path = Path(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has the columns {rows.fieldnames}: give {', '.join(COLUMNS)}")
        entries = tuple(_entry(row, f"{path}, line {rows.line_num}") for row in rows)
    _check(entries, path)
    return entries


def _entry(row: Mapping[str, str | None], where: str) -> Entry:
    for column in COLUMNS:
        if not row[column]:
            raise ValueError(f"{where}: no {column}: fill it in")
    for column, known in (("split", SPLITS), ("counted", YES_NO), ("mirror", YES_NO)):
        if row[column] not in known:
            raise ValueError(f"{where}: {column} is {row[column]!r}: give {' or '.join(known)}")
    flags = {column: YES_NO[row[column]] for column in ("counted", "mirror")}
    return Entry(**{**row, **flags})


def _check(entries: Sequence[Entry], path: Path) -> None:
    if len({entry.category for entry in entries}) < 2:
        raise ValueError(f"{path} has fewer than two categories: scenes of two things need two")
    files: set[str] = set()
    above: dict[str, str] = {}
    for entry in entries:
        if entry.file in files:
            raise ValueError(f"{path} lists {entry.file} twice: take one line out")
        files.add(entry.file)
        if above.setdefault(entry.category, entry.supercategory) != entry.supercategory:
            raise ValueError(
                f"{path} has {entry.category!r} in {above[entry.category]!r} and in "
                f"{entry.supercategory!r}: give it one supercategory"
            )


def stamps_from(entries: Sequence[Entry], files: Mapping[str, bytes]) -> tuple[Stamp, ...]:
    """Open the cut-outs of a list from the bytes of their files.

    ValueError names a file whose bytes are not those of the list, and one where nothing is seen.
    """
    return tuple(_stamp(entry, files[entry.file]) for entry in entries)


def _stamp(entry: Entry, content: bytes) -> Stamp:
    found = sha256(content).hexdigest()
    if found != entry.sha256:
        raise ValueError(
            f"{entry.file} has the SHA256 {found}, the list says {entry.sha256}: it is of another "
            "version of the package; give the .deb of the version that data/stamps/README.md names"
        )
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha >= VISIBLE)).getbbox()
    if box is None:
        raise ValueError(f"{entry.file} is transparent throughout: take it off the list")
    return Stamp(entry, image.crop(box))
