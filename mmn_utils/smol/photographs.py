"""The photographs to learn from and to be judged by, and what is said of each.

A folder holds sets: one with ``train`` and ``val`` has a folder of photographs for each class
(Caltech-101, Imagenette, or a choice of ImageNet), one with ``captions.csv`` (columns image,
caption) has captions of people. Names of classes are those of their folders, underscores as
blanks, unless ``classes.csv`` (columns folder, name) says better. What was taught is never what
is judged: a class's ``val`` photographs are not read in training.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmn_utils.datasets.articles import article
from mmn_utils.datasets.imagenet import pictures_in
from mmn_utils.datasets.pictures import is_visible

CAPTIONS = "captions.csv"
NAMES_FILE = "classes.csv"
TRAIN, VAL = "train", "val"


@dataclass(frozen=True)
class Shown:
    """A photograph with what may be said of it: captions without full stop, and its class."""

    path: Path
    source: str  # its set
    captions: tuple[str, ...]
    name: str = ""  # of its class, "" where it has none


def read_names(file: Path) -> dict[str, str]:
    """Read better names of classes by their folders."""
    return {row["folder"]: row["name"] for row in _rows(file, "folder", "name")}


def _rows(file: Path, *columns: str) -> list[dict[str, str]]:
    """Read a table; ``ValueError`` where a column is missing, or something in it."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows, start=1):
        lacking = [name for name in columns if not (row.get(name) or "").strip()]
        if lacking:
            raise ValueError(f"{file} lacks {', '.join(lacking)} in its row {number}")
    return rows


def class_name(folder: str, names: Mapping[str, str]) -> str:
    """Name a class by its folder."""
    return names.get(folder, folder.replace("_", " ").casefold())


def find_photographs(folder: Path, split: str, names: Mapping[str, str]) -> list[Shown]:
    """List a split's photographs, sets and classes in the order of their names.

    Captioned sets belong to ``train``; of what captions are for, only files that are there.
    ``ValueError`` for a folder without any.
    """
    found: list[Shown] = []
    for one in _folders(folder):
        if (one / split).is_dir():
            found += _of_classes(one, split, names)
        elif split == TRAIN and (one / CAPTIONS).is_file():
            found += _captioned(one)
    if not found:
        raise ValueError(
            f"{folder} holds no photographs to {split}: give a folder of sets, each with "
            f"{split}/CLASS/*.jpg or with photographs and {CAPTIONS}"
        )
    return found


def _of_classes(one: Path, split: str, names: Mapping[str, str]) -> Iterator[Shown]:
    for folder in _folders(one / split):
        name = class_name(folder.name, names)
        for path in pictures_in(folder):
            yield Shown(path, one.name, (f"{article(name)} {name}",), name)


def _captioned(one: Path) -> Iterator[Shown]:
    captions: dict[str, list[str]] = {}
    for row in _rows(one / CAPTIONS, "image", "caption"):
        captions.setdefault(row["image"], []).append(_plain(row["caption"]))
    for image in sorted(captions):
        if (one / image).is_file():
            yield Shown(one / image, one.name, tuple(captions[image]))


def _folders(folder: Path) -> list[Path]:
    """List the folders right in a folder by their names, none that a system hides."""
    return sorted(path for path in folder.glob("*") if path.is_dir() and is_visible(path))


def _plain(caption: str) -> str:
    """Return a caption as it goes on after "A picture of".

    Without full stop, and without the capital of an article or a number; a name keeps its own.
    """
    text = caption.strip().rstrip(".").strip().replace(" ,", ",")
    first, _, rest = text.partition(" ")
    lowered = first.lower() if first.lower() in _STARTS else first
    return f"{lowered} {rest}".strip()


_STARTS = frozenset(("a", "an", "the", "two", "three", "four", "five", "some", "several", "one"))


def sources_of(shown: Sequence[Shown]) -> list[str]:
    """List the sets of photographs, in the order of their names."""
    return sorted({one.source for one in shown})
