"""Counts on a few layers without numbers against whole small systems that really compute."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmn_utils.running.planning.measuring import Rates
from mmn_utils.running.planning.passes import PASSES, Trials
from mmn_utils.running.planning.proxy import Proxy
from mmn_utils.running.planning.systems import Size, size_of
from mmn_utils.running.planning.tally import counted, peak

LLAMA = Size("x", "llama", 5, 64, 176, 8, 900, 16, key_heads=2)
GRID = {
    "gptj 6 layers": Size("x", "gptj", 6, 64, 256, 4, 300, 36),
    "llama 5 layers, few key heads": LLAMA,
}
LENGTH, ROWS = 6, 8


@pytest.fixture(scope="module", params=GRID, ids=str)
def system(request):
    size = GRID[request.param]
    return Trials(size, torch.float32, Rates(1e11, 1e11, 1e10, 1e9)), Proxy(size, "cpu")


@pytest.mark.parametrize("name", PASSES)
def test_peak_memory_is_that_of_the_whole_system(system, name):
    trials, model = system
    truth = peak(partial(PASSES[name].run, model, ROWS, LENGTH))
    assert trials.taken(name, ROWS, LENGTH).memory == pytest.approx(truth, rel=0.15)


@pytest.mark.parametrize("name", PASSES)
def test_time_is_that_of_the_calls_and_the_work_of_the_whole_system(system, name):
    trials, model = system
    slow = Rates(1e7, 1e7, 1e7, 1e7)  # so that the work takes about as long as the calls
    ticks = itertools.count()  # whatever is timed takes a second, by this clock
    again = Trials(trials.size, trials.dtype, slow, ticks.__next__)
    with counted() as tally:
        PASSES[name].run(model, 4, LENGTH)
    work = sum(slow.seconds(*one) for phase in tally.phases() for one in phase.works)
    calls = sum(phase.calls for phase in tally.phases())
    assert again._call(name) < 1 / 200  # of a small system, which has some hundred calls
    expected = work + calls * again._call(name)
    assert again.taken(name, 4, LENGTH).seconds == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", ["caption", "attribution"])
def test_few_key_heads_make_as_many_calls(name):
    few, many = (
        Trials(size, torch.float32, Rates(1.0, 1.0, 1.0, 1.0))._of_all_layers(name, 4, 5)[1]
        for size in (LLAMA, replace(LLAMA, key_heads=LLAMA.heads))
    )
    assert few[2] == many[2]
    assert few[0] < many[0]


@pytest.mark.parametrize("name", ["forward", "caption"])
def test_operations_are_those_that_torch_counts(system, name):
    trials, model = system
    with FlopCounterMode(display=False) as found:
        PASSES[name].run(model, 4, LENGTH)
    counted = trials.taken(name, 4, LENGTH).operations
    # torch's counter does not know the processor's kernel of attention
    assert counted == pytest.approx(
        found.get_total_flops(), rel=0.05 if model.size.kind == "gptj" else 0.2
    )
    assert counted >= 0.98 * found.get_total_flops()


def test_a_system_of_thirteen_billion_weights_takes_no_memory_of_its_own():
    model = Proxy(size_of("llava"), "meta", torch.bfloat16)
    assert all(tensor.is_meta for tensor in model.language_model.parameters())
    taken = Trials(size_of("llava"), torch.bfloat16, Rates(1e12, 1e12, 1e9, 1e9)).taken(
        "forward", 16, 50
    )
    # two operations for each weight and token, but for the last layer and what is not read
    assert taken.operations == pytest.approx(2 * 12.7e9 * 16 * (256 + 60 + 50), rel=0.1)


def test_a_call_takes_what_computes_or_moves_longer_and_calls_come_on_top():
    slow = Rates(operations=10.0, float32=10.0, memory=5.0, disk=1.0)
    assert slow.seconds(20.0, 5) == 2.0
    assert slow.seconds(20.0, 50) == 10.0
    assert slow.together(3.0, 2.0) == 5.0
    assert replace(slow, apart=True).together(3.0, 2.0) == 3.0


def test_the_peak_is_that_of_tensors_that_live_together():
    for device in ("cpu", "meta"):
        a = torch.ones(1000, device=device)

        def work(a=a):
            b = a + 1  # 4000 bytes
            c = b * 2  # 8000 together
            del b
            return (c[:10] + a[:10]).sum()  # views take nothing

        assert peak(work) == pytest.approx(8000, abs=50)


def test_phases_are_told_apart_and_begin_with_what_lives():
    with counted() as seen:
        a = torch.ones(1000)
        b = a + 1
        del b
        seen.phase()
        c = a + 1  # as much again, where b lay
        seen.phase()
    assert seen.peaks() == pytest.approx([8000, 8000, 8000], abs=50)
    del c


def test_what_comes_to_lie_where_something_known_lay_is_counted():
    with counted() as seen:
        for _ in range(20):
            given = torch.from_numpy(np.zeros(1000, dtype=np.float32))  # not made in sight
            given.sum()
            del given
            seen.phase()
            made = torch.ones(1000)
            seen.phase()
            del made
    assert seen.peaks()[1::2] == pytest.approx([4000] * 20, abs=50)


def test_products_are_counted_by_operations_and_picks_by_what_they_put_out():
    a, table = torch.ones(4, 8, device="meta"), torch.ones(1000, 8, device="meta")
    with counted() as seen:
        a @ a.T
        table[torch.tensor([1, 2], device="meta")]
    (product, picked) = seen.phases()[0].works[0], seen.phases()[0].works[-1]
    assert product == (2 * 4 * 8 * 4, 4 * (4 * 8 + 4 * 8 + 4 * 4))
    assert picked == (0.0, 2 * 4 * 2 * 8)
