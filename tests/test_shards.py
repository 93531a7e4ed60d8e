"""Shards: exact cover, whole batches, and in the end the same files as without them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmn_utils.cache import per_image
from mmn_utils.shards import only_shard, shard_of, shard_slice

IDS = [str(i) for i in range(11)]


def scores(root: Path, seen: list | None = None) -> pd.DataFrame:
    def compute(batch: list[str]) -> pd.DataFrame:
        (seen if seen is not None else []).extend(batch)
        return pd.DataFrame({"image": batch, "score": [hash(i) % 7 / 7 for i in batch]})

    return per_image("scores", {}, IDS, compute, 2, progress=False, root=root, code=())


def files(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in root.rglob("*.parquet")}


@given(st.integers(0, 500), st.integers(1, 40), st.integers(1, 9))
def test_shards_cover_exactly_and_evenly_in_whole_batches(total, shards, size):
    parts = [list(range(total)[shard_slice(total, (i, shards))]) for i in range(shards)]
    assert [i for part in parts for i in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    owned = [shard_of(range(total), (i, shards), size) for i in range(shards)]
    assert [i for part in owned for i in part] == list(range(total))
    assert all(part[0] % size == 0 for part in owned if part)


@pytest.mark.parametrize("shard", [(0, 0), (3, 3), (-1, 2)])
def test_bad_shards_are_refused(shard, tmp_path):
    with pytest.raises(ValueError, match="shard"), only_shard("scores", shard):
        scores(tmp_path)


@pytest.mark.parametrize("shards", [1, 3, 20])
def test_shards_in_any_order_leave_what_one_run_leaves(tmp_path, shards):
    whole = scores(tmp_path / "whole")
    seen: list[str] = []
    for index in reversed(range(shards)):
        with only_shard("scores", (index, shards)):
            scores(tmp_path / "parts", seen)
            raise AssertionError("a shard is not a whole table")
    assert sorted(seen, key=int) == IDS
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    pd.testing.assert_frame_equal(scores(tmp_path / "parts", seen), whole)
    assert len(seen) == len(IDS)


def test_a_kind_that_is_not_asked_for_is_an_error(tmp_path):
    with (
        pytest.raises(ValueError, match="nothing of the kind 'other'"),
        only_shard("other", (0, 2)),
    ):
        scores(tmp_path)
