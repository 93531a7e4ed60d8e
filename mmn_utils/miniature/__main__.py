"""Make everything under ``data/miniature`` again, from the concept cards alone.

    python -m mmn_utils.miniature

Each part is a process of its own that goes on from its last checkpoint, so the
command can be stopped and called again. Finished parts are skipped until
``--fresh`` forgets them. Cores with fast bfloat16 are several times as fast as others.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .world import WORLD_FILE

#: part, module; in the order in which one needs the other.
PARTS = (
    ("held-out scenes and class folders", "scenes"),
    ("vision encoder, pictures alone", "vision"),
    ("language model, text alone", "language"),
    ("projections", "projection"),
    ("CLIP, for the metric and for paper B's systems", "clip"),
    ("variants of the text", "variants"),
    ("language model of paper B's systems, text alone", "llama"),
    ("LLaVA", "llava"),
    ("InstructBLIP", "instructblip"),
    ("mPLUG-Owl2", "mplug_owl2"),
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


def make_part(module: str, work: Path) -> None:
    """Run one part to its end, unless it was finished before."""
    done = work / "done" / module
    if done.exists():
        print(f"finished before, in {done.read_text().strip()}", flush=True)
        return
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", f"mmn_utils.miniature.{module}"], check=True)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(f"{time.monotonic() - started:.0f} s\n")


def keep_curves(work: Path, data: Path) -> None:
    """Copy the training curves beside the weights that they belong to."""
    (data / "training").mkdir(parents=True, exist_ok=True)
    for name in CURVES:
        if (work / name).exists():
            shutil.copyfile(work / name, data / "training" / name)


def main() -> None:
    """Make all parts, keep the curves, print the quality table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=Path("data/cache/miniature"))
    parser.add_argument("--fresh", action="store_true", help="forget checkpoints, start anew")
    arguments = parser.parse_args()
    if arguments.fresh:
        shutil.rmtree(arguments.work, ignore_errors=True)
    for number, (title, module) in enumerate(PARTS, start=1):
        print(f"[{number}/{len(PARTS)}] {title}", flush=True)
        make_part(module, arguments.work)
    keep_curves(arguments.work, WORLD_FILE.parent)
    subprocess.run([sys.executable, "-m", "mmn_utils.miniature.quality"], check=True)


if __name__ == "__main__":
    main()
