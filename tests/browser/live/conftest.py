"""What the tests of the live browser share."""

from __future__ import annotations

import pytest

from mmn_utils.interventions.receipts import weights_hash
from tests.browser.live.hooks import hooks


@pytest.fixture
def untouched(made):
    """Whatever a test does, the system is afterwards bit for bit what it was."""
    before, revision = weights_hash(made.model), made.model.revision
    yield
    assert weights_hash(made.model) == before
    assert made.model.revision == revision
    assert hooks(made.model) == 0
