"""The cache: stable keys, nothing half-written, resumed after a kill, exact cover."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmn_utils import cache
from mmn_utils.cache import atomic, cached, canonical, clear, code_version, per_image
from mmn_utils.presets import ROOT
from mmn_utils.shards import only_shard

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


# --- keys ------------------------------------------------------------------------------


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_canonical_does_not_see_the_order_of_keys(key):
    backwards = dict(reversed(key.items()))
    assert canonical(key) == canonical(backwards)


@given(json_values, json_values)
def test_canonical_is_equal_only_for_what_is_equal(a, b):
    def strict(value):  # 1, 1.0 and True are equal to Python, and not to a key
        return repr(value) if not isinstance(value, dict | list) else None

    if canonical(a) == canonical(b):
        assert a == b
        assert strict(a) == strict(b)


def test_canonical_takes_numpy_dataclasses_and_tuples():
    @dataclass(frozen=True)
    class Thing:
        size: int

    assert canonical({"a": np.int64(3), "b": (1, 2), "c": np.bool_(True)}) == canonical(
        {"c": True, "b": [1, 2], "a": 3}
    )
    assert canonical(Thing(3)) == '{"size":3,"type":"Thing"}'


@pytest.mark.parametrize("value", [{1, 2}, object(), Path("x"), {1: 2}, float("nan"), b"x"])
def test_canonical_refuses_what_has_no_stable_text(value):
    with pytest.raises(ValueError, match=r"cache key|JSON|nan"):
        canonical({"x": value})


def test_code_version_follows_the_source(tmp_path):
    file = tmp_path / "module.py"
    module = SimpleNamespace(__file__=str(file))
    file.write_text("a = 1\n")
    before = code_version([module])
    assert code_version([module]) == before
    file.write_text("a = 2\n")
    assert code_version([module]) != before
    assert len(code_version()) == 16


# --- one result ------------------------------------------------------------------------


def save_text(value: str, path: Path) -> None:
    path.write_text(value)


def test_cached_computes_once_and_knows_its_key(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return "result"

    arguments = {"save": save_text, "load": Path.read_text, "root": tmp_path}
    assert cached("text", {"k": 1}, compute, **arguments) == "result"
    assert cached("text", {"k": 1}, compute, **arguments) == "result"
    assert len(calls) == 1
    cached("text", {"k": 2}, compute, **arguments)
    cached("other", {"k": 1}, compute, **arguments)
    assert len(calls) == 3
    clear("text", root=tmp_path)
    cached("text", {"k": 1}, compute, **arguments)
    assert len(calls) == 4
    assert '"k":1' in next((tmp_path / "text").glob("*.key.json")).read_text()


def test_cached_depends_on_the_code(tmp_path):
    file = tmp_path / "module.py"
    module = SimpleNamespace(__file__=str(file))
    arguments = {"save": save_text, "load": Path.read_text, "root": tmp_path, "code": [module]}
    file.write_text("one")
    assert cached("text", {}, lambda: "old", **arguments) == "old"
    file.write_text("two")
    assert cached("text", {}, lambda: "new", **arguments) == "new"


def test_cached_folders_and_suffixes(tmp_path):
    def save(value, path):
        path.mkdir()
        (path / "a").write_text(value)

    loaded = cached("folder", {}, lambda: "x", save=save, load=lambda p: (p / "a").read_text(),
                    root=tmp_path)  # fmt: skip
    assert loaded == "x"
    numbers = np.arange(3)
    for _ in range(2):
        loaded = cached("array", {}, lambda: numbers, root=tmp_path, suffix=".npy", load=np.load,
                        save=lambda value, path: np.save(path, value))  # fmt: skip
        assert (loaded == numbers).all()


def test_a_failed_save_leaves_nothing(tmp_path):
    def save(value, path):
        path.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        cached("text", {}, lambda: "x", save=save, load=Path.read_text, root=tmp_path)
    assert [p.name for p in (tmp_path / "text").iterdir() if not p.name.endswith("key.json")] == []


def test_a_writer_that_adds_a_suffix_is_told(tmp_path):
    with pytest.raises(ValueError, match="suffix"):
        cached("a", {}, lambda: np.arange(2), save=lambda v, p: np.save(p, v), load=np.load,
               root=tmp_path)  # fmt: skip


@pytest.mark.parametrize("kind", ["", "a/b", "../a", ".a"])
def test_kinds_are_plain_names(tmp_path, kind):
    with pytest.raises(ValueError, match="kind"):
        clear(kind, root=tmp_path)


def test_atomic_keeps_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_and_fail():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_and_fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


# --- per image -------------------------------------------------------------------------


def table(batch: list[str], rows: int = 2) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": [image for image in batch for _ in range(rows)],
            "row": np.tile(np.arange(rows, dtype=np.int32), len(batch)),
            "score": np.array([hash_score(i, r) for i in batch for r in range(rows)], np.float32),
        }
    )


def hash_score(image: str, row: int) -> float:
    return (int(image) * 31 + row) / 7


class Counter:
    def __init__(self, fail_at: int | None = None):
        self.batches: list[list[str]] = []
        self.fail_at = fail_at

    def __call__(self, batch: list[str]) -> pd.DataFrame:
        if len(self.batches) == self.fail_at:
            raise KeyboardInterrupt
        self.batches.append(batch)
        return table(batch)

    @property
    def images(self) -> list[str]:
        return [image for batch in self.batches for image in batch]


IDS = [str(i) for i in (5, 3, 9, 1, 7, 2, 8)]


def run(compute, ids=IDS, root=None, **options):
    options = {"batch_size": 2, "progress": False, **options}
    return per_image("scores", {"model": "x"}, ids, compute, root=root, **options)


def test_per_image_gives_the_rows_in_order_and_computes_once(tmp_path):
    counter = Counter()
    first = run(counter, root=tmp_path)
    pd.testing.assert_frame_equal(first, table(IDS))
    assert [len(batch) for batch in counter.batches] == [2, 2, 2, 1]
    second = run(counter, root=tmp_path)
    pd.testing.assert_frame_equal(second, first)
    assert counter.images == IDS


def test_per_image_resumes_after_an_interruption(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Counter(fail_at=2), root=tmp_path)
    counter = Counter()
    pd.testing.assert_frame_equal(run(counter, root=tmp_path), table(IDS))
    assert counter.images == IDS[4:]


def test_more_images_reuse_the_earlier_ones_and_fewer_cut_them(tmp_path):
    run(Counter(), ids=IDS[:4], root=tmp_path)
    counter = Counter()
    pd.testing.assert_frame_equal(run(counter, root=tmp_path, batch_size=3), table(IDS))
    assert counter.images == IDS[4:]
    few = run(Counter(fail_at=0), ids=["8", "3"], root=tmp_path)
    pd.testing.assert_frame_equal(few, table(["8", "3"]))


def test_a_batch_that_does_not_fit_is_computed_in_halves_and_kept_as_one(tmp_path, capsys):
    sizes = []

    def compute(batch):
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return table(batch)

    pd.testing.assert_frame_equal(run(compute, root=tmp_path, batch_size=4), table(IDS))
    assert sizes == [4, 2, 1, 1, 1, 1, 1, 1, 1]
    assert "out of memory with 4 pictures at a time; going on with 2" in capsys.readouterr().err
    assert len(list(tmp_path.glob("*/*/*.parquet"))) == 2


@given(
    total=st.integers(1, 12),
    batch_size=st.integers(1, 5),
    fail_at=st.integers(0, 4),
    shards=st.integers(1, 3),
)
def test_whatever_happened_before_the_table_is_the_same(
    tmp_path_factory, total, batch_size, fail_at, shards
):
    root = tmp_path_factory.mktemp("cache")
    ids = [str(i) for i in range(total)]
    for index in range(shards):
        with suppress(KeyboardInterrupt), only_shard("scores", (index, shards)):
            run(Counter(fail_at), ids=ids, root=root, batch_size=batch_size)
    files = {}
    cache._cover(next((root / "scores").iterdir()), files)
    done = len(files)
    counter = Counter()
    pd.testing.assert_frame_equal(run(counter, ids=ids, root=root), table(ids))
    assert len(counter.images) == total - done


def test_another_key_or_code_is_another_table(tmp_path):
    run(Counter(), root=tmp_path)
    counter = Counter()
    per_image("scores", {"model": "y"}, IDS, counter, progress=False, root=tmp_path)
    assert counter.images == IDS


def test_images_without_rows_need_permission_and_are_not_computed_again(tmp_path):
    def compute(batch):
        assert "3" in batch, "computed again"
        return table([image for image in batch if image != "3"])

    with pytest.raises(ValueError, match="no row for \\['3'\\]"):
        run(compute, ids=["5", "3"], root=tmp_path)
    result = run(compute, ids=["5", "3"], root=tmp_path, empty_ok=True)
    pd.testing.assert_frame_equal(result, table(["5"]))
    only = run(compute, ids=["3"], root=tmp_path / "b", empty_ok=True)
    assert len(only) == 0
    assert list(only.columns) == ["image", "row", "score"]
    pd.testing.assert_frame_equal(
        run(compute, ids=["5", "3"], root=tmp_path, empty_ok=True), result
    )


def test_rows_of_other_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not asked for"):
        run(lambda batch: table([*batch, "77"]), root=tmp_path)
    with pytest.raises(ValueError, match="column 'image'"):
        run(lambda batch: table(batch).drop(columns="image"), root=tmp_path)


@pytest.mark.parametrize("ids", [[], ["1", "1"], [1, 2]])
def test_bad_ids_are_refused(tmp_path, ids):
    with pytest.raises(ValueError, match="image"):
        run(Counter(), ids=ids, root=tmp_path)


def test_two_files_that_claim_an_image_are_an_error(tmp_path):
    run(Counter(), ids=["1", "2"], root=tmp_path)
    folder = next((tmp_path / "scores").iterdir())
    cache._write_batch(folder, ["2", "3"], table(["2", "3"]), False)
    with pytest.raises(ValueError, match="image '2' is in"):
        run(Counter(), ids=["1", "2", "3"], root=tmp_path)


def test_damaged_and_foreign_files_are_named(tmp_path):
    run(Counter(), root=tmp_path)
    file = next((tmp_path / "scores").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match="damaged"):
        run(Counter(), root=tmp_path)
    table(["1"]).to_parquet(file)
    with pytest.raises(ValueError, match="not written by this cache"):
        run(Counter(), root=tmp_path)


def test_progress_is_one_bar_that_is_full_at_the_end(tmp_path, capsys):
    run(Counter(), root=tmp_path, progress=True)
    out = capsys.readouterr().out
    assert out.endswith("7 of 7 images\n")
    assert out.count("\n") == 1
    run(Counter(), root=tmp_path, progress=True)  # all of it is there
    assert capsys.readouterr().out.split("\r")[-1] == out.split("\r")[-1]
    run(Counter(), root=tmp_path, progress=False)
    assert capsys.readouterr().out == ""


CHILD = """
import sys, time
import pandas as pd
from mmn_utils.cache import per_image

