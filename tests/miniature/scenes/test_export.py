"""The exported scenes are readable as COCO."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO

from mmn_utils.miniature.scenes.export import WORDS, write_coco


def test_export_reads_as_coco(world, made, tmp_path):
    write_coco(tmp_path, made[:6], world)
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(tmp_path / "annotations" / "instances_val.json")
        texts = COCO(tmp_path / "annotations" / "captions_val.json")
    for scene in made[:6]:
        entry = data.imgs[scene.seed]
        assert (tmp_path / "images" / "val" / entry["file_name"]).is_file()
        assert (entry["background"], entry["looks"]) == (scene.background, "train")
        annotations = data.imgToAnns[scene.seed]
        for annotation, thing in zip(annotations, scene.objects, strict=True):
            assert np.array_equal(data.annToMask(annotation).astype(bool), thing.mask)
            assert annotation["area"] == thing.area
            assert data.cats[annotation["category_id"]]["name"] == thing.concept
        assert len(texts.imgToAnns[scene.seed]) == 5
    assert data.dataset["info"]["words"] == WORDS.facts()
