"""Photographs with captions and instance masks, from COCO's three parts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from mmn_utils.datasets.base import Instance, Photograph, draw, lacking
from mmn_utils.datasets.coco.records import Annotated, ImageRecord, read_records
from mmn_utils.datasets.masks import normal
from mmn_utils.datasets.pictures import is_visible, size_of
from mmn_utils.datasets.words import words_from


class CocoDataset:
    """Photographs with five captions and instance masks, from COCO's three parts.

    What a record means that is not as COCO's own are, ``coco.records`` says. Ordered by COCO's
    image number; the ids are those numbers as strings ("139"). Masks are decoded by
    pycocotools when asked for. A photograph without objects or without captions stays, with
    none. ``words`` are its nouns, which its ``info`` may give under ``words``
    (``datasets.words``).
    """

    def __init__(
        self,
        images_folder: str | Path,
        instances_json: str | Path | None,
        captions_json: str | Path | None,
        name: str = "coco",
        credit: str = "",
    ) -> None:
        """Read the annotations; ``name`` is what errors and provenance call the set.

        ``credit`` is what pages that show its pictures must say of whose they are.

        Either file of annotations may be None. FileNotFoundError or ValueError, naming the path,
        where a part is missing or is not in COCO's format.
        """
        self.name, self.credit = name, credit
        self.images_folder = Path(images_folder)
        if not self.images_folder.is_dir():
            raise FileNotFoundError(f"no folder of images at {self.images_folder} ({name})")
        instances, captions = (p and Path(p) for p in (instances_json, captions_json))
        if not (instances or captions):
            raise ValueError(f"no annotations of {name}: give those of instances, captions or both")
        self._records = read_records(instances, captions)
        self.words = words_from(self._records.info.get("words"), instances or captions)
        self.ids: tuple[str, ...] = tuple(self._records.images)

    def __repr__(self) -> str:
        return f"CocoDataset({self.name!r}, {len(self)} {self.words.pictures})"

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Photograph]:
        return (self.by_id(image_id) for image_id in self.ids)

    def __getitem__(self, index: int) -> Photograph:
        """Return the photograph at a place in the order of ``ids``."""
        return self.by_id(self.ids[index])

    def by_id(self, image_id: str | int) -> Photograph:
        """Return the photograph of a COCO number: 139, "139" or "000000000139".

        ValueError where the set has none of that number, and, naming file and annotation, where
        a segmentation has no clear meaning.
        """
        key = str(image_id)
        key = key.lstrip("0") or "0" if key.isdecimal() else key
        if key not in self._records.alias:
            raise ValueError(f"no photograph {image_id!r} among the {len(self)} of {self.name}")
        record = self._records.images[self._records.alias[key]]
        path = self._path(record)
        size = _size(record, path)
        return Photograph(
            id=record.id,
            path=path,
            captions=tuple(record.captions),
            instances=tuple(_instance(one, size) for one in record.objects),
            size=size,
        )

    def lacks(self, what: str) -> str:
        """Say why the set does not have ``what`` (``base.KINDS``), "" where it has it."""
        records = self._records.images.values()
        objects = [one for record in records for one in record.objects]
        return lacking(
            what,
            captions=[bool(record.captions) for record in records],
            objects=bool(objects),
            masks=any(one.segmentation for one in objects),
        )

    def categories(self) -> dict[str, str]:
        """Return the supercategory of each category, in the order of the annotations."""
        return dict(self._records.categories)

    def single_object(self, category: str) -> tuple[str, ...]:
        """Return the ids of photographs with a single object of the category.

        That is exactly one annotation of it in all records of the photograph, which is not a
        crowd; objects of other categories may be there (paper A, Figure 5: "single object
        annotations"). ValueError for an unknown category.
        """
        if category not in self._records.categories:
            known = ", ".join(self._records.categories)
            raise ValueError(f"no category {category!r} in {self.name}: choose one of {known}")
        found = []
        for id, record in self._records.images.items():
            # A crowd is many objects, however few annotations it takes.
            crowds = [one.iscrowd for one in record.objects if one.category.name == category]
            if crowds == [False]:
                found.append(id)
        return tuple(found)

    def sample(self, n: int, seed: int) -> list[Photograph]:
        """Draw ``n`` photographs without replacement; a smaller draw begins a larger one.

        ValueError where the set is smaller than ``n``.
        """
        what = f"{self.words.pictures} in {self.name}"
        return [self.by_id(i) for i in draw(self.ids, n, seed, what)]

    def _path(self, record: ImageRecord) -> Path:
        """Find an image's file: as named, as named from the folder above, or in a subfolder."""
        path = self.images_folder / record.file_name
        if path.is_file():
            return path
        above = self.images_folder.parent / record.file_name
        if above.is_relative_to(self.images_folder) and above.is_file():
            return above
        places = self._subfolders.get(Path(record.file_name).name, [path])
        if len(places) > 1:
            raise ValueError(
                f"image {record.id} of {self.name} is {record.file_name!r}, of which there are "
                f"several below {self.images_folder}: name its subfolder in file_name"
            )
        return places[0]

    @cached_property
    def _subfolders(self) -> dict[str, list[Path]]:
        """All files in subfolders by their name; looked up where one is not in its place."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.images_folder.glob("*/**/*")):
            inner = path.relative_to(self.images_folder)
            if path.is_file() and all(map(is_visible, (inner, *inner.parents[:-1]))):
                found.setdefault(path.name, []).append(path)
        return found


def _size(record: ImageRecord, path: Path) -> tuple[int, int]:
    """Return an image's (height, width), from the picture where its records do not tell."""
    if record.height and record.width:
        return record.height, record.width
    return size_of(path)


def _instance(one: Annotated, size: tuple[int, int]) -> Instance:
    try:
        segmentation = normal(one.segmentation, size)
    except ValueError as error:
        raise ValueError(f"{one.where}: {error}") from None
    return Instance(
        category=one.category.name,
        supercategory=one.category.supercategory,
        area=one.area,
        iscrowd=one.iscrowd,
        size=size,
        segmentation=segmentation,
    )
