"""The data set on disk: scenes in COCO's format, folders of classes, and what it was made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mmn_utils.cache import atomic
from mmn_utils.datasets.imagenet import WORDS
from mmn_utils.datasets.stamps.catalogue import LIST, SPLITS, Stamp, read_list, stamps_from
from mmn_utils.datasets.stamps.composition import Scene, choose, compose
from mmn_utils.datasets.stamps.credits import LICENCE, MANIFEST, Credits, read_manifest
from mmn_utils.datasets.stamps.package import find_source, read_files
from mmn_utils.datasets.stamps.phrases import captions
from mmn_utils.presets import data_path

HOME = data_path("cache", "stamps")
SCENES, SPLIT, CLASSES = "images", "val", "classes"
RECIPE = 1  # counts up with what changes a picture
QUALITY = 92
CARD = {
    "picture": "composed photograph",
    "pictures": "composed photographs",
    "reference": "reference caption",
    "references": "reference captions",
}
CLASS_SEED = 1  # sets the draws of class pictures apart from those of scenes


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
        scenes: how many, in COCO's format.
        class_pictures: of each class, for training and for validation; none for (0, 0).
        seed: of all draws.
    """

    scenes: int = 300
    class_pictures: tuple[int, int] = (24, 12)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scenes < 1:
            raise ValueError(f"scenes = {self.scenes}: give 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}: give 0 or more")
        if min(self.class_pictures) < 0 or (0 in self.class_pictures and any(self.class_pictures)):
            raise ValueError(
                f"class_pictures = {self.class_pictures}: give 1 or more of each split, or 0 0"
            )


def make(
    given: str | Path | None = None,
    order: Order | None = None,
    home: str | Path = HOME,
    list_of: str | Path = LIST,
) -> bool:
    """Make the data set in ``home``; False where it is there already.

    ``given`` as of ``package.find_source``. ValueError where ``home`` holds anything else, such
    as scenes of another seed; what is there is never replaced. Nothing is half-written.
    """
    order, home = order or Order(), Path(home)
    asked = {**_plain(order), "recipe": RECIPE, "list": sha256(_bytes(list_of)).hexdigest()}
    if _is_there(home, asked):
        return False
    entries = read_list(list_of)
    source = find_source(given, home.parent / "downloads")
    stamps = stamps_from(entries, read_files(source, [entry.file for entry in entries]))
    with atomic(home) as fresh:
        write_scenes(fresh, stamps, order)
        write_classes(fresh / CLASSES, stamps, order)
        _write_json(fresh / MANIFEST, {**asked, "credits": asdict(Credits())})
    return True


def _bytes(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def _plain(order: Order) -> dict[str, Any]:
    return {**asdict(order), "class_pictures": list(order.class_pictures)}


def _is_there(home: Path, asked: dict[str, Any]) -> bool:
    """Say whether a folder holds what is asked for; ValueError where it holds anything else."""
    if not home.exists() or (home.is_dir() and not any(home.iterdir())):
        return False
    try:
        there = read_manifest(home)
    except FileNotFoundError:
        raise ValueError(f"{home} holds other files: give another place, --data FOLDER") from None
    differ = {key: there.get(key) for key, value in asked.items() if there.get(key) != value}
    if differ:
        wanted = {key: asked[key] for key in differ}
        raise ValueError(
            f"{home} holds scenes of {differ}, not of {wanted}: remove it, or give another place, "
            "--data FOLDER"
        )
    return True


def write_scenes(root: Path, stamps: Sequence[Stamp], order: Order) -> None:
    """Write scenes below ``root`` in COCO's layout: images/val, annotations."""
    folder = root / SCENES / SPLIT
    folder.mkdir(parents=True)
    numbers = _category_numbers(stamps)
    images, objects, texts = [], [], []
    for number, shown in enumerate(choose(stamps, order.scenes, order.seed), start=1):
        scene = compose(shown, np.random.default_rng([order.seed, number]))
        name = f"{number:06d}.jpg"
        _save(scene, folder / name)
        images.append(_image(number, name, scene))
        for thing in scene.things:
            mask = _encoded(thing.mask)
            category = numbers[thing.entry.category]
            objects.append({"id": len(objects) + 1, "image_id": number, "category_id": category,
                            **mask, "iscrowd": 0, "file": thing.entry.file})  # fmt: skip
        for caption in captions([thing.entry for thing in scene.things]):
            texts.append({"id": len(texts) + 1, "image_id": number, "caption": caption})
    head = _head(images)
    above = {stamp.entry.category: stamp.entry.supercategory for stamp in stamps}
    categories = [
        {"id": number, "name": name, "supercategory": above[name]}
        for name, number in numbers.items()
    ]
    notes = root / "annotations"
    notes.mkdir()
    _write_json(
        notes / f"instances_{SPLIT}.json",
        {**head, "annotations": objects, "categories": categories},
    )
    _write_json(notes / f"captions_{SPLIT}.json", {**head, "annotations": texts})


def write_classes(root: Path, stamps: Sequence[Stamp], order: Order) -> None:
    """Write pictures of one thing in folders of classes: {train,val}/<category>.

    A class is a category with cut-outs of both splits, so that no cut-out is in both.
    """
    found = {split: _by_category(stamps, split) for split in SPLITS}
    both = sorted(set.intersection(*map(set, found.values())))
    if any(order.class_pictures) and both:
        root.mkdir()
        _write_json(root / WORDS, CARD)
    for split, count in zip(SPLITS, order.class_pictures, strict=True):
        for category in both if count else ():
            folder = root / split / category
            folder.mkdir(parents=True)
            several, place = found[split][category], both.index(category)
            for number in range(count):
                key = [order.seed, CLASS_SEED, SPLITS.index(split), place, number]
                scene = compose([several[number % len(several)]], np.random.default_rng(key))
                _save(scene, folder / f"{number:03d}.jpg")


def _by_category(stamps: Sequence[Stamp], split: str) -> dict[str, list[Stamp]]:
    found: dict[str, list[Stamp]] = {}
    for stamp in stamps:
        if stamp.entry.split == split:
            found.setdefault(stamp.entry.category, []).append(stamp)
    return found


def _category_numbers(stamps: Sequence[Stamp]) -> dict[str, int]:
    """Number the categories from 1 in the order of the list."""
    names = dict.fromkeys(stamp.entry.category for stamp in stamps)
    return {name: number for number, name in enumerate(names, start=1)}


def _encoded(mask: np.ndarray) -> dict[str, Any]:
    """Return segmentation, area and box of a mask as COCO has them."""
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "segmentation": {"size": runs["size"], "counts": runs["counts"].decode("ascii")},
        "area": int(mask.sum()),
        "bbox": [int(value) for value in coco_mask.toBbox(runs)],
    }


def _image(number: int, name: str, scene: Scene) -> dict[str, Any]:
    height, width = scene.pixels.shape[:2]
    return {"id": number, "file_name": name, "height": height, "width": width,
            "license": 1, "ground": scene.ground}  # fmt: skip


def _head(images: list[dict[str, Any]]) -> dict[str, Any]:
    address = "https://www.gnu.org/licenses/old-licenses/gpl-2.0.html"
    return {
        "info": {"description": Credits().line, "words": CARD},
        "licenses": [{"id": 1, "name": LICENCE, "url": address}],
        "images": images,
    }


def _save(scene: Scene, path: Path) -> None:
    Image.fromarray(scene.pixels).save(path, quality=QUALITY, subsampling=0)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
