"""What the tests of edits share: a system with planted words, photographs, edits found on them."""

from __future__ import annotations

import pytest

from mmn_utils.datasets import Photograph
from mmn_utils.interventions.editing import Settings
from mmn_utils.neurons.captions import caption_images
from mmn_utils.neurons.targets import Target
from mmn_utils.studies import edits as study
from tests.interventions.planted import picture, planted

SHOWN = [("a", "horse", 0), ("b", "horse", 2), ("c", "boat", 0), ("d", "horses", 0),
         ("e", "boat", 1), ("f", "horses", 1)]  # fmt: skip
PAIRS = [("horse", "cat"), ("boat", "dog")]


@pytest.fixture(scope="module")
def system():
    return planted()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("planted"), []
    for name, word, shade in SHOWN:
        path = folder / f"{name}.png"
        picture(word, shade).save(path)
        found.append(Photograph(name, path))
    return found


@pytest.fixture(scope="module")
def captions(system, photographs):
    return caption_images(system, [p.open() for p in photographs], 4)


@pytest.fixture(scope="module")
def said(captions):
    """Take the first word for the noun, whatever a tagger makes of these captions."""
    return [
        [Target(name, caption.text.split()[0], caption.ids[0], ())]
        for (name, _, _), caption in zip(SHOWN, captions, strict=True)
    ]


@pytest.fixture(scope="module")
def findings(system, photographs, said):
    return study.findings.find_on_first(system, photographs, said, PAIRS, 2)


@pytest.fixture(scope="module")
def edits(system, findings):
    return study.making.edits_of(system, [one.first(1) for one in findings], Settings())


@pytest.fixture(scope="module")
def ground(system, photographs, findings):
    return study.trials.Ground.of(system, photographs, findings, max_new_tokens=4)
