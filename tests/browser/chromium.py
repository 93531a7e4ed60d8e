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
    """Opens pages, and keeps what went wrong in them: errors on the console, uncaught ones.

    With ``spare``, pages are not closed but emptied and put there, by light and network: a new one
    takes a second.
    """

    def __init__(self, browser, spare: dict | None = None) -> None:
        self.browser, self.spare = browser, spare
        self.opened, self.faults = [], []

    def __call__(
        self, width: int = 1400, height: int = 1000, dark: bool = False, offline: bool = True
    ):
        """Open an empty page of a size, light or dark, without a network unless asked for."""
        kind = dark, offline
        page = (self.spare or {}).pop(kind, None) or self._new(*kind)
        page.set_viewport_size({"width": width, "height": height})
        page.on("pageerror", self._broke)
        page.on("console", self._said)
        self.opened.append((page, kind))
        return page

    def _new(self, dark: bool, offline: bool):
        context = self.browser.new_context(
            color_scheme="dark" if dark else "light", accept_downloads=True
        )
        context.set_offline(offline)
        context.set_default_timeout(15_000)
        return context.new_page()

    def _broke(self, error) -> None:
        self.faults.append(str(error))

    def _said(self, message) -> None:
        if message.type == "error":
            self.faults.append(f"{message.text} ({message.location.get('url', '')})")

    def close(self) -> None:
        for page, kind in self.opened:
            page.remove_listener("pageerror", self._broke)
            page.remove_listener("console", self._said)
            if self.spare is None or kind in self.spare:
                page.context.close()
                continue
            page.unroute_all()
            page.mouse.move(0, 0)
            page.goto("about:blank")
            self.spare[kind] = page


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
