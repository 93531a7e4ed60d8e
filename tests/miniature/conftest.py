"""The world that all trainings of the miniature share."""

from __future__ import annotations

import pytest

from mmn_utils.miniature.world import World, load_world
from mmn_utils.presets import data_path


@pytest.fixture(scope="session")
def world() -> World:
    return load_world(data_path("miniature", "concepts.yaml"))
