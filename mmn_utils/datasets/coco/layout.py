"""Where the parts of a split lie, and what is said where one is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmn_utils.datasets.coco.dataset import CocoDataset

COCO_IMAGES = "http://images.cocodataset.org/zips/{split}.zip"
COCO_ANNOTATIONS = "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"
SHIPPED = "They come with the repository, and `make miniature` makes them again"


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


def open_scenes(
    root: Path,
    split: str,
    name: str,
    remedy: str = SHIPPED,
    credit: Callable[[Path], str] = lambda _root: "",
) -> CocoDataset:
    """Open a split of the miniature's scenes ("val", "looks"), or of others, below ``root``.

    ``credit`` reads there what must be said of whose they are. FileNotFoundError lists the missing
    parts and says the ``remedy``.
    """
    parts = _parts(root, split)
    missing = [str(path) for path in parts if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"the scenes of {name!r} are not complete: missing {'; '.join(missing)}. {remedy}"
        )
    return CocoDataset(*parts, name=name, credit=credit(root))


def _parts(root: Path, split: str) -> tuple[Path, Path, Path]:
    """Return where a split's images, instances and captions lie in COCO's layout.

    The images are in <root>/<split>, or in <root>/images/<split> where that exists.
    """
    images = root / "images" / split
    if not images.is_dir():
        images = root / split
    annotations = root / "annotations"
    return images, annotations / f"instances_{split}.json", annotations / f"captions_{split}.json"
