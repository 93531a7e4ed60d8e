"""One tiny system, shared by the tests that leave it as it is."""

from __future__ import annotations

import pytest

from tests.models.llava.tiny import tiny_llava


@pytest.fixture(scope="module")
def tiny():
    return tiny_llava()
