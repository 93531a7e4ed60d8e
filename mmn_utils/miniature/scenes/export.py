"""The held-out scenes as files that need no font: a COCO data set, class folders, a sheet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_tools

from mmn_utils.datasets.imagenet import WORDS as WORDS_FILE
from mmn_utils.datasets.words import Words
from mmn_utils.miniature.scenes import CLASS_TRAIN_SEED, CLASS_VAL_SEED, SIZE
from mmn_utils.miniature.scenes.composition import Scene, SceneObject, captions, make_scene
from mmn_utils.miniature.world import World

# No photographs, and captions that no human wrote: what is said of these data sets says so.
WORDS = Words("scene", "scenes", "reference caption", "reference captions")
SELECTIVITY_CLASSES = (
    "dog", "bird", "turtle", "car", "boat", "banana", "pizza", "clock", "guitar", "flower",
)  # fmt: skip


def write_coco(
    folder: Path, scenes: Iterable[Scene], world: World, split: str = "val", quality: int = 92
) -> int:
    """Write scenes as a COCO data set with instances and captions; return their number.

    Pictures go to ``images/<split>``, JSON files to ``annotations``. Image ids
    are the scenes' seeds, which are distinct over all splits.
    """
    images, instances, texts = [], [], []
    numbers = {name: i for i, name in enumerate(world.names, start=1)}
    for scene in scenes:
        name = f"{scene.seed:08d}.jpg"
        _save_picture(scene.image, folder / "images" / split / name, quality)
        images.append(_image_entry(scene.seed, name, scene))
        for place, thing in enumerate(scene.objects):
            number = scene.seed * 10 + place
            instances.append(_annotation(number, scene.seed, thing, numbers[thing.concept]))
        for place, text in enumerate(captions(scene, world)):
            texts.append({"id": scene.seed * 10 + place, "image_id": scene.seed, "caption": text})
    known = {**_header(world), "images": images, "annotations": instances}
    _write_json(folder / "annotations" / f"instances_{split}.json", known)
    # As in COCO, the file of captions has no categories.
    told = {"info": known["info"], "images": images, "annotations": texts}
    _write_json(folder / "annotations" / f"captions_{split}.json", told)
    return len(images)


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _save_picture(image: np.ndarray, path: Path, quality: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=quality, optimize=True)


def _annotation(number: int, image_id: int, thing: SceneObject, category: int) -> dict:
    """Return a COCO instance with its exact mask, run-length encoded."""
    encoded = mask_tools.encode(np.asfortranarray(thing.mask.astype(np.uint8)))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
        "area": thing.area,
        "bbox": list(thing.bbox),
        "iscrowd": 0,
        "look": thing.look,
    }


def _image_entry(image_id: int, name: str, scene: Scene) -> dict:
    return {
        "id": image_id,
        "file_name": name,
        "height": SIZE,
        "width": SIZE,
        "background": scene.background,
        "looks": scene.looks,
        "seed": scene.seed,
    }


def _header(world: World) -> dict:
    categories = [
        {"id": i, "name": c.name, "supercategory": c.supercategory}
        for i, c in enumerate(world.concepts, start=1)
    ]
    info = {
        "description": "Scenes of the miniature; objects from Noto Color Emoji (OFL 1.1)",
        "words": WORDS.facts(),
    }
    return {"info": info, "categories": categories}


def write_classes(
    folder: Path,
    world: World,
    counts: tuple[int, int] = (200, 50),
    quality: int = 82,
    font: Path | None = None,
) -> int:
    """Write folders ``{train,val}/<class>`` of scenes with one object; return their number.

    Train and validation pictures of class c have the seeds ``base + 1000 c + i``.
    """
    bases = {"train": CLASS_TRAIN_SEED, "val": CLASS_VAL_SEED}
    for (split, base), count in zip(bases.items(), counts, strict=True):
        for c, name in enumerate(SELECTIVITY_CLASSES):
            for i in range(count):
                scene = make_scene(base + 1000 * c + i, world, n_objects=1, first=name, font=font)
                _save_picture(scene.image, folder / split / name / f"{i:04d}.jpg", quality)
    _write_json(folder / WORDS_FILE, WORDS.facts())
    return sum(counts) * len(SELECTIVITY_CLASSES)


def contact_sheet(scenes: Iterable[Scene], columns: int = 8, zoom: int = 2) -> Image.Image:
    """Return the scenes in rows, enlarged, as one picture."""
    pictures = [Image.fromarray(s.image).resize((SIZE * zoom,) * 2, 0) for s in scenes]
    step = SIZE * zoom + 4
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * step, rows * step), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, ((i % columns) * step, (i // columns) * step))
    return sheet
