"""Photographs with a box on each, for the tests of studies."""

from __future__ import annotations

from mmn_utils.datasets import Photograph
from mmn_utils.datasets.base import Instance
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.subjects import Subjects
from tests.tiny import tiny_images


def boxed(folder) -> list[Photograph]:
    """Five pictures, each with one object: a box in COCO's polygon."""
    made = []
    for i, image in enumerate(tiny_images(5, seed=3)):
        path = folder / f"{i}.png"
        image.save(path)
        box = [2 + i, 2, 30, 2, 30, 30, 2 + i, 30]
        size = (image.height, image.width)
        instance = Instance("horse", "animal", 1.0, False, size, [box])
        made.append(
            Photograph(str(i), path, (f"a horse by the boats {i}",), (instance,), size=size)
        )
    return made


def subjects_of(system, photographs) -> Subjects:
    """Subjects with a target for each photograph, whatever the random system says."""
    targets = [Target(p.id, "horse", 300 + i, (5,) * i) for i, p in enumerate(photographs)]
    return Subjects(photographs, [None] * len(photographs), [[target] for target in targets])
