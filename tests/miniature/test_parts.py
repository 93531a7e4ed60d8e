"""Making all parts: what needs another waits for it, and no more run than there are cores."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict

import pandas as pd
import pytest
import torch

from mmn_utils.miniature.__main__ import (
    PARTS,
    Made,
    Part,
    finished,
    keep_times,
    make_part,
    run_parts,
    run_timed,
)


class Maker:
    """Makes parts, and notes when each began and ended and how many cores were busy."""

    def __init__(self, cores: int) -> None:
        self.cores, self.busy, self.most = cores, 0, 0
        self.notes: list[tuple[str, str]] = []
        self.lock = threading.Lock()

    def __call__(self, part: Part) -> None:
        with self.lock:
            self.notes.append(("begins", part.name))
            self.busy += min(part.cores, self.cores)
            self.most = max(self.most, self.busy)
        time.sleep(0.01)
        with self.lock:
            self.notes.append(("ends", part.name))
            self.busy -= min(part.cores, self.cores)

    def place(self, what: str, module: str) -> int:
        return self.notes.index((what, module))


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_every_part_is_made_once_after_those_it_needs(cores):
    make = Maker(cores)
    run_parts(PARTS, make, cores)
    assert sorted(name for what, name in make.notes if what == "begins") == sorted(
        part.name for part in PARTS
    )
    for part in PARTS:
        for needed in part.after:
            assert make.place("ends", needed) < make.place("begins", part.name)
    assert make.most <= cores
    assert cores == 1 or make.most > 1


def test_parts_are_listed_after_those_they_need():
    for place, part in enumerate(PARTS):
        assert set(part.after) <= {earlier.name for earlier in PARTS[:place]}


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_the_second_papers_parts_wait_until_all_of_the_first_have_begun(cores):
    make = Maker(cores)
    parts = (
        Part("slow", "slow"),
        Part("after it", "later", ("slow",)),
        Part("another paper's", "other", paper="B"),
    )
    run_parts(parts, make, cores)
    assert make.place("begins", "later") < make.place("begins", "other")


def failing(module: str, make: Callable[[Part], None]) -> Callable[[Part], None]:
    def made(part: Part) -> None:
        make(part)
        if part.module == module:
            raise RuntimeError(f"{module} broke")

    return made


def test_a_failure_stops_what_has_not_begun():
    make = Maker(1)
    parts = (Part("a", "a"), Part("b", "b", ("a",)), Part("c", "c"))
    with pytest.raises(RuntimeError, match="a broke"):
        run_parts(parts, failing("a", make), 1)
    assert [name for what, name in make.notes if what == "begins"] == ["a"]


def test_a_part_runs_in_a_process_of_its_own_and_only_once(tmp_path, monkeypatch, capsys):
    calls = []

    def run(command, more):
        calls.append((*command[2:], more["OMP_NUM_THREADS"]))
        return len(calls) - 1, 7.0

    monkeypatch.setattr("mmn_utils.miniature.__main__.run_timed", run)
    part = Part("the scenes", "scenes", cores=2, options=("--val", "600"))
    make_part(part, tmp_path)
    make_part(part, tmp_path)
    assert calls == [("mmn_utils.miniature.scenes", "--val", "600", "2")]
    assert "the scenes: finished before, in 0 s" in capsys.readouterr().out
    processor = torch.backends.cpu.get_cpu_capability()
    assert finished(part, tmp_path) == Made(seconds=0, core_seconds=7, processor=processor)
    with pytest.raises(RuntimeError, match=r"LLaVA: broke off \(status 1\)"):
        make_part(Part("LLaVA", "llava"), tmp_path)
    assert finished(Part("LLaVA", "llava"), tmp_path) is None


BUSY = (
    "import os, sys, time\nwhile time.process_time() < 0.5: pass\nsys.exit(int(os.environ['END']))"
)


def test_processor_time_is_that_of_the_process_whatever_runs_beside_it():
    started = time.process_time()
    status, seconds = run_timed([sys.executable, "-c", BUSY], {"END": "3"})
    assert status == 3
    assert 0.5 <= seconds < 1.5
    assert time.process_time() - started < 0.2  # ours is not in it
    _, idle = run_timed([sys.executable, "-c", "import time; time.sleep(0.5)"], {})
    assert idle < 0.4


@pytest.mark.parametrize("words", ["12 s AVX2", '{"seconds": 12}', "12"])
def test_a_mark_that_cannot_be_read_is_named_before_anything_runs(tmp_path, words):
    mark = tmp_path / "done" / "scenes"
    mark.parent.mkdir()
    mark.write_text(f"{words}\n")
    with pytest.raises(RuntimeError, match=r"done/scenes says '.*12.*', not what.*remove it"):
        make_part(Part("the scenes", "scenes"), tmp_path)


def test_times_are_kept_and_the_whole_only_if_made_in_one_go(tmp_path):
    work, data = tmp_path / "work", tmp_path / "data"
    (work / "done").mkdir(parents=True)
    for number, part in enumerate(PARTS):
        processor = "AVX512" if part.paper == "A" else "AVX2"  # the second paper's elsewhere
        made = Made(90 * number, 120 * number, processor)
        (work / "done" / part.name).write_text(json.dumps(asdict(made)))
    keep_times(work, data, None)
    resumed = pd.read_csv(data / "training" / "times.csv")
    assert set(zip(resumed["paper"], resumed["processor"], strict=True)) == {
        ("A", "AVX512"),
        ("B", "AVX2"),
    }
    assert resumed["part"].tolist() == [part.title for part in PARTS]
    assert resumed["minutes"].tolist() == [1.5 * number for number in range(len(PARTS))]
    assert resumed["core_minutes"].tolist() == [2.0 * number for number in range(len(PARTS))]
    keep_times(work, data, 12.34)
    *_, last = pd.read_csv(data / "training" / "times.csv").to_dict("records")
    whole = (last["part"], last["minutes"], last["core_minutes"])
    assert whole == ("everything", 12.3, resumed["core_minutes"].sum())
