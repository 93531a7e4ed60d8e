"""Make everything under ``data/miniature`` again, from the concept cards alone.

    python -m mmn_utils.miniature

Each part is a process of its own that goes on from its last checkpoint, so the
command can be stopped and called again. Finished parts are skipped until
``--fresh`` forgets them. Parts that do not need each other run side by side, one core
each: two small trainings of one thread do more than one of two. Cores with fast
bfloat16 are several times as fast as others.
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from .world import WORLD_FILE


@dataclass(frozen=True)
class Part:
    """A part, its module, the parts that it needs, and how many cores serve it well."""

    title: str
    module: str
    after: tuple[str, ...] = ()
    cores: int = 1


#: Of those that could begin, the first in this order does.
PARTS = (
    Part("held-out scenes and class folders", "scenes", cores=2),
    Part("vision encoder, pictures alone", "vision", cores=2),
    Part("language model, text alone", "language"),
    Part("CLIP, for the metric and for paper B's systems", "clip", ("vision",)),
    Part("projections", "projection", ("vision", "language")),
    Part("language model of paper B's systems, text alone", "llama", ("language",)),
    Part("InstructBLIP", "instructblip", ("llama", "clip")),
    Part("LLaVA", "llava", ("llama", "clip")),
    Part("mPLUG-Owl2", "mplug_owl2", ("llama", "clip")),
    Part("variants of the text", "variants"),
)
#: curves and tables that lie beside the checkpoints; vision keeps its own.
CURVES = (
    "language.csv",
    "projection.csv",
    "projection_untrained_encoder.csv",
    "clip_seeing.csv",
    "clip.csv",
    "variants.csv",
    "llama.csv",
    "llava_alignment.csv",
    "llava_tuning.csv",
    "instructblip_contrast.csv",
    "instructblip_speaking.csv",
    "mplug_owl2.csv",
)


def make_part(part: Part, work: Path) -> None:
    """Run one part to its end, unless it was finished before; RuntimeError if it breaks off."""
    done = work / "done" / part.module
    if done.exists():
        print(f"{part.title}: finished before, in {done.read_text().strip()}", flush=True)
        return
    print(f"{part.title}: begins", flush=True)
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", f"mmn_utils.miniature.{part.module}"],
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(part.cores)},
    )
    if ended.returncode:
        raise RuntimeError(
            f"{part.title}: broke off (status {ended.returncode}), its own words are above; "
            "the same command goes on from the last checkpoints"
        )
    took = f"{time.monotonic() - started:.0f} s"
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(f"{took}\n")
    print(f"{part.title}: finished, in {took}", flush=True)


def run_parts(parts: Sequence[Part], make: Callable[[Part], None], cores: int) -> None:
    """Call ``make`` for each part when those that it needs are made and enough cores are free.

    Where one fails, those that run come to their end, no other begins, and its error is raised.
    """
    waiting, running, made = list(parts), {}, set()
    with ThreadPoolExecutor(max(1, cores)) as pool:
        while waiting or running:
            free = cores - sum(part.cores for part in running.values())
            for part in list(waiting):
                if made.issuperset(part.after) and (part.cores <= free or not running):
                    running[pool.submit(make, part)] = part
                    waiting.remove(part)
                    free -= part.cores
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                made.add(running.pop(future).module)
                future.result()


def keep_curves(work: Path, data: Path) -> None:
    """Copy the training curves beside the weights that they belong to."""
    (data / "training").mkdir(parents=True, exist_ok=True)
    for name in CURVES:
        if (work / name).exists():
            shutil.copyfile(work / name, data / "training" / name)


def keep_times(work: Path, data: Path, cores: int, minutes: float | None) -> None:
    """Write what each part took, and the whole (None: it was not made in one go)."""
    parts = {p.module: float((work / "done" / p.module).read_text().split()[0]) for p in PARTS}
    facts = {
        "minutes": minutes and round(minutes, 1),
        "cores": cores,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "seconds": parts,
    }
    (data / "training").mkdir(parents=True, exist_ok=True)
    (data / "training" / "times.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def main() -> None:
    """Make all parts, keep the curves, print the quality table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=Path("data/cache/miniature"))
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
    keep_times(arguments.work, WORLD_FILE.parent, arguments.cores, minutes if in_one_go else None)
    print(f"All parts are there, after {minutes:.0f} min", flush=True)
    subprocess.run([sys.executable, "-m", "mmn_utils.miniature.quality"], check=True)


if __name__ == "__main__":
    main()
