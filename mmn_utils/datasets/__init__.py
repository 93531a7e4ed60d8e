"""Photographs with captions, masks and labels, all behind one small interface."""

from __future__ import annotations

import os
from pathlib import Path

from mmn_utils.datasets.base import Instance, Photograph
from mmn_utils.datasets.coco import CocoDataset, open_coco, open_scenes
from mmn_utils.datasets.folder import FolderDataset, OwnClasses
from mmn_utils.datasets.imagenet import ClassFolders
from mmn_utils.datasets.stamps import read_credits
from mmn_utils.datasets.words import Words
from mmn_utils.presets import data_path, from_here

__all__ = [
    "ClassFolders",
    "CocoDataset",
    "FolderDataset",
    "Instance",
    "Photograph",
    "Words",
    "load_classes",
    "load_dataset",
]

Dataset = CocoDataset | FolderDataset
FOLDER = "folder"

# Name: its split. The miniature's scenes are in COCO's format, too.
MINIATURE = {"miniature": "val", "miniature/looks": "looks"}
STAMPS = {"stamps": "val"}  # scenes of photographed cut-outs (``datasets.stamps``)
COCO = {"coco_val2017": "val2017", "coco_train2017": "train2017"}


def load_dataset(name: str, root: str | Path | None = None) -> Dataset:
    """Open a data set of photographs by name.

    ``miniature``: the held-out scenes; ``miniature/looks``: scenes with looks that were
    never trained on (``root`` defaults to data/miniature/coco).
    ``stamps``: scenes of photographed cut-outs, which ``make stamps`` makes (``root`` defaults to
    data/cache/stamps).
    ``coco_val2017``, ``coco_train2017``: MS COCO in its own layout (``root`` defaults to
    the environment variable COCO_ROOT, else to data/coco).
    ``folder``: the photographs in ``root``, with what is known of them (``datasets.folder``);
    a relative path is one from here or, where nothing is there, from the repository.
    ValueError for another name; FileNotFoundError says what is missing and where it is
    to be had.
    """
    if name in MINIATURE:
        return open_scenes(Path(root or data_path("miniature", "coco")), MINIATURE[name], name)
    if name in STAMPS:
        home = Path(root or data_path("cache", "stamps"))
        remedy = "`make stamps` makes them"
        return open_scenes(home, STAMPS[name], name, remedy, lambda root: read_credits(root).notice)
    if name in COCO:
        coco = root or os.environ.get("COCO_ROOT") or data_path("coco")
        return open_coco(Path(coco), COCO[name], name)
    if name == FOLDER:
        if not root:
            raise ValueError("dataset 'folder' needs data_root: give the folder of photographs")
        return FolderDataset(from_here(root))
    known = ", ".join([*MINIATURE, *STAMPS, *COCO, FOLDER])
    raise ValueError(f"unknown data set {name!r}: choose one of {known}")


def load_classes(root: str | Path, data: Dataset) -> ClassFolders:
    """Open folders of classes: those below ``root``, or the data set's own where that is empty.

    Of a data set without classes none, and ``lacks`` says why. Errors as of ``ClassFolders``.
    """
    return ClassFolders(from_here(root)) if root else OwnClasses(data)
