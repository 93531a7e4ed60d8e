"""Chromium for the tests: the system's own, found on the PATH, and pages that watch themselves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

REQUIRED = "MMN_REQUIRE_BROWSER"  # environment variable: what cannot be driven is a failure
NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """Find the browser that the system has, or none; nothing is downloaded for the tests."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def needed() -> None:
    """Skip the test where there is no browser to drive, or fail where ``REQUIRED`` is set."""
    lacking = []
    if find_spec("playwright") is None:
        lacking.append("playwright is not installed")
    if executable() is None:
        lacking.append(f"no {', '.join(NAMES)} on the PATH")
    if lacking and os.environ.get(REQUIRED):
        pytest.fail(f"{'; '.join(lacking)}, and {REQUIRED} is set")
    if lacking:
        pytest.skip("; ".join(lacking))


class Windows:
    """Opens pages, and keeps what went wrong in them: errors on the console, uncaught ones."""

    def __init__(self, browser) -> None:
        self.browser, self.contexts, self.faults = browser, [], []

    def __call__(
        self, width: int = 1400, height: int = 1000, dark: bool = False, offline: bool = True
    ):
        """Open an empty page of a size, light or dark, without a network unless asked for."""
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
        )
        context.set_offline(offline)
        context.set_default_timeout(15_000)
        self.contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._said)
        return page

    def _said(self, message) -> None:
        if message.type == "error":
            self.faults.append(f"{message.text} ({message.location.get('url', '')})")

    def close(self) -> None:
        for context in self.contexts:
            context.close()


@contextmanager
def started() -> Iterator:
    """Start the browser without a window; close it afterwards."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable(), args=["--no-sandbox", "--force-color-profile=srgb"]
        )
        try:
            yield browser
        finally:
            browser.close()
