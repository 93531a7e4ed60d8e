"""Compute once, keyed by content.

A result's address is a hash of three things: what was asked (canonical JSON), on what
(put the model's and the data's revision into the key) and by which code (a hash of the
sources). Files appear under their final name only when they are complete, so a killed
run leaves nothing half-written and the next one goes on where it stopped. Processes that
want the same thing at the same time share the work: what one has taken on, no other does.

The folder is ``data/cache/results``, or what the environment variable ``MMN_CACHE``
names.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from mmn_utils.memory import Fit
from mmn_utils.presets import data_path
from mmn_utils.shards import end_of_shard, mine_of

Value = TypeVar("Value")

# Rooms that only show or start things, beside all that ends with plots.py: a change there
# leaves computed results as they are.
NOT_COMPUTING = ("browser", "exhibits", "miniature", "running")
COVERED = b"mmn_images"  # metadata key of a batch file: the images that it covers
TAKEN = ".taken-"  # how the name of a file begins that lists images on which somebody works


def cache_root() -> Path:
    """Return the folder of cached results."""
    return Path(os.environ.get("MMN_CACHE") or data_path("cache", "results"))


# --- keys ------------------------------------------------------------------------------


def canonical(value: Any) -> str:
    """Return the one JSON text of ``value``, whatever the order of its keys.

    Takes None, bool, int, str, finite float, numpy scalars, lists, tuples, dicts with
    str keys, dataclasses. ValueError for anything else: its text might not be stable.
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **_plain(asdict(value))}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"cache key {value!r}: the keys of a dict must be str")
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"cache key holds {value!r} of type {type(value).__name__}; give numbers, text, lists, "
        "dicts or dataclasses (of a set, a sorted list; of a path, its text)"
    )


def code_version(modules: Iterable[ModuleType] | None = None) -> str:
    """Return a hash of the sources of ``modules``; by default of all computing rooms."""
    if modules is None:
        return _package_version()
    return _hash_files(Path(module.__file__) for module in modules)


@lru_cache(maxsize=1)
def _package_version() -> str:
    package = Path(__file__).parent
    files = (
        path
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] not in NOT_COMPUTING
    )
    return _hash_files(files)


