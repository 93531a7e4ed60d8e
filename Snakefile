"""The order of the notebooks: one rule each, made from notebooks/exhibits.yaml, and the report.

    snakemake --cores all --config preset=miniature

A notebook runs again when it, a module, its resolved parameters or the miniature's files
changed. Its executed copy is the rule's log, so it stays to be read when a cell fails.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir)))
from mmn_utils.exhibits import ALL_FILES, exhibits_of, figures_root, load_exhibits
from mmn_utils.presets import load_preset, resolve

PRESET = load_preset(config.get("preset", "miniature"))
RUN = PRESET.name
NOTEBOOKS = sorted({exhibit.notebook for exhibit in load_exhibits().values()})

# What makes the miniature is not what reads it: only notebook 00 tells of both.
ALL_SOURCES = [str(path) for path in sorted(Path("mmn_utils").rglob("*.py"))]
SOURCES = [path for path in ALL_SOURCES if Path(path).parts[1] != "miniature"]
# The pictures are named by the annotations beside them; watching those is enough.
DATA = [
    str(path)
    for path in sorted(Path("data/miniature").rglob("*"))
    if path.is_file() and path.suffix not in {".jpg", ".png"}
]
REPORT = f"figures/{RUN}/report.html"


def record(notebook):
    """Path of the resolved parameters, which stand for a notebook that ran."""
    return f"build/{RUN}/parameters/{notebook}.json"


def drop_stale_records():
    """Let a notebook run again when exhibits that it had made are gone."""
    for notebook in NOTEBOOKS:
        path = Path(record(notebook))
        made = json.loads(path.read_text()).get("exhibits", []) if path.exists() else []
        if any(not (figures_root() / RUN / f"{id}.json").exists() for id in made):
            path.unlink()


drop_stale_records()


rule all:
    default_target: True
    input:
        [record(notebook) for notebook in NOTEBOOKS],
        REPORT,


for place, notebook in enumerate(NOTEBOOKS):

    rule:
        name: f"notebook_{notebook}"
        input:
            notebook=f"notebooks/{notebook}.ipynb",
            sources=ALL_SOURCES if notebook == "00_miniature" else SOURCES,
            data=DATA if str(PRESET.settings.get("model", "")).startswith("miniature") else [],
        output:
            record(notebook),
        log:
            f"build/{RUN}/notebooks/{notebook}.ipynb",
        params:
            # the values themselves: another comment in the preset is no reason to run
            resolved=json.dumps(resolve(notebook, PRESET), sort_keys=True),
            notebook=notebook,
        # one after the other, in their order: each uses all cores and what the last cached
        threads: workflow.cores
        priority: len(NOTEBOOKS) - place
        message:
            f"notebook {notebook} ({place + 1} of {len(NOTEBOOKS)})"
        shell:
            "python -m mmn_utils.run {params.notebook} --preset {PRESET.name}"


rule report:
    input:
        records=[record(notebook) for notebook in NOTEBOOKS],
        exhibits="notebooks/exhibits.yaml",
        golden=sorted(str(p) for p in Path("data/golden").glob("*.csv")),
        template="mmn_utils/report.html.j2",
    output:
        REPORT,
    shell:
        "python -m mmn_utils.exhibits report {RUN}"
