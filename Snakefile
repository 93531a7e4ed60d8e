"""Notebooks side by side: one rule for each notebook of each preset, and one for the reports.

    snakemake --cores all --config preset=miniature
    snakemake --cores all --config preset="miniature ci"
    snakemake --workflow-profile profiles/slurm --config preset=limber shards=8

Which exhibits there are, and so which notebooks, says notebooks/exhibits.yaml. A notebook
runs again when it, a module, its resolved parameters or the miniature's files changed. Its
executed copy is the rule's log, so it stays to be read when a cell fails. With shards, the
heavy stages of each notebook are computed by as many jobs before it.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir)))
from mmn_utils.exhibits.entries import load_exhibits
from mmn_utils.presets import resolve
from mmn_utils.running.order import (
    drop_stale_records, given_variables, gpus_of, is_small, read_presets, record, report, shards_of,
    sources, tables,
)

PRESETS = read_presets(str(config.get("preset", "miniature")))
NOTEBOOKS = sorted({exhibit.notebook for exhibit in load_exhibits().values()})
JOBS = [(preset, notebook) for preset in PRESETS for notebook in preset.chosen(NOTEBOOKS)]
SHARDS = shards_of(JOBS, int(config.get("shards", 1)))
RUNS, ADDRESSES = [one.name for one in PRESETS], [one.address for one in PRESETS]

# Seconds on one core, beside another notebook. None waits for another: what two of them need they
# share through the cache, batch by batch. The longest first is merely the fastest, and of as long
# ones the preset named first.
SECONDS = {
    "00_miniature": 50, "01_projection_decoding": 70, "02_attribution": 60, "03_selectivity": 250,
    "04_ablation": 210, "05_llava_contribution_scoring": 80, "06_editing": 170,
    "07_neuron_browser": 110, "08_real_model": 600, "09_method_court": 900, "10_switches": 25,
}

LAST = "08_real_model"  # reads the ledgers that the others write
ATLAS = "07_neuron_browser"  # with whose parameters an atlas is made

# Without a shared folder, snakemake looks for outputs in a copy of its own.
AWAY = workflow.storage_settings.default_storage_provider
KEPT = " && python -m mmn_utils.running.order {output:q}" if AWAY else ""

# The pictures are named by the annotations beside them; watching those is enough.
DATA = [
    str(path)
    for path in sorted(Path("data/miniature").rglob("*"))
    if path.is_file() and path.suffix not in {".jpg", ".png"}
]


# What was trained for smol: its projections, and the record that one notebook reads.
SMOL = sorted(str(path) for path in Path("data/smol").glob("*") if path.is_file())


def reads_smol(preset, notebook):
    """Say whether a notebook reads what was trained for smol."""
    return notebook == LAST or str(preset.settings.get("model", "")).startswith("smol")


def threads_of(preset):
    """Share the cores out among the notebooks of small systems; a large one has them all."""
    cores = workflow.cores or 8
    return max(1, cores // len(JOBS)) if is_small(preset) else cores


drop_stale_records(JOBS, ATLAS)


# where a profile's jobs find folders that are not their own machine's
envvars:
    *given_variables(),


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
            trained=SMOL if reads_smol(preset, notebook) else [],
            tables=tables(preset, notebook),
            ledgers=[record(one.name, other) for one, other in JOBS if other != LAST]
            if notebook == LAST else [],
            shards=[one.record for one in SHARDS if (one.preset, one.notebook) == (preset, notebook)],
        output:
            record(preset.name, notebook),
        log:
            f"build/{preset.name}/notebooks/{notebook}.ipynb",
        params:
            # the values themselves: another comment in the preset is no reason to run
            resolved=json.dumps(resolve(notebook, preset), sort_keys=True),
            notebook=notebook,
            preset=preset.address,
        # snakemake hands them to OMP_NUM_THREADS and its like
        threads: threads_of(preset)
        resources:
            gpu=gpus_of(preset),
        priority: len(PRESETS) * (1 + SECONDS.get(notebook, 60)) - PRESETS.index(preset)
        message:
            f"notebook {notebook} on {preset.name} ({place + 1} of {len(JOBS)})"
        shell:
            "python -m mmn_utils.running {params.notebook} --preset {params.preset:q} --lines" + KEPT


for shard in SHARDS:

    rule:
        name: f"shard_{shard.name}"
        input:
            needs=shard.needs,
            sources=[path for path in sources(shard.notebook) if path.endswith(".py")],
        output:
            shard.record,
        params:
            resolved=json.dumps(resolve(shard.notebook, shard.preset), sort_keys=True),
            what=shard.arguments,
        threads: threads_of(shard.preset)
        resources:
            gpu=gpus_of(shard.preset),
        shell:
            "python -m mmn_utils.running shard {params.what}" + KEPT


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
        "python -m mmn_utils.exhibits report {RUNS}" + KEPT


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
        "python -m mmn_utils.browser atlas {ADDRESSES:q}" + KEPT
