"""What the tests of the browser share: a tiny system and its atlas, and a real browser."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmn_utils.browser.atlas.build import build
from mmn_utils.browser.atlas.query import Atlas
from tests.browser.chromium import Windows, needed, started
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


@pytest.fixture(scope="module")
def chromium():
    """A browser for the tests of one file: its event loop would be in the way of other files'."""
    needed()
    with started() as browser:
        yield browser


@pytest.fixture
def windows(chromium):
    """Open pages with ``windows(width, height, dark, offline)``; a fault in one fails the test.

    A test that expects faults reads ``windows.faults`` and clears it.
    """
    opened = Windows(chromium)
    yield opened
    opened.close()
    assert not opened.faults, opened.faults
