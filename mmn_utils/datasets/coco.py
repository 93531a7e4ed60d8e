"""Photographs in COCO's format: MS COCO itself, and the miniature's scenes."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

from pycocotools.coco import COCO

from mmn_utils.datasets.base import Instance, Photograph, draw
from mmn_utils.datasets.words import words_from

COCO_IMAGES = "http://images.cocodataset.org/zips/{split}.zip"
COCO_ANNOTATIONS = "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"


class CocoDataset:
    """Photographs with five captions and instance masks, from COCO's three parts.

    Read through pycocotools. Ordered by COCO's image number; the ids are those numbers
    as strings ("139"). Masks are decoded when asked for. A photograph without objects
    or without captions stays, with none. ``words`` are its nouns, which its ``info`` may
    give under ``words`` (``datasets.words``).
    """

    def __init__(
        self,
        images_folder: str | Path,
        instances_json: str | Path,
        captions_json: str | Path,
        name: str = "coco",
    ) -> None:
        """Read the annotations; ``name`` is what errors and provenance call the set.

        FileNotFoundError or ValueError, naming the path, where a part is missing or is
        not in COCO's format.
        """
        self.name = name
        self.images_folder = Path(images_folder)
        if not self.images_folder.is_dir():
            raise FileNotFoundError(f"no folder of images at {self.images_folder} ({name})")
        self._instances = _read(Path(instances_json), ("images", "annotations", "categories"))
        self._captions = _read(Path(captions_json), ("images", "annotations"))
        card = self._instances.dataset.get("info") or {}
        self.words = words_from(card.get("words"), instances_json)
        self.ids: tuple[str, ...] = tuple(str(i) for i in sorted(self._instances.getImgIds()))
        self._index = {image_id: i for i, image_id in enumerate(self.ids)}

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

        ValueError where the set has none of that number.
        """
        key = str(image_id).lstrip("0") or "0"
        if key not in self._index:
            raise ValueError(f"no photograph {image_id!r} among the {len(self)} of {self.name}")
        number = int(key)
        record = self._instances.imgs[number]
        size = (int(record["height"]), int(record["width"]))
        return Photograph(
            id=key,
            path=self.images_folder / record["file_name"],
            captions=tuple(a["caption"].strip() for a in self._captions.imgToAnns.get(number, ())),
            instances=tuple(
                self._instance(a, size) for a in self._instances.imgToAnns.get(number, ())
            ),
            size=size,
        )

    def categories(self) -> dict[str, str]:
        """Return the supercategory of each category, in the order of the annotations."""
        return {c["name"]: c.get("supercategory", "") for c in self._instances.cats.values()}

    def single_object(self, category: str) -> tuple[str, ...]:
        """Return the ids of photographs with a single object of the category.

        That is exactly one annotation of it, which is not a crowd; objects of other
        categories may be there (paper A, Figure 5: "single object annotations").
        ValueError for an unknown category.
        """
        number = self._category_number(category)
        annotations = self._instances.anns.values()
        count: dict[int, int] = {}
        for annotation in annotations:
            if annotation["category_id"] == number:
                # A crowd is many objects, however few annotations it takes.
                weight = 2 if annotation.get("iscrowd") else 1
                count[annotation["image_id"]] = count.get(annotation["image_id"], 0) + weight
        return tuple(image_id for image_id in self.ids if count.get(int(image_id)) == 1)

    def sample(self, n: int, seed: int) -> list[Photograph]:
        """Draw ``n`` photographs without replacement; a smaller draw begins a larger one.

        ValueError where the set is smaller than ``n``.
        """
        what = f"{self.words.pictures} in {self.name}"
        return [self.by_id(i) for i in draw(self.ids, n, seed, what)]

    def _category_number(self, category: str) -> int:
        for number, record in self._instances.cats.items():
            if record["name"] == category:
                return number
        raise ValueError(
            f"no category {category!r} in {self.name}: choose one of {', '.join(self.categories())}"
        )

    def _instance(self, annotation: dict, size: tuple[int, int]) -> Instance:
        category = self._instances.cats[annotation["category_id"]]
        return Instance(
            category=category["name"],
            supercategory=category.get("supercategory", ""),
            area=float(annotation.get("area", 0.0)),
            iscrowd=bool(annotation.get("iscrowd", 0)),
            size=size,
            segmentation=annotation.get("segmentation", []),
        )


def open_coco(root: Path, split: str, name: str) -> CocoDataset:
    """Open a split of MS COCO ("val2017") below ``root``.

    FileNotFoundError lists the missing parts with their addresses.
    """
    parts = _parts(root, split)
    addresses = (COCO_IMAGES.format(split=split), COCO_ANNOTATIONS, COCO_ANNOTATIONS)
    missing = [
        f"{path} (from {address})"
        for path, address in zip(parts, addresses, strict=True)
        if not path.exists()
    ]
    if missing:
        raise FileNotFoundError(
            f"MS COCO is not complete at {root}: missing {'; '.join(missing)}. Unpack it there, "
            "or name the folder that has it as root or in COCO_ROOT"
        )
    return CocoDataset(*parts, name=name)


def open_scenes(root: Path, split: str, name: str) -> CocoDataset:
    """Open a split of the miniature's scenes ("val", "looks") below ``root``.

    FileNotFoundError lists the missing parts.
    """
    parts = _parts(root, split)
    missing = [str(path) for path in parts if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"the scenes of {name!r} are not complete: missing {'; '.join(missing)}. They come "
            "with the repository, and `make miniature` makes them again"
        )
    return CocoDataset(*parts, name=name)


def _parts(root: Path, split: str) -> tuple[Path, Path, Path]:
    """Return where a split's images, instances and captions lie in COCO's layout.

    The images are in <root>/<split>, or in <root>/images/<split> where that exists.
    """
    images = root / "images" / split
    if not images.is_dir():
        images = root / split
    annotations = root / "annotations"
    return images, annotations / f"instances_{split}.json", annotations / f"captions_{split}.json"


def _read(path: Path, keys: tuple[str, ...]) -> COCO:
    """Read an annotation file, silently; ValueError where it is not in COCO's format."""
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at {path}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            annotations = COCO(str(path))
    except (json.JSONDecodeError, UnicodeDecodeError, AssertionError, KeyError) as error:
        raise ValueError(f"{path} is not in COCO's format: {error!r}") from error
    absent = [key for key in keys if key not in annotations.dataset]
    if absent:
        raise ValueError(f"{path} is not in COCO's format: it lacks {', '.join(absent)}")
    return annotations
