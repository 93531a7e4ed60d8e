"""One tiny system, shared by the tests that leave it as it is."""

from __future__ import annotations

import pytest

from tests.models.mplug_owl2.tiny import tiny


@pytest.fixture(scope="module")
def model():
    return tiny()
