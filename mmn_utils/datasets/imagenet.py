"""Photographs in folders of their class, as ImageNet and the miniature's classes are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mmn_utils.datasets.base import Photograph, draw, lacking
from mmn_utils.datasets.pictures import is_visible, readable_suffixes
from mmn_utils.datasets.words import words_from

SPLITS = ("train", "val")
WORDS = "words.json"


class ClassFolders:
    """Photographs below <root>/{train,val}/<class>/.

    ``classes`` are the folders' names, sorted, the same in both splits: synsets
    ("n02084071") in ImageNet, words in the miniature. ``names`` gives them readable
    names; both are accepted wherever a class is asked for. ``words`` are the set's nouns, which
    <root>/words.json may give (``datasets.words``).
    """

    def __init__(
        self, root: str | Path, names: Mapping[str, str] | str | Path | None = None
    ) -> None:
        """Find the classes.

        ``names``: a mapping from folder to name, or the path of a text file with lines
        such as "n01440764 tench, Tinca tinca" (ImageNet's synset list), of which the
        first name is taken. FileNotFoundError where the folders are not there, with
        where to get them; ValueError where the splits differ or a name is missing.
        """
        self.root = Path(root)
        found = {split: _class_folders(self.root / split) for split in SPLITS}
        if found["train"] != found["val"]:
            differ = sorted(set(found["train"]) ^ set(found["val"]))
            raise ValueError(f"classes in only one of {SPLITS} below {root}: {differ[:5]}")
        self.classes: tuple[str, ...] = found["train"]
        self.names: dict[str, str] = _names(names, self.classes)
        self.words = words_from(*card_of(self.root))

    def __repr__(self) -> str:
        return f"ClassFolders({str(self.root)!r}, {len(self.classes)} classes)"

    def paths(self, split: str, class_name: str) -> tuple[Path, ...]:
        """Return the image files of a class, sorted by name.

        ValueError for a split other than "train" or "val" and for an unknown class.
        """
        return pictures_in(self.root / split / self._known(split, class_name))

    def sample(self, split: str, class_name: str, n: int, seed: int) -> list[Photograph]:
        """Draw ``n`` photographs of a class without replacement.

        Their ids are "<split>/<folder>/<file>", their label is the class's
        readable name. ValueError where the class has fewer.
        """
        drawn = draw(self.paths(split, class_name), n, seed, f"{split} images of {class_name!r}")
        folder = self._folder(class_name)
        return [
            Photograph(id=f"{split}/{folder}/{path.name}", path=path, label=self.names[folder])
            for path in drawn
        ]

    def lacks(self, what: str) -> str:
        """Say why there is no ``what`` (``base.KINDS``), "" where there is: classes alone."""
        return lacking(what, classes=True)

    def _known(self, split: str, class_name: str) -> str:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
        return self._folder(class_name)

    def _folder(self, class_name: str) -> str:
        if class_name in self.names:
            return class_name
        folders = [folder for folder, name in self.names.items() if name == class_name]
        if len(folders) > 1:  # ImageNet has two "crane" and two "maillot"
            raise ValueError(f"{class_name!r} names {folders}: ask by the folder's name")
        if not folders:
            known = ", ".join(list(self.names.values())[:20])
            raise ValueError(f"unknown class {class_name!r}: choose one of {known}")
        return folders[0]


def card_of(root: Path) -> tuple[Mapping[str, str] | None, Path]:
    """Return what words.json in a folder gives (``datasets.words``), if there is one, and where."""
    card = root / WORDS
    return json.loads(card.read_text(encoding="utf-8")) if card.is_file() else None, card


def pictures_in(folder: Path) -> tuple[Path, ...]:
    """Return the picture files right in a folder, sorted by name, none that a system hides."""
    suffixes = readable_suffixes()
    return tuple(
        sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and is_visible(p))
    )


def _class_folders(split: Path) -> tuple[str, ...]:
    """Return the sorted names of the folders in a split; an error where there are none."""
    inside = split.iterdir() if split.is_dir() else ()
    folders = sorted(p.name for p in inside if p.is_dir() and is_visible(p))
    if not folders:
        raise FileNotFoundError(
            f"no class folders at {split}: ImageNet (ILSVRC2012, https://image-net.org/download, "
            "after registration) must lie in {train,val}/<synset>/; its validation images come in "
            "one heap and have to be sorted into folders first"
        )
    return tuple(folders)


def _names(
    names: Mapping[str, str] | str | Path | None, classes: tuple[str, ...]
) -> dict[str, str]:
    """Return a readable name for each class, its folder's where no names are given."""
    if names is None:
        return {folder: folder for folder in classes}
    if not isinstance(names, Mapping):
        lines = Path(names).read_text(encoding="utf-8").splitlines()
        pairs = (line.split(maxsplit=1) for line in lines if line.strip())
        names = {pair[0]: pair[-1].split(",")[0].strip() for pair in pairs}
    absent = [folder for folder in classes if folder not in names]
    if absent:
        raise ValueError(f"no names for {len(absent)} classes, the first is {absent[0]!r}")
    return {folder: names[folder] for folder in classes}
