"""What runs before what, and where its record lies: the Snakefile's own questions."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmn_utils.exhibits.entries import figures_root
from mmn_utils.presets import ROOT, Preset, load_preset, resolve

# What a job on another machine must have from this one; see profiles/kubernetes.
VARIABLES = (
    "PYTHONPATH", "MMN_FIGURES", "MMN_CACHE", "MMN_ATLAS", "MMN_BUILD", "HF_HOME",
    "HF_HUB_CACHE", "HF_HUB_OFFLINE", "COCO_ROOT", "IMAGENET_ROOT", "CALTECH_ROOT",
    "LIMBER_PROJECTION",
)  # fmt: skip

# Rooms that one notebook reads; a change there is no reason to run another.
READ_BY = {"miniature": ["00_miniature"], "browser": ["07_neuron_browser"]}

# The tables of a notebook that are worth shards, in the order in which they need each other.
STAGES = {
    "01_projection_decoding": ("captions",),
    "02_attribution": ("captions", "attribution"),
    "03_selectivity": ("captions", "attribution"),
    "04_ablation": ("captions", "attribution", "ablation"),
    "05_llava_contribution_scoring": ("captions", "concepts"),
    "06_editing": ("captions",),
    "07_neuron_browser": ("captions",),
}


@dataclass(frozen=True)
class Shard:
    """A share of one stage of a notebook on a preset: shard ``index`` of ``shards``."""

    preset: Preset
    notebook: str
    stage: str
    index: int
    shards: int

    @property
    def name(self) -> str:
        """What it is called among others, without blanks and slashes."""
        place = f"{self.index}_of_{self.shards}"
        return f"{self.preset.name}_{self.notebook}_{self.stage}_{place}"

    @property
    def arguments(self) -> str:
        """What ``python -m mmn_utils.running shard`` is given, for a shell."""
        words = [self.notebook, "--preset", self.preset.address, "--stage", self.stage]
        return shlex.join([*words, "--shard", f"{self.index}/{self.shards}"])

    @property
    def record(self) -> str:
        """Path, from the repository, of what is written once it is computed."""
        place = f"{self.index}-of-{self.shards}"
        return f"build/{self.preset.name}/shards/{self.notebook}/{self.stage}-{place}.json"

    @property
    def needs(self) -> list[str]:
        """Records of all shards of the stage before."""
        stages = STAGES[self.notebook]
        place = stages.index(self.stage)
        before = stages[place - 1 : place]
        return [one.record for stage in before for one in self._of(stage)]

    def _of(self, stage: str) -> list[Shard]:
        numbers = range(self.shards)
        return [Shard(self.preset, self.notebook, stage, i, self.shards) for i in numbers]


def shards_of(jobs: Iterable[tuple[Preset, str]], shards: int) -> list[Shard]:
    """List the shards of all stages of notebooks on presets; none where there is one process."""
    if shards < 1:
        raise ValueError(f"shards = {shards}: give 1, for none, or more")
    if shards == 1:
        return []
    return [
        Shard(preset, notebook, stage, index, shards)
        for preset, notebook in jobs
        for stage in STAGES.get(notebook, ())
        for index in range(shards)
    ]


def sources(notebook: str) -> list[str]:
    """List the modules that a notebook may read, and the browser's scripts."""
    front = Path("mmn_utils/browser/front")
    paths = [*Path("mmn_utils").rglob("*.py"), *front.glob("*.js"), *front.glob("*.css")]
    return sorted(str(p) for p in paths if notebook in READ_BY.get(p.parts[1], [notebook]))


def tables(preset: Preset, notebook: str) -> list[str]:
    """List the files beside its data that a notebook reads, and that other commands write.

    What every claim comes to under every choice (``make switches``); what units are truly worth
    (``make court``), and how long scores take (``tests/benchmarks/bench_scores.py``).
    """
    folders = {"10_switches": ["data/switches"], "09_method_court": ["data/court"]}
    names = folders.get(notebook, [])
    if notebook == "09_method_court":
        names = [*names, *filter(None, [resolve(notebook, preset)["stored"]])]
    paths = [path for name in names for path in Path(name).glob("*") if path.is_file()]
    return sorted(map(str, paths))


def read_presets(text: str) -> list[Preset]:
    """Read presets' names and paths, parted by blanks; a path with blanks is in quotes.

    ValueError for two of one name, whose runs would be one folder.
    """
    presets = [load_preset(one) for one in shlex.split(text)]
    names = [preset.name for preset in presets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"preset {twice[0]} is given twice; give each once, and each another name")
    return presets


def given_variables() -> list[str]:
    """List the variables among ``VARIABLES`` that are set, for jobs to be given them, too."""
    return [name for name in VARIABLES if name in os.environ]


def record(run: str, notebook: str) -> str:
    """Path of the resolved parameters, which stand for a notebook that ran."""
    return f"build/{run}/parameters/{notebook}.json"


def report(run: str) -> str:
    """Path of a run's report."""
    return os.path.relpath(figures_root() / run / "report.html")


def is_small(preset: Preset) -> bool:
    """Say whether a preset's system is a miniature on the CPU, of which several fit a machine."""
    model = str(preset.settings.get("model", ""))
    return model.startswith("miniature") and not gpus_of(preset)


def gpus_of(preset: Preset) -> int:
    """Count the GPUs that a notebook of a preset needs: one where its device is not the CPU."""
    return int(preset.settings.get("device", "cpu") != "cpu")


def drop_stale_records(jobs: Sequence[tuple[Preset, str]], atlas: str) -> None:
    """Let a notebook run again when exhibits that it had made are gone, or its page.

    ``atlas`` is the notebook that makes the browser's page.
    """
    for preset, notebook in jobs:
        path = Path(record(preset.name, notebook))
        if not path.exists():
            continue
        made = [f"{id}.json" for id in json.loads(path.read_text()).get("exhibits", [])]
        made += [f"notebooks/{notebook}.html", *(["browser.html"] if notebook == atlas else [])]
        if any(not (figures_root() / preset.name / name).exists() for name in made):
            path.unlink()


def keep(outputs: Iterable[str]) -> None:
    """Copy what a job made in the repository to where snakemake expects it, if that differs.

    A path there ends like the one in the repository. ``FileNotFoundError`` for one that the job
    did not make.
    """
    for path in map(Path, outputs):
        parts = path.parts
        made = (ROOT.joinpath(*parts[start:]) for start in range(len(parts)))
        if not path.exists():
            found = next(filter(Path.is_file, made), None)
            if found is None:
                raise FileNotFoundError(f"{path} was not made, nor is it in {ROOT}")
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, path)


if __name__ == "__main__":
    keep(sys.argv[1:])
