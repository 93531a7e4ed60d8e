"""What git keeps is small, but for what cannot be."""

from __future__ import annotations

import shutil
import subprocess
from fnmatch import fnmatch

import pytest

from mmn_utils.exhibits.entries import ALL_FILES, NUMBERS, NUMBERS_ALONE, SHIPPED
from mmn_utils.presets import ROOT

LARGEST = 1_000_000  # bytes
LARGEST_NUMBERS = 300_000  # bytes of a file that has no picture in it
MAY_BE_LARGER = {
    "data/*/*.safetensors": "trained weights, which nothing smaller stands for",
    "figures/*/browser.html": "a browser of its own, with a limit of its own",
}


def tracked() -> dict[str, int]:
    """Return the size of each tracked file that is there, in bytes."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    paths = [path for path in listed.split("\0") if path and (ROOT / path).is_file()]
    assert "pyproject.toml" in paths
    return {path: (ROOT / path).stat().st_size for path in paths}


def test_no_tracked_file_is_large_without_a_reason():
    large = {path: size for path, size in tracked().items() if size > LARGEST}
    assert {
        path: size
        for path, size in large.items()
        if not any(fnmatch(path, pattern) for pattern in MAY_BE_LARGER)
    } == {}
    for pattern in MAY_BE_LARGER:
        there = any(fnmatch(path, pattern) for path in tracked())
        is_large = any(fnmatch(path, pattern) for path in large)
        assert is_large or not there, f"nothing is large in {pattern}"


def test_of_the_runs_only_those_that_ship_are_kept():
    lines = (ROOT / ".gitignore").read_text().splitlines()
    kept = {line.removeprefix("!figures/") for line in lines if line.startswith("!figures/")}
    numbers = {f"{run}/*{end}" for run in NUMBERS_ALONE for end in NUMBERS}
    assert "figures/*" in lines
    assert kept == {*SHIPPED, *NUMBERS_ALONE, *numbers}
    assert "scratch" not in kept
    assert "build/" in lines


@pytest.mark.parametrize("run", NUMBERS_ALONE)
def test_of_photographs_that_are_not_ours_numbers_alone_are_kept(run):
    names = ["report.html", "browser.html", "notebooks/02_attribution.html", "notebooks/a.csv",
             "claims.csv", "versions.csv"]  # fmt: skip
    names += [f"A-fig-1{end}" for end in (*ALL_FILES, ".html", ".svg", ".jpg")]
    for name in names:
        numbers = "/" not in name and name.endswith(NUMBERS)
        assert is_ignored(f"figures/{run}/{name}") != numbers, name
    for path, size in tracked().items():
        if path.startswith(f"figures/{run}/"):
            assert path.endswith(NUMBERS), path
            assert size < LARGEST_NUMBERS, path
            assert "base64" not in (ROOT / path).read_text("utf-8"), path


def is_ignored(path: str) -> bool:
    """Say whether git would leave out a file, there or not."""
    asked = ["git", "check-ignore", "--no-index", "-q", path]
    return subprocess.run(asked, cwd=ROOT, check=False).returncode == 0
