"""Four photographs, the first with a horse on it, and captions of the tests' own."""

from __future__ import annotations

from mmn_utils.datasets import Instance, Photograph
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.targets import caption_targets
from mmn_utils.studies.subjects import Subjects
from tests.tiny import tiny_images, tiny_tokenizer

TEXTS = ("a red horse near the house", "of the and", "two dogs and a cat", "a boat on the water")
BOX = [[8.0, 8.0, 24.0, 8.0, 24.0, 30.0, 8.0, 30.0]]


def in_files(folder) -> list[Photograph]:
    """Write four photographs into files, the first with a horse on it."""
    found = []
    for i, image in enumerate(tiny_images(4)):
        path = folder / f"{i}.png"
        image.save(path)
        size = (image.height, image.width)
        horse = Instance("horse", "animal", 352.0, False, size, BOX)
        found.append(
            Photograph(f"scene-{i}", path, instances=(horse,) if i == 0 else (), size=size)
        )
    return found


def captions_of_texts(texts=TEXTS) -> list[Caption]:
    """Return the texts as captions."""
    coded = [tuple(tiny_tokenizer().encode(f" {text}")) for text in texts]
    return [Caption(text, ids) for text, ids in zip(texts, coded, strict=True)]


def subjects_of_texts(model, folder) -> Subjects:
    """Return the photographs whose text has a noun, as subjects."""
    captions = captions_of_texts()
    found = [
        (p, c, some)
        for p, c in zip(in_files(folder), captions, strict=True)
        if (some := caption_targets(model, p.id, c))
    ]
    return Subjects(*map(list, zip(*found, strict=True)))
