"""Notebooks side by side: one rule for each notebook of each preset, and one for the reports.

    snakemake --cores all --config preset=miniature
    snakemake --cores all --config preset="miniature ci"

Which exhibits there are, and so which notebooks, says notebooks/exhibits.yaml. A notebook
runs again when it, a module, its resolved parameters or the miniature's files changed. Its
executed copy is the rule's log, so it stays to be read when a cell fails.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir)))
from mmn_utils.exhibits.entries import figures_root, load_exhibits
from mmn_utils.presets import load_preset, resolve

PRESETS = [load_preset(name) for name in str(config.get("preset", "miniature")).split()]
NOTEBOOKS = sorted({exhibit.notebook for exhibit in load_exhibits().values()})
JOBS = [(preset, notebook) for preset in PRESETS for notebook in preset.chosen(NOTEBOOKS)]
RUNS = [preset.name for preset in PRESETS]

# Seconds on one core, beside another notebook. None waits for another: what two of them need they
# share through the cache, batch by batch. The longest first is merely the fastest, and of as long
# ones the preset named first.
SECONDS = {
    "00_miniature": 50, "01_projection_decoding": 70, "02_attribution": 60, "03_selectivity": 250,
    "04_ablation": 210, "05_llava_contribution_scoring": 80, "06_editing": 170,
    "07_neuron_browser": 110,
}

# Rooms that one notebook reads; a change there is no reason to run another.
READ_BY = {"miniature": ["00_miniature"], "browser": ["07_neuron_browser"]}
ATLAS = "07_neuron_browser"  # with whose parameters an atlas is made


def sources(notebook):
    """List the modules that a notebook may read, and the browser's scripts."""
    front = Path("mmn_utils/browser/front")
    paths = [*Path("mmn_utils").rglob("*.py"), *front.glob("*.js"), *front.glob("*.css")]
    return sorted(str(p) for p in paths if notebook in READ_BY.get(p.parts[1], [notebook]))


# The pictures are named by the annotations beside them; watching those is enough.
DATA = [
    str(path)
    for path in sorted(Path("data/miniature").rglob("*"))
    if path.is_file() and path.suffix not in {".jpg", ".png"}
]


def record(run, notebook):
    """Path of the resolved parameters, which stand for a notebook that ran."""
    return f"build/{run}/parameters/{notebook}.json"


def report(run):
    """Path of a run's report."""
    return os.path.relpath(figures_root() / run / "report.html")


def is_small(preset):
    """Whether a preset's system is a miniature on the CPU, of which several fit a machine."""
    model = str(preset.settings.get("model", ""))
    return model.startswith("miniature") and preset.settings.get("device", "cpu") == "cpu"


def threads_of(preset):
    """Share the cores out among the notebooks of small systems; a large one has them all."""
    return max(1, workflow.cores // len(JOBS)) if is_small(preset) else workflow.cores


def drop_stale_records():
    """Let a notebook run again when exhibits that it had made are gone, or its page."""
    for preset, notebook in JOBS:
        path = Path(record(preset.name, notebook))
        if not path.exists():
            continue
        made = [f"{id}.json" for id in json.loads(path.read_text()).get("exhibits", [])]
        made += [f"notebooks/{notebook}.html", *(["browser.html"] if notebook == ATLAS else [])]
        if any(not (figures_root() / preset.name / name).exists() for name in made):
            path.unlink()


drop_stale_records()


rule all:
    default_target: True
    input:
        [record(preset.name, notebook) for preset, notebook in JOBS],
        [report(run) for run in RUNS],


for place, (preset, notebook) in enumerate(JOBS):

    rule:
        name: f"notebook_{preset.name}_{notebook}"
        input:
            notebook=f"notebooks/{notebook}.ipynb",
            texts=[str(path) for path in Path("notebooks/texts").glob(f"{notebook}.yaml")],
            sources=sources(notebook),
            data=DATA if is_small(preset) else [],
        output:
            record(preset.name, notebook),
        log:
            f"build/{preset.name}/notebooks/{notebook}.ipynb",
        params:
            # the values themselves: another comment in the preset is no reason to run
            resolved=json.dumps(resolve(notebook, preset), sort_keys=True),
            notebook=notebook,
            preset=preset.name,
        # snakemake hands them to OMP_NUM_THREADS and its like
        threads: threads_of(preset)
        priority: len(PRESETS) * (1 + SECONDS.get(notebook, 60)) - PRESETS.index(preset)
        message:
            f"notebook {notebook} on {preset.name} ({place + 1} of {len(JOBS)})"
        shell:
            "python -m mmn_utils.running {params.notebook} --preset {params.preset} --lines"


# All at once, since each links to the others.
rule reports:
    input:
        records=[record(preset.name, notebook) for preset, notebook in JOBS],
        exhibits="notebooks/exhibits.yaml",
        golden=sorted(str(p) for p in Path("data/golden").glob("*.csv")),
        look=[str(p) for end in ("j2", "css") for p in Path("mmn_utils/exhibits").glob(f"*.{end}")],
    output:
        [report(run) for run in RUNS],
    shell:
        "python -m mmn_utils.exhibits report {RUNS}"


# Not among all: it is asked for by name; notebook 07 makes what it lacks by itself.
rule atlas:
    input:
        [path for path in sources(ATLAS) if path.endswith(".py")],
        DATA if any(map(is_small, PRESETS)) else [],
    output:
        [f"data/atlas/{run}/facts.json" for run in RUNS],
    params:
        resolved=lambda _: json.dumps([resolve(ATLAS, one) for one in PRESETS], sort_keys=True),
    shell:
        "python -m mmn_utils.browser atlas {RUNS}"
