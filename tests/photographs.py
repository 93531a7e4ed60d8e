"""Photographs for tests: real ones where they are, and pictures made on the spot elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mmn_utils.presets import ROOT
from tests.tiny import tiny_images


def find_coco_mini() -> Path | None:
    """Return the folder of the real photographs: MMN_COCO_MINI, or shared/ further up."""
    named = os.environ.get("MMN_COCO_MINI")
    places = [Path(named)] if named else []
    places += [folder / "shared" / "data" / "coco_mini" for folder in (ROOT, *ROOT.parents)]
    return next((place for place in places if place.is_dir()), None)


def some_photographs(folder: Path, n: int = 10) -> Path:
    """Fill a folder with ``n`` photographs and nothing that is known about them."""
    folder.mkdir(parents=True)
    coco = find_coco_mini()
    if coco is None:
        for place, image in enumerate(tiny_images(n, side=64)):
            image.save(folder / f"{place}.jpg", quality=95)
    else:
        for path in sorted((coco / "val2017").glob("*.jpg"))[:n]:
            shutil.copy(path, folder)
    return folder
