"""What the tests of this room share: a run of a tiny model."""

from __future__ import annotations

import pytest

from mmn_utils.exhibits.saving import Run
from tests.exhibits.samples import PARAMETERS


@pytest.fixture
def run(tmp_path) -> Run:
    return Run("test", "02_attribution", PARAMETERS, model={"name": "tiny", "revision": "r1"},
               data="scenes", seed=3, root=tmp_path)  # fmt: skip
