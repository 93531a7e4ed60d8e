"""What the tests of selectivity share: a tiny system, and photographs with a box on each."""

from __future__ import annotations

import pytest

from mmn_utils.datasets import Photograph
from tests.studies.boxes import boxed
from tests.tiny import tiny_limber


@pytest.fixture(scope="module")
def system():
    return tiny_limber()


@pytest.fixture
def photographs(tmp_path) -> list[Photograph]:
    return boxed(tmp_path)
