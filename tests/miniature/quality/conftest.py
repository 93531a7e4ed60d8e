"""Four annotated scenes, a tiny system, and what it is taken to say of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmn_utils.datasets.base import Photograph
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.subjects import Subjects
from tests.miniature.quality.world import SIDE, instance
from tests.tiny import tiny_images, tiny_limber


@pytest.fixture
def scenes(tmp_path: Path) -> list[Photograph]:
    """Write four square pictures with their annotations."""
    things = [("horse",), ("dog",), ("horse", "dog"), ("horse",)]
    found = []
    for i, (image, names) in enumerate(zip(tiny_images(4), things, strict=True)):
        path = tmp_path / f"{i}.png"
        image.crop((0, 0, SIDE, SIDE)).save(path)
        places = [(0, 0, 20, 20), (20, 20, 40, 40)]
        instances = tuple(map(instance, names, places))
        texts = tuple(f"{form} {' and '.join(names)} on the grass" for form in ("a", "one"))
        found.append(Photograph(str(i), path, texts, instances, size=(SIDE, SIDE)))
    return found


@pytest.fixture(scope="module")
def model():
    return tiny_limber()


@pytest.fixture
def found(model, scenes) -> Subjects:
    """Give each scene a caption by hand: the first thing that is in it."""
    captions, every = [], []
    for scene in scenes:
        word = scene.instances[0].category
        ids = tuple(model.tokenizer.encode(f" a {word}"))
        captions.append(Caption(f"a {word}", ids))
        every.append([Target(scene.id, word, ids[-1], ids[:-1])])
    return Subjects(scenes, captions, every)
