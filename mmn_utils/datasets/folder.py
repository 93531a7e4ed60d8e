"""Photographs in a folder of one's own, with whatever is known about them beside them.

    photographs/
        beach.jpg                pictures, also in subfolders: JPEG, PNG, WebP, TIFF, and HEIC
        beach.txt                captions of the picture of that name, one a line
        captions.csv             or a table: a column of files, a column of captions
        dogs/rex.png             a subfolder is the class of the pictures in it

Nothing but the pictures has to be there. What a system hides (``.ipynb_checkpoints``,
``__MACOSX``, names with a dot in front) is passed over.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmn_utils.datasets.base import Photograph, draw, lacking
from mmn_utils.datasets.imagenet import SPLITS, ClassFolders, card_of
from mmn_utils.datasets.pictures import HEIC, is_visible, readable_suffixes
from mmn_utils.datasets.words import words_from

FILE_COLUMNS = ("file", "file_name", "filename", "image", "image_name", "picture", "photograph")
CAPTION_COLUMNS = ("caption", "captions", "comment", "text", "description")
TABLE, BESIDE = ".csv", ".txt"


class FolderDataset:
    """The photographs below a folder, by their path in it, in the order of these paths.

    The path, with "/" between its parts, is the id. ``label`` is the first subfolder that a
    picture lies in, past one called train or val. ``words`` are the set's nouns, which
    <root>/words.json may give (``datasets.words``).
    """

    def __init__(self, root: str | Path, name: str = "folder") -> None:
        """Find pictures and captions.

        FileNotFoundError where there is no folder or no picture in it, and ValueError where a
        table of captions cannot be read or names a picture that is not there.
        """
        self.name, self.root = name, Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"no folder of photographs at {str(root)!r}: give its path as data_root"
            )
        files = sorted(_visible_files(self.root), key=lambda p: p.relative_to(self.root).as_posix())
        found = [path for path in files if path.suffix.lower() in readable_suffixes()]
        if not found:
            raise FileNotFoundError(_why_none(self.root, files))
        captions = _captions(self.root, files, found)
        self._photographs = {
            id: Photograph(id=id, path=path, captions=captions[path], label=_label(id))
            for id, path in ((path.relative_to(self.root).as_posix(), path) for path in found)
        }
        self.ids: tuple[str, ...] = tuple(self._photographs)
        self.words = words_from(*card_of(self.root))

    def __repr__(self) -> str:
        return f"FolderDataset({str(self.root)!r}, {len(self)} {self.words.pictures})"

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Photograph]:
        return iter(self._photographs.values())

    def __getitem__(self, index: int) -> Photograph:
        """Return the photograph at a place in the order of ``ids``."""
        return self._photographs[self.ids[index]]

    def by_id(self, image_id: str) -> Photograph:
        """Return a photograph by its path in the folder; ValueError where there is none."""
        if image_id not in self._photographs:
            raise ValueError(f"no photograph {image_id!r} among the {len(self)} of {self.root}")
        return self._photographs[image_id]

    def lacks(self, what: str) -> str:
        """Say why the set does not have ``what`` (``base.KINDS``), "" where it has it."""
        labels = [photograph.label for photograph in self]
        return lacking(
            what,
            captions=[bool(photograph.captions) for photograph in self],
            classes=all(labels) and len(set(labels)) > 1,
        )

    def categories(self) -> dict[str, str]:
        """Return the categories of annotated objects: none."""
        return {}

    def sample(self, n: int, seed: int) -> list[Photograph]:
        """Draw up to ``n`` photographs without replacement; a smaller draw begins a larger one.

        All of them where the folder has no more: what somebody's folder holds, nobody counts.
        """
        what = f"{self.words.pictures} in {self.root}"
        return [self.by_id(i) for i in draw(self.ids, min(n, len(self)), seed, what)]


class OwnClasses(ClassFolders):
    """The classes of a data set of one's own, each photograph in train or in val.

    Every second one of a class, by its path, is for val, so that no unit is watched on a picture
    that it was found on. There are none where the data set lacks them.
    """

    def __init__(self, data: Any) -> None:
        """Part the photographs of a data set (``FolderDataset`` or ``CocoDataset``) by label."""
        self.root, self.words, self._data = Path(data.name), data.words, data
        self._of: dict[str, dict[Path, Photograph]] = {}
        for photograph in () if data.lacks("classes") else data:
            self._of.setdefault(photograph.label, {})[photograph.path] = photograph
        self.classes = tuple(sorted(self._of))
        self.names = {name: name for name in self.classes}

    def lacks(self, what: str) -> str:
        """Say why the classes' data set does not have ``what``, "" where it has it."""
        return self._data.lacks(what)

    def paths(self, split: str, class_name: str) -> tuple[Path, ...]:
        """Return half of a class's picture files, sorted; errors as of ``ClassFolders``."""
        paths = self._of[self._known(split, class_name)]
        return tuple(list(paths)[SPLITS.index(split) :: len(SPLITS)])

    def sample(self, split: str, class_name: str, n: int, seed: int) -> list[Photograph]:
        """Draw up to ``n`` photographs of a class, all of its split where there are no more."""
        paths = self.paths(split, class_name)
        drawn = draw(paths, min(n, len(paths)), seed, f"{split} images of {class_name!r}")
        return [self._of[class_name][path] for path in drawn]


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if is_visible(path):
            yield from _visible_files(path) if path.is_dir() else (path,)


