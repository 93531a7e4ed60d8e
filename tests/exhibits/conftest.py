"""What the tests of this room share: a run of a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmn_utils.exhibits.entries import LIST
from mmn_utils.exhibits.saving import Run
from tests.exhibits.samples import PARAMETERS


@pytest.fixture
def untold(tmp_path_factory) -> Path:
    """A list of the exhibits that there are, without texts and hence without claims."""
    path = tmp_path_factory.mktemp("list") / LIST.name
    path.write_bytes(LIST.read_bytes())
    return path


@pytest.fixture
def run(tmp_path, untold) -> Run:
    return Run("test", "02_attribution", PARAMETERS, model={"name": "tiny", "revision": "r1"},
               data="scenes", seed=3, root=tmp_path, exhibits=untold)  # fmt: skip
