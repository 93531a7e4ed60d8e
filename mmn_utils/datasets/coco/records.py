"""COCO's files, read into records that have one meaning each.

Of what files of this world hold, this is taken as follows; ``fields`` has the spellings of single
fields, ``datasets.masks`` those of segmentations:

=================================  ===========================================================
an image record twice              one photograph; ValueError where the two disagree
two image records of one file      one photograph under the first id, with the annotations of
                                   both; either id finds it
an annotation id twice             two annotations, or one where they are the same throughout
a category's name twice            one category; ValueError where its supercategories differ
a category that no list has        ValueError, as for an object without a category
width or height missing            those of the picture itself
captions that are null or blank    left out
annotations of other images        left out
=================================  ===========================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmn_utils.datasets.coco import fields


@dataclass(frozen=True)
class Category:
    name: str
    supercategory: str


@dataclass(frozen=True)
class Annotated:
    """An object of an image as it was annotated; ``where`` names its file and its record."""

    category: Category
    iscrowd: bool
    area: float
    segmentation: Any
    where: str


@dataclass(frozen=True)
class ImageRecord:
    """An image with all that is annotated of it; sides are None where no record tells them."""

    id: str
    file_name: str
    width: int | None
    height: int | None
    captions: list[str] = field(default_factory=list)
    objects: list[Annotated] = field(default_factory=list)


@dataclass(frozen=True)
class Records:
    """The images by id in their order, every id that means one of them, the categories by name."""

    images: dict[str, ImageRecord]
    alias: dict[str, str]
    categories: dict[str, str]
    info: dict[str, Any]


def read_records(instances: Path | None, captions: Path | None) -> Records:
    """Read a file of objects and one of captions, either of which may be left out.

    FileNotFoundError or ValueError, naming file, record and remedy, where one is missing or has
    no clear meaning.
    """
    reader = _Reader()
    for path, keys in (
        (instances, ("images", "annotations", "categories")),
        (captions, ("images", "annotations")),
    ):
        if path is not None:
            reader.read(path, _load(path, keys), objects=path is instances)
    return reader.records()


def _load(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Read an annotation file; ValueError where it is not in COCO's format."""
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not in COCO's format: {error!r}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not in COCO's format: it holds no object at its top")
    absent = [key for key in keys if content.get(key) is None]
    if absent:
        raise ValueError(f"{path} is not in COCO's format: it lacks {', '.join(absent)}")
    for key in keys:
        rows = content[key]
        if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            raise ValueError(f"{path} is not in COCO's format: {key} is no list of records")
    return content


class _Reader:
    def __init__(self) -> None:
        self.images: dict[str, ImageRecord] = {}
        self.alias: dict[str, str] = {}
        self.by_file: dict[str, str] = {}
        self.categories: dict[str, Category] = {}  # by name
        self.info: dict[str, Any] = {}

    def read(self, path: Path, content: Mapping[str, Any], objects: bool) -> None:
        """Take a file's records in: of objects, or of captions."""
        for record in content["images"]:
            self._guarded(path, "image", record, self._image)
        if objects:
            self.info = content.get("info") or {}
            self.by_id: dict[str, Category] = {}
            for record in content["categories"]:
                self._guarded(path, "category", record, self._category)
        add = self._object if objects else self._caption
        for record in _once(content["annotations"]):
            self._guarded(path, "annotation", record, add)

    def records(self) -> Records:
        """Return what was read, the images by their numbers, then those whose ids are none."""
        order = sorted(self.images, key=lambda id: (not id.isdecimal(), len(id), id))
        return Records(
            {id: self.images[id] for id in order},
            self.alias,
            {one.name: one.supercategory for one in self.categories.values()},
            self.info,
        )

    def _guarded(
        self, path: Path, what: str, record: dict, add: Callable[[dict, str], None]
    ) -> None:
        where = f"{path}, {what} {record.get('id', '(without id)')}"
        try:
            add(record, where)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def _image(self, record: dict, where: str) -> None:
        id = fields.identity(record, "id")
        file_name = fields.text(record, "file_name").replace("\\", "/")
        if not file_name:
            raise ValueError("it has no file_name: name its picture")
        new = ImageRecord(
            id, file_name, fields.length(record, "width"), fields.length(record, "height")
        )
        first = self.alias.get(id) or self.by_file.get(file_name) or id
        known = self.images.get(first)
        self.images[first] = new if known is None else _merged(known, new)
        self.alias[id] = self.by_file[file_name] = first

    def _category(self, record: dict, where: str) -> None:
        id, name = fields.identity(record, "id"), fields.text(record, "name")
        if not name:
            raise ValueError("it has no name: give it one")
        new = Category(name, fields.text(record, "supercategory"))
        known = self.categories.get(name, new)
        if known.supercategory and new.supercategory not in ("", known.supercategory):
            raise ValueError(
                f"{name!r} is of {new.supercategory!r} here and of {known.supercategory!r} in "
                "another record: give the two different names"
            )
        if self.by_id.get(id, new).name != name:
            raise ValueError(
                f"it is {name!r} here and {self.by_id[id].name!r} in another record: give each "
                "category an id of its own"
            )
        self.categories[name] = self.by_id[id] = known if known.supercategory else new

    def _image_of(self, record: dict) -> ImageRecord | None:
        id = fields.identity(record, "image_id")
        return self.images[self.alias[id]] if id in self.alias else None

    def _object(self, record: dict, where: str) -> None:
        image = self._image_of(record)
        if image is None:
            return
        id = fields.identity(record, "category_id")
        if id not in self.by_id:
            known = ", ".join(list(self.by_id)[:10])
            raise ValueError(
                f"its category_id {record['category_id']!r} is none of the categories ({known}): "
                "add the category, or take the annotation out"
            )
        # by its name, since a later record may have told the supercategory
        category = self.categories[self.by_id[id].name]
        crowd, area = fields.flag(record, "iscrowd"), fields.amount(record, "area")
        image.objects.append(Annotated(category, crowd, area, record.get("segmentation"), where))

    def _caption(self, record: dict, where: str) -> None:
        image = self._image_of(record)
        caption = fields.text(record, "caption")
        if image is not None and caption:
            image.captions.append(caption)


def _merged(known: ImageRecord, new: ImageRecord) -> ImageRecord:
    """Return an image of which there are two records; ValueError where they disagree."""
    for name in ("file_name", "width", "height"):
        first, second = getattr(known, name), getattr(new, name)
        if None not in (first, second) and first != second:
            raise ValueError(
                f"its {name} is {second!r}, and {first!r} in the record of image {known.id}: give "
                "each picture one record"
            )
    return replace(known, width=known.width or new.width, height=known.height or new.height)


def _once(annotations: Sequence[dict]) -> Iterable[dict]:
    """Pass annotations on, one that is there twice, id and all, only once."""
    seen: dict[Any, list[dict]] = {}
    for record in annotations:
        if record.get("id") is not None:
            alike = seen.setdefault(str(record["id"]), [])
            if record in alike:
                continue
            alike.append(record)
        yield record
