"""What the tests of the browser share: a tiny system and its atlas."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmn_utils.browser.atlas.build import build
from mmn_utils.browser.atlas.query import Atlas
from tests.studies.boxes import boxed
from tests.tiny import tiny_limber

SEED = 24  # a system whose random captions have nouns, all but the last
SINGLES = {"horse": frozenset("0234"), "boat": frozenset()}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A system, five photographs and their atlas; three of them lie in one batch."""
    folder = tmp_path_factory.mktemp("atlas")
    model, photographs = tiny_limber(SEED), boxed(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMN_CACHE", str(folder / "cache"))
        path = make(model, photographs, folder / "tiny")
    with Atlas.open(path) as atlas:
        yield SimpleNamespace(model=model, photographs=photographs, folder=path, atlas=atlas)


def make(model, photographs, folder, **options):
    """Make an atlas of the ten best neurons of each noun."""
    options = {"k": 10, "batch_size": 3, "progress": False, **options}
    return build("tiny", model, photographs, SINGLES, folder=folder, **options)
