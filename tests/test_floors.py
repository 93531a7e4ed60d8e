"""The plan of the house: which room stands on which floor, and that nothing imports upwards."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mmn_utils.presets import ROOT

PACKAGE = ROOT / "mmn_utils"
# A room imports from its own floor's rooms below it in this list never: only from lower floors,
# and from itself. Files beside the rooms count as rooms of their own.
FLOORS = {
    "compat": 0,
    "commands": 0,
    "presets": 0,
    "plain_yaml": 0,
    "memory": 0,
    "shards": 0,
    "values": 0,
    "cache": 0,
    "datasets": 1,
    "models": 2,
    "measures": 2,
    "neurons": 3,
    "training": 3,
    "interventions": 4,
    "studies": 5,
    "exhibits": 6,
    "browser": 7,
    "running": 7,
    "miniature": 7,
    "smol": 7,
    "face": 8,
    "__main__": 8,
}
GROUND = 0  # its files may use each other
LONGEST_FILE, LONGEST_FUNCTION = 450, 50  # lines

files = sorted(PACKAGE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", files, ids=lambda p: str(p.relative_to(PACKAGE)))


def room_of(module: str) -> str:
    """Return the room of a dotted module of the package, or "" for the package itself."""
    return [*module.split("."), ""][1]


def imported(path: Path) -> set[str]:
    """Return the rooms that a file imports, by name or out of the package itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name, from mmn_utils"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {room_of(name) for name in names if name.split(".")[0] == PACKAGE.name}
    return found - {""}


@each_file
def test_nothing_imports_a_room_above_or_beside(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return  # hands the face's names out
    assert room in FLOORS, f"{room} stands on no floor"
    for other in imported(path) - {room}:
        assert other in FLOORS, f"{other} stands on no floor"
        lower = FLOORS[other] < FLOORS[room] or FLOORS[other] == FLOORS[room] == GROUND
        assert lower, f"{path.relative_to(ROOT)} of {room} imports {other}"


def test_every_floor_has_its_room():
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    assert set(FLOORS) <= there


@each_file
def test_files_and_functions_are_short(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{node.name} has {lines} lines"
