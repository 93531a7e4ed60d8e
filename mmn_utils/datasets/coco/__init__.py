"""Photographs in COCO's format: MS COCO itself, the miniature's scenes, and anybody's files."""

from mmn_utils.datasets.coco.dataset import CocoDataset
from mmn_utils.datasets.coco.layout import open_coco, open_scenes

__all__ = ["CocoDataset", "open_coco", "open_scenes"]
