"""A run that is killed twenty times ends with the very files of one that is not."""

from __future__ import annotations

import subprocess
import sys

from mmn_utils.presets import ROOT

KILLS, PICTURES = 20, 16

# Forks, so that torch is imported once; one thread, so that a fork finds no pool of its parent's.
SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from mmn_utils.studies.subjects import captions_of, subjects, top_neurons
from tests.tiny import tiny_limber, tiny_photographs

root, kills, pictures = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
(root / "pictures").mkdir()
photographs = tiny_photographs(root / "pictures", pictures)
model = tiny_limber()

def stage(name, some):
    os.environ["MMN_CACHE"] = str(root / name)
    quiet = {"batch_size": 1, "progress": False}
    captions_of(model, some, **quiet)
    top_neurons(model, subjects(model, some, **quiet), k=5, **quiet)

def start(name):
    child = os.fork()
    if child == 0:
        stage(name, photographs)
        os._exit(0)
    return child

def files(name):
    found = (root / name).rglob("*.parquet")
    return {str(p.relative_to(root / name)): p.read_bytes() for p in found if p.name[0] != "."}

stage("warm", photographs)  # what is loaded once need not be loaded by each child
begun = time.monotonic()
assert os.waitpid(start("whole"), 0)[1] == 0
took = time.monotonic() - begun
expected, rng, left, runs = files("whole"), random.Random(0), kills, 0
progress = []
while left:
    child = start(f"killed-{runs}")
    time.sleep(rng.uniform(0, took / 8))
    os.kill(child, signal.SIGKILL)
    if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        left -= 1
        progress.append(len(files(f"killed-{runs}")))
    else:
        assert files(f"killed-{runs}") == expected
        runs += 1
assert os.waitpid(start(f"killed-{runs}"), 0)[1] == 0
assert files(f"killed-{runs}") == expected
print(len(expected), len(set(progress)), runs, round(took, 2))
"""


def test_twenty_kills_at_random_moments_leave_no_trace(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(KILLS), str(PICTURES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files, stages, *_ = done.stdout.split()
    assert int(files) > PICTURES  # captions, and the attribution of those that name something
    assert int(stages) > 5, f"too few kills fell into the work: {done.stdout}"