def _hash_files(files: Iterable[Path]) -> str:
    digest = sha256()
    for path in files:
        # Names and lengths are hashed too, so that moving text between files counts.
        content = path.read_bytes()
        digest.update(f"{path.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:16]


def _folder(kind: str, root: str | Path | None) -> Path:
    if not kind or kind != Path(kind).name or kind.startswith("."):
        raise ValueError(f"kind = {kind!r} must be a plain folder name, such as 'attribution'")
    return Path(root or cache_root()) / kind


# --- one result ------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` if all went well.

    The temporary name keeps the suffix, since writers choose formats by it. What the
    block left behind is removed if it raised.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        if not temporary.exists():
            raise ValueError(f"nothing was written to {temporary}; does the writer add a suffix?")
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)  # a folder cannot be renamed over a full one
        os.replace(temporary, path)
    finally:
        _remove(temporary)


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock of a file or a folder, which is made if need be, against other processes.

    A process that dies lets go of it.
    """
    path = Path(path)
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def cached(
    kind: str,
    key: dict[str, Any],
    compute: Callable[[], Value],
    *,
    save: Callable[[Value, Path], Any],
    load: Callable[[Path], Value],
    root: str | Path | None = None,
    code: Iterable[ModuleType] | None = None,
    suffix: str = "",
) -> Value:
    """Load the result of this key, or compute, save and load it.

    ``save(value, path)`` writes a file or a folder, ``load(path)`` reads it back; both
    run in either case, so that a first and a second call give the very same thing.
    ``suffix`` is for writers that insist on one (``.npy``); ``code`` narrows the code
    version from all computing rooms to some modules. Of two processes that ask at once,
    one computes and the other waits.
    """
    identity = canonical({"key": key, "code": code_version(code)})
    folder = _folder(kind, root)
    digest = sha256(identity.encode()).hexdigest()[:24]
    path = folder / f"{digest}{suffix}"
    if not path.exists():
        with _alone(folder / f".{digest}.lock"):
            if not path.exists():  # somebody may have been faster
                value = compute()
                with atomic(folder / f"{digest}.key.json") as temporary:
                    temporary.write_text(identity + "\n", encoding="utf-8")  # for human eyes
                with atomic(path) as temporary:
                    save(value, temporary)
    return load(path)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is there only as long as somebody needs it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def clear(kind: str, root: str | Path | None = None) -> None:
    """Remove every cached result of this kind."""
    folder = _folder(kind, root)
    if folder.is_dir():
        shutil.rmtree(folder)


# --- one result per image --------------------------------------------------------------


def per_image(
    kind: str,
    key: dict[str, Any],
    image_ids: Sequence[str],
    compute_batch: Callable[[list[str]], pd.DataFrame],
    batch_size: int = 16,
    progress: bool = True,
    *,
    root: str | Path | None = None,
    code: Iterable[ModuleType] | None = None,
    empty_ok: bool = False,
) -> pd.DataFrame:
    """Compute a table image by image, in batches, and never the same image twice.

    ``compute_batch(ids)`` returns rows with a column ``image``; each batch becomes one
    parquet file, written atomically, so a killed run resumes. The images are not part
    of the key: more images later reuse the earlier ones, and processes that run at the
    same time take turns batch by batch. Where memory is out, a batch is computed in halves.
    Returns the images' rows, in the order of ``image_ids``; inside ``only_shard`` of this kind
    it computes that shard's batches and does not return.

    Raises ValueError for a batch with rows of other images, and, unless ``empty_ok``,
    for an image without rows. The merged table covers the images exactly, or raises.
    """
    ids = list(image_ids)
    _check_ids(ids, batch_size)
    identity = canonical({"key": key, "code": code_version(code)})
    folder = _folder(kind, root) / f"{sha256(identity.encode()).hexdigest()[:24]}.images"
    with atomic(folder / "key.json") as temporary:
        temporary.write_text(identity + "\n", encoding="utf-8")
    mine = mine_of(kind, ids, batch_size)
    files: dict[str, Path] = {}
    fit = Fit(batch_size)
    # Closed at once if a batch fails, so that nobody waits for it.
    turns = contextlib.closing(_turns(folder, mine, batch_size, files))
    with turns as turns, bar(kind, len(mine), progress) as shown:
        for batch in turns:
            shown.update(sum(image in files for image in mine) - shown.n)
            _write_batch(folder, batch, _joined(fit.run(compute_batch, batch)), empty_ok)
            shown.update(len(batch))
        shown.update(len(mine) - shown.n)
    end_of_shard(kind)
    return _merge(files, ids)


def _turns(
    folder: Path, ids: list[str], batch_size: int, files: dict[str, Path]
) -> Iterator[list[str]]:
    """Give out batches of images that nobody has computed or works on, until all are there.

    A batch is taken while the caller works on it, and must be written before the next is
    asked for. Batches begin at every ``batch_size``-th image, whoever computes them, and
    rounding, which depends on what is computed together, hardly depends on who came
    first. Keeps ``files``, image to file, up to date.
    """
    pieces = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    while True:
        with locked(folder):
            # In this order: a batch is written before it is let go of.
            taken = _taken(folder)
            _cover(folder, files)
            pieces = [piece for piece in pieces if any(image not in files for image in piece)]
            free = ([i for i in piece if i not in files and i not in taken] for piece in pieces)
            batch = next(filter(None, free), None)
            claim = None if batch is None else _take(folder, batch)
        if claim is not None:
            path, file = claim
            try:
                yield batch
            finally:
                path.unlink(missing_ok=True)
                file.close()
        elif pieces:
            _await(next(taken[image] for piece in pieces for image in piece if image in taken))
        else:
            return


def _take(folder: Path, batch: list[str]) -> tuple[Path, TextIO]:
    """Write down that this process works on a batch, and lock the note; the caller has ours."""
    path = folder / f"{TAKEN}{_batch_name(batch)}"
    file = path.open("w", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    json.dump(batch, file)
    file.flush()
    return path, file


def _taken(folder: Path) -> dict[str, Path]:
    """Map the images on which a living process works to its note; drop the notes of others."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(f"{TAKEN}*")):
        with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.update(dict.fromkeys(json.load(file), path))
            else:
                path.unlink(missing_ok=True)
    return found


