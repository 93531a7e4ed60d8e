"""What is independent imports nothing of the rooms that it checks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ALLOWED = {"mmn_utils.models", "mmn_utils.presets"}  # loaders, and the repository's root
FILES = sorted(Path(__file__).parent.glob("*.py"))


def imported(path: Path) -> set[str]:
    """All modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: import by the full name"
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_loaders_are_imported(path):
    ours = {name for name in imported(path) if name.split(".")[0] in ("mmn_utils", "tests")}
    assert {name for name in ours if not name.startswith("tests.independent")} <= ALLOWED


def test_the_rooms_that_are_checked_are_not_reached_by_name():
    """Nor by strings, for ``import_module``."""
    rooms = ("studies", "neurons", "interventions", "measures", "exhibits")
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not any(f"mmn_utils.{room}" in text for room in rooms if path != Path(__file__))
