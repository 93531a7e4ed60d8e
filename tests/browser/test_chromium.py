"""Without a browser to drive, tests are skipped with the reason, or fail if they must run."""

from __future__ import annotations

import pytest

from tests.browser import chromium


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setattr(chromium.shutil, "which", lambda _: None)


@pytest.mark.usefixtures("without")
def test_without_a_browser_tests_are_skipped_and_say_why(monkeypatch):
    monkeypatch.delenv(chromium.REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no chromium, .* on the PATH"):
        chromium.needed()


@pytest.mark.usefixtures("without")
def test_where_one_is_required_that_is_a_failure(monkeypatch):
    monkeypatch.setenv(chromium.REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match=rf"no chromium, .*{chromium.REQUIRED} is set"):
        chromium.needed()


def test_with_both_there_nothing_is_said(monkeypatch):
    monkeypatch.setattr(chromium.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(chromium, "find_spec", lambda name: name)
    chromium.needed()