def _await(path: Path) -> None:
    """Wait until the process that wrote a note is done with its batch, or dead."""
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def _check_ids(ids: list[str], batch_size: int) -> None:
    if not ids:
        raise ValueError("image_ids is empty; there is nothing to compute")
    wrong = [image for image in ids if not isinstance(image, str)]
    if wrong:
        raise ValueError(f"image id {wrong[0]!r} is of type {type(wrong[0]).__name__}; give str")
    if len(set(ids)) != len(ids):
        twice = next(image for image in ids if ids.count(image) > 1)
        raise ValueError(f"image id {twice!r} is given twice")
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size!r} must be at least 1")


def _write_batch(folder: Path, batch: list[str], rows: pd.DataFrame, empty_ok: bool) -> None:
    if "image" not in rows.columns:
        raise ValueError(f"compute_batch must return a column 'image'; got {list(rows.columns)}")
    found = set(rows["image"])
    if found - set(batch):
        raise ValueError(
            f"compute_batch returned rows of {sorted(found - set(batch))[:3]}, which "
            "it was not asked for"
        )
    missing = [image for image in batch if image not in found]
    if missing and not empty_ok:
        raise ValueError(
            f"compute_batch returned no row for {missing[:3]}; pass empty_ok=True if "
            "an image may have none"
        )
    table = pa.Table.from_pandas(rows, preserve_index=False)
    covered = {COVERED: json.dumps(batch).encode()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **covered})
    with atomic(folder / f"{_batch_name(batch)}.parquet") as temporary:
        pq.write_table(table, temporary)


def _batch_name(batch: list[str]) -> str:
    return sha256(json.dumps(batch).encode()).hexdigest()[:24]


def _cover(folder: Path, files: dict[str, Path]) -> None:
    """Add every image that the folder covers, with its file; ValueError where two claim it."""
    known = set(files.values())
    for path in _batch_files(folder):
        if path in known:
            continue
        for image in json.loads(_schema(path).metadata[COVERED]):
            if image in files:
                raise ValueError(
                    f"image {image!r} is in {files[image].name} and in {path.name} of {folder}; "
                    "something else wrote there: remove one of the files"
                )
            files[image] = path


def _batch_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def _schema(path: Path) -> pa.Schema:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it") from error
    if COVERED not in (schema.metadata or {}):
        raise ValueError(f"{path} was not written by this cache; remove it")
    return schema


def _merge(files: dict[str, Path], ids: list[str]) -> pd.DataFrame:
    """Return the rows of ``ids``, in their order, from the files that cover them."""
    needed = dict.fromkeys(files[image] for image in ids)
    order = {image: place for place, image in enumerate(ids)}
    rows = _joined([pq.read_table(path).to_pandas() for path in needed])
    place = rows["image"].map(order)
    rows = rows[place.notna()]
    return rows.loc[place.dropna().sort_values(kind="stable").index].reset_index(drop=True)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    full = [frame for frame in frames if len(frame)]  # an empty one may have lost its types
    return pd.concat(full or frames[:1], ignore_index=True)


# What ``bar`` leaves on a line. Which bars there are depends on what the cache had before.
BAR = re.compile(r"^.*: .{24} \d+ of \d+ \w+\n?", re.MULTILINE)


def bar(kind: str, total: int, progress: bool, unit: str = "images") -> tqdm:
    """Open one bar for a piece of work: ``update(n)`` as it goes on, ``close()`` at its end.

    It holds no times, so that the executed copies of a notebook are alike.
    """
    form = "{desc}: {bar:24} {n_fmt} of {total_fmt} " + unit
    return tqdm(
        total=total,
        desc=kind,
        disable=not progress,
        bar_format=form,
        file=sys.stdout,
    )
