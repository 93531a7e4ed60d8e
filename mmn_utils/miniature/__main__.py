"""Make everything under ``data/miniature`` again, from the concept cards alone.

    python -m mmn_utils.miniature

Each part is a process of its own that goes on from its last checkpoint, so the
command can be stopped and called again. Finished parts are skipped until
``--fresh`` forgets them. Parts that do not need each other run side by side, one core
each: two small trainings of one thread do more than one of two. What was tried on the
way and does not ship is another command's: ``python -m mmn_utils.miniature.variants``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from mmn_utils.miniature.world import WORK, WORLD_FILE


@dataclass(frozen=True)
class Part:
    """A part, its module, the parts that it needs, and how many cores are set aside for it.

    ``paper`` is the one that it is made for first, ``options`` what its module is called with.
    """

    title: str
    module: str
    after: tuple[str, ...] = ()
    cores: int = 1
    paper: str = "A"
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What others call it by, when they need it: its options or, without any, its module."""
        return "_".join(self.options or (self.module,))


#: Of those that could begin, the first in this order does. Two run at a time, of two threads
#: each, lest a core is idle when one of them is slow or alone. CLIP and the projection want the
#: same features; so that none waits for them, the controls come between.
PARTS = (
    Part("held-out scenes and class folders", "scenes", cores=2),
    Part("vision encoder, pictures alone", "vision"),
    Part("language model, text alone", "language"),
    Part("CLIP, for the metric and for paper B's systems", "clip", ("vision",)),
    Part(
        "projections of the controls",
        "projection",
        ("vision", "language"),
        options=("projection_untrained_encoder", "projection_untrained"),
    ),
    Part("projection", "projection", ("vision", "language"), options=("projection",)),
    Part("language model of paper B's systems, text alone", "llama", ("language",), paper="B"),
    Part("InstructBLIP", "instructblip", ("llama", "clip"), paper="B"),
    Part("LLaVA", "llava", ("llama", "clip"), paper="B"),
    Part("mPLUG-Owl2", "mplug_owl2", ("llama", "clip"), paper="B"),
)
#: curves and tables that lie beside the checkpoints; vision keeps its own.
CURVES = (
    "language.csv",
    "projection.csv",
    "projection_smooth.csv",
    "projection_untrained_encoder.csv",
    "projection_untrained_encoder_smooth.csv",
    "clip_seeing.csv",
    "clip.csv",
    "llama.csv",
    "llava_alignment.csv",
    "llava_tuning.csv",
    "instructblip_contrast.csv",
    "instructblip_speaking.csv",
    "mplug_owl2.csv",
)


@dataclass(frozen=True)
class Made:
    """What a finished part took, and the vector instructions of the processor that made it."""

    seconds: float
    core_seconds: float  # of all cores together, that it was computing
    processor: str


def finished(part: Part, work: Path) -> Made | None:
    """Return what a finished part took, or None; RuntimeError for a mark that cannot be read."""
    done = work / "done" / part.name
    if not done.exists():
        return None
    try:
        return Made(**json.loads(done.read_text()))
    except (ValueError, TypeError) as error:
        raise RuntimeError(
            f"{done} says {done.read_text().strip()!r}, not what the part took and on which "
            "processor; remove it to make the part again, which goes on from its last checkpoint"
        ) from error


def make_part(part: Part, work: Path) -> None:
    """Run one part to its end, unless it was finished before; RuntimeError if it breaks off."""
    if (before := finished(part, work)) is not None:
        print(f"{part.title}: finished before, in {before.seconds:.0f} s", flush=True)
        return
    print(f"{part.title}: begins", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-m", f"mmn_utils.miniature.{part.module}", *part.options]
    status, core_seconds = run_timed(command, {"OMP_NUM_THREADS": str(part.cores)})
    if status:
        raise RuntimeError(
            f"{part.title}: broke off (status {status}), its own words are above; "
            "the same command goes on from the last checkpoints"
        )
    processor = torch.backends.cpu.get_cpu_capability()
    made = Made(round(time.monotonic() - started), round(core_seconds), processor)
    done = work / "done" / part.name
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(asdict(made)) + "\n")
    print(f"{part.title}: finished, in {made.seconds} s", flush=True)


def run_timed(command: Sequence[str], more: dict[str, str]) -> tuple[int, float]:
    """Run a command with ``more`` in its environment; return its status and processor seconds.

    They are its own and those of the processes that it waited for, whatever runs beside it.
    """
    process = subprocess.Popen(command, env={**os.environ, **more})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # nobody else has to wait for it
    return process.returncode, usage.ru_utime + usage.ru_stime


def run_parts(parts: Sequence[Part], make: Callable[[Part], None], cores: int) -> None:
    """Call ``make`` for each part when those that it needs are made and enough cores are free.

    No part of the second paper begins before all of the first have.

    Where one fails, those that run come to their end, no other begins, and its error is raised.
    """
    waiting, running, made = list(parts), {}, set()
    with ThreadPoolExecutor(max(1, cores)) as pool:
        while waiting or running:
            free = cores - sum(part.cores for part in running.values())
            for part in [part for part in waiting if part.paper == waiting[0].paper]:
                if made.issuperset(part.after) and (part.cores <= free or not running):
                    running[pool.submit(make, part)] = part
                    waiting.remove(part)
                    free -= part.cores
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                made.add(running.pop(future).name)
                future.result()


def keep_curves(work: Path, data: Path) -> None:
    """Copy the training curves beside the weights that they belong to."""
    (data / "training").mkdir(parents=True, exist_ok=True)
    for name in CURVES:
        if (work / name).exists():
            shutil.copyfile(work / name, data / "training" / name)


def keep_times(work: Path, data: Path, minutes: float | None) -> None:
    """Write what each part took, and all of them together if they were made in one go.

    Columns: part, paper, minutes, core_minutes (that it was computing, of all cores
    together), processor (its vector instructions).
    """
    rows = []
    for part in PARTS:
        made = finished(part, work)
        took = (made.seconds / 60, made.core_seconds / 60)
        rows.append((part.title, part.paper, *took, made.processor))
    if minutes is not None:
        processor = torch.backends.cpu.get_cpu_capability()
        rows.append(("everything", "A and B", minutes, sum(row[3] for row in rows), processor))
    columns = ["part", "paper", "minutes", "core_minutes", "processor"]
    table = pd.DataFrame(rows, columns=columns).round(1)
    (data / "training").mkdir(parents=True, exist_ok=True)
    table.to_csv(data / "training" / "times.csv", index=False, lineterminator="\n")


def main() -> None:
    """Make all parts, keep the curves, measure the whole and print its quality table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--fresh", action="store_true", help="forget checkpoints, start anew")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if arguments.fresh:
        shutil.rmtree(arguments.work, ignore_errors=True)
    in_one_go, started = not (arguments.work / "done").exists(), time.monotonic()
    try:
        run_parts(PARTS, partial(make_part, work=arguments.work), arguments.cores)
    except RuntimeError as error:
        sys.exit(str(error))
    minutes = (time.monotonic() - started) / 60
    keep_curves(arguments.work, WORLD_FILE.parent)
    keep_times(arguments.work, WORLD_FILE.parent, minutes if in_one_go else None)
    print(f"All parts are there, after {minutes:.0f} min", flush=True)
    subprocess.run([sys.executable, "-m", "mmn_utils.miniature.measured"], check=True)


if __name__ == "__main__":
    main()