def _why_none(root: Path, files: list[Path]) -> str:
    heic = [path.name for path in files if path.suffix.lower() in HEIC]
    if heic:
        return (
            f"{len(heic)} pictures in {root} are HEIC, such as {heic[0]}, and none is anything "
            "else: pip install pillow-heif, or save them as JPEG"
        )
    known = ", ".join(sorted(readable_suffixes()))
    return f"no picture in {root} or its subfolders: there must be files that end in {known}"


def _label(id: str) -> str | None:
    folders = id.split("/")[:-1]
    if folders and folders[0] in SPLITS:
        folders = folders[1:]
    return folders[0] if folders else None


def _captions(root: Path, files: list[Path], pictures: list[Path]) -> dict[Path, tuple[str, ...]]:
    """Gather the captions of each picture: from tables, then from the text beside it."""
    found: dict[Path, list[str]] = {path: [] for path in pictures}
    for table in files:
        if table.suffix.lower() == TABLE and table.parent == root:
            for path, caption in _table(table, pictures):
                found[path].append(caption)
    for path in pictures:
        beside = path.with_suffix(BESIDE)
        if beside.is_file():
            lines = beside.read_text(encoding="utf-8-sig").splitlines()
            found[path] += [line.strip() for line in lines if line.strip()]
    return {path: tuple(captions) for path, captions in found.items()}


def _table(table: Path, pictures: list[Path]) -> Iterator[tuple[Path, str]]:
    """Read the rows of a table of captions: a picture and what is said of it."""
    lines = table.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    separator = max(",;\t|", key=lines[0].count) if lines else ","
    rows = csv.DictReader(lines, delimiter=separator, skipinitialspace=True)
    columns = {name.strip().lower(): name for name in rows.fieldnames or ()}
    file_column = next((columns[name] for name in FILE_COLUMNS if name in columns), None)
    caption_column = next((columns[name] for name in CAPTION_COLUMNS if name in columns), None)
    if file_column is None or caption_column is None:
        raise ValueError(
            f"{table} has the columns {', '.join(columns)}: call one of them 'file' and one of "
            "them 'caption', or move the table away"
        )
    for row in rows:
        name, caption = ((row[column] or "").strip() for column in (file_column, caption_column))
        path = _picture(table, rows.line_num, name, pictures)
        if caption:
            yield path, caption


def _picture(table: Path, line: int, name: str, pictures: list[Path]) -> Path:
    """Find the picture that a row names: by its path, by its name, with or without its ending."""
    wanted = name.replace("\\", "/")
    for same in (
        lambda path: path == table.parent / wanted,
        lambda path: path.name == wanted,
        lambda path: path.stem == wanted,
    ):
        places = [path for path in pictures if same(path)]
        if len(places) == 1:
            return places[0]
        if places:
            raise ValueError(
                f"{table}, line {line}: {len(places)} pictures are called {name!r}: write the path"
            )
    raise ValueError(
        f"{table}, line {line}: no picture {name!r} is below {table.parent}: put it there, or take "
        "the line out"
    )