def compute(batch):
    print(batch[0], flush=True)
    time.sleep(0.15)
    return pd.DataFrame({"image": batch, "value": [int(i) for i in batch]})

ids = [str(i) for i in range(40)]
per_image("killed", {}, ids, compute, batch_size=1, progress=False, root=sys.argv[1], code=())
"""


def test_a_killed_process_loses_one_batch_at_most(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    begun = [child.stdout.readline() for _ in range(4)]
    time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert len(begun) == 4
    computed = []

    def compute(batch):
        computed.extend(batch)
        return pd.DataFrame({"image": batch, "value": [int(i) for i in batch]})

    ids = [str(i) for i in range(40)]
    result = per_image("killed", {}, ids, compute, 8, progress=False, root=tmp_path, code=())
    assert list(result["value"]) == list(range(40))
    assert computed == ids[len(ids) - len(computed) :]
    assert len(computed) <= 37


# --- processes beside each other ---------------------------------------------------------

BESIDE = """
import sys, time
import pandas as pd
from mmn_utils.cache import cached, per_image

def compute(batch):
    print("images", *batch, flush=True)
    time.sleep(0.05)
    return pd.DataFrame({"image": batch, "value": [int(i) for i in batch]})

def compute_one():
    print("one", flush=True)
    time.sleep(0.3)
    return "text"

root, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ids = [str(i) for i in range(first, last)]
result = per_image("beside", {}, ids, compute, 4, progress=False, root=root, code=())
assert list(result["value"]) == list(range(first, last))
save, load = lambda value, path: path.write_text(value), lambda path: path.read_text()
assert cached("one", {}, compute_one, save=save, load=load, root=root, code=()) == "text"
"""


def test_processes_share_the_work_and_do_nothing_twice(tmp_path):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BESIDE, str(tmp_path), "0", str(last)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for last in (40, 24)
    ]  # fmt: skip
    printed = [child.communicate()[0].splitlines() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    lines = [line for some in printed for line in some]
    batches = sorted([int(i) for i in line.split()[1:]] for line in lines if line != "one")
    assert batches == [list(range(i, i + 4)) for i in range(0, 40, 4)]
    assert lines.count("one") == 1
    left = {path.name for path in tmp_path.rglob(".*")}
    assert not left, "notes and locks are gone"


def test_a_batch_that_a_dead_process_had_taken_is_free_again(tmp_path):
    run(Counter(), ids=IDS[:1], root=tmp_path)
    folder = next((tmp_path / "scores").iterdir())
    (folder / f"{cache.TAKEN}dead").write_text(json.dumps(IDS[2:4]))
    counter = Counter()
    pd.testing.assert_frame_equal(run(counter, root=tmp_path), table(IDS))
    assert counter.images == IDS[1:]
    assert not list(folder.glob(f"{cache.TAKEN}*"))


def test_a_batch_that_is_taken_is_left_to_its_process(tmp_path):
    run(Counter(), ids=IDS[:1], root=tmp_path)
    folder = next((tmp_path / "scores").iterdir())
    path, file = cache._take(folder, IDS[2:4])
    turns = cache._turns(folder, IDS, 2, files := {})
    assert [next(turns) for _ in range(1)] == [[IDS[1]]]
    cache._write_batch(folder, [IDS[1]], table([IDS[1]]), False)
    assert next(turns) == IDS[4:6]
    turns.close()
    assert set(files) == set(IDS[:2])
    path.unlink()
    file.close()
