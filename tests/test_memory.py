"""Out of memory halves the batch and goes on; where one alone does not fit it says what to do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from mmn_utils.memory import Fit, OutOfMemory, in_batches, is_out_of_memory
from mmn_utils.models.capture import replace
from mmn_utils.neurons.captions import caption_images
from tests.tiny import tiny_images, tiny_limber

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
    OutOfMemory("out of memory with one of the conditions alone"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_batches_shrink_until_they_fit_and_stay_so(error, capsys):
    sizes = []

    def compute(part):
        sizes.append(len(part))
        if len(part) > 3:
            raise error
        return list(part)

    found = in_batches(compute, range(10), 8, "rows")
    assert [i for part in found for i in part] == list(range(10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "out of memory with 8 rows at a time; going on with 4",
        "out of memory with 4 rows at a time; going on with 2",
    ]


def test_one_that_does_not_fit_names_the_remedy():
    def compute(_part):
        raise MemoryError

    with pytest.raises(OutOfMemory, match=r"one of the pictures alone; load .* in bfloat16"):
        in_batches(compute, [1, 2, 3], 3)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 cannot be multiplied"), KeyError()])
def test_other_errors_are_not_tried_again(error):
    tried = []

    def compute(part):
        tried.append(part)
        raise error

    assert not is_out_of_memory(error)
    with pytest.raises(type(error)):
        in_batches(compute, [1, 2], 2)
    assert len(tried) == 1


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_size = 0: give at least 1"):
        Fit(0)


def test_what_filled_the_memory_is_let_go_of_before_the_next_try():
    held = []

    class Big:
        def __init__(self):
            held.append(None)

        def __del__(self):
            held.pop()

    def compute(part):
        assert len(held) == 0
        big = Big()
        if len(part) > 1:
            raise MemoryError
        del big
        return part[0]

    assert in_batches(compute, [1, 2, 3, 4], 4) == [1, 2, 3, 4]


def test_captions_are_the_same_where_no_more_than_two_pictures_fit(capsys):
    model, images = tiny_limber(), tiny_images(5)
    expected = caption_images(model, images, 6, batch_size=5)

    def planted(activation):
        if len(activation) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return activation

    with replace(model, {1: planted}):
        assert caption_images(model, images, 6, batch_size=5) == expected
    assert "with 5 pictures at a time; going on with 2" in capsys.readouterr().err


def test_a_variable_of_the_environment_bounds_every_batch(monkeypatch):
    monkeypatch.setenv("MMN_ROWS", "3")
    sizes = in_batches(len, range(8), 5)
    assert sizes == [3, 3, 2]
    assert in_batches(len, range(4), 2) == [2, 2]  # a smaller one stays
    for wrong in ("0", "many", "-1"):
        monkeypatch.setenv("MMN_ROWS", wrong)
        with pytest.raises(ValueError, match=f"MMN_ROWS = '{wrong}': give a whole number"):
            in_batches(len, range(4), 2)
    monkeypatch.setenv("MMN_ROWS", "")
    assert in_batches(len, range(4), 9) == [4]


SCRIPT = """
import numpy as np
from mmn_utils.memory import give_back
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
kept, holes = [], []
for _ in range(400):  # holes of 200 kB, between things that stay
    holes.append(np.ones(25_000))
    kept.append(np.ones(500))
full = resident()
holes.clear()
before = resident()
give_back()
print(full, before, resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is another")
def test_what_is_left_over_between_what_stays_is_given_back():
    large = str(1 << 30)
    own = {"MALLOC_MMAP_THRESHOLD_": large, "MALLOC_TRIM_THRESHOLD_": large}
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **own}, capture_output=True, check=True
    )
    full, before, after = map(int, out.stdout.split())
    if before > full - 20e6:  # another C library may have given it back at once
        assert after < before - 60e6
