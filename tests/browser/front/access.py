"""What hinders people in a page: controls without a name, faint, cut or covered text."""

from __future__ import annotations

from pathlib import Path

CHECKS = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


def nameless(page) -> list[str]:
    """List the visible controls that a screen reader has no name for."""
    return _found(page, "nameless")


def faint(page) -> list:
    """List texts whose contrast is below 4.5 to 1: text, ratio, colour, ground."""
    return _found(page, "faint")


def overlapping(page) -> list:
    """List pairs of parts, or of controls, that lie over one another."""
    return _found(page, "overlapping")


def clipped(page) -> list:
    """List boxes that hide a part of what is in them."""
    return _found(page, "clipped")


def _found(page, name: str) -> list:
    return page.evaluate(f"() => {{ {CHECKS}\n return {name}(); }}")
