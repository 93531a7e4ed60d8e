"""The sources that Sphinx reads, written from notebooks, runs, docstrings and the README."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from outputs import with_outputs

import mmn_utils
from mmn_utils.exhibits.entries import PAPERS, SHIPPED, Exhibit, load_exhibits, shipped
from mmn_utils.exhibits.pages import BROWSER, notebook_pages
from mmn_utils.exhibits.provenance import credits_of
from mmn_utils.exhibits.verdicts import (
    PAPERS_CLAIMS,
    came_out,
    counts,
    kinds,
    ledger_of,
    left_out,
)
from mmn_utils.presets import NOTEBOOKS, ROOT, load_preset

TEMPLATES = Path(__file__).parent / "pages"
FAMILIES = Path(__file__).parent / "families.csv"
# The rooms in the order of the data's way, after what a script of one's own needs.
ROOMS = {
    "face": "for a script of your own",
    "datasets": "photographs with captions, masks and labels",
    "models": "one file per system, and any other",
    "measures": "how alike texts and pictures are, how sure a number is",
    "neurons": "the neuron table and what makes and reads it",
    "interventions": "ablation, perturbation, editing",
    "studies": "what notebooks ask, over many photographs",
    "exhibits": "figures, tables, claims and reports",
    "browser": "an atlas of every neuron, questions to it, and views of the answers",
    "running": "notebooks without a screen",
    "miniature": "how the shipped systems were made",
    "smol": "how the projection of the real language model was trained, and how well",
    "training": "what every training shares",
    "presets": "strict parameters",
    "values": "what a parameter may be, and how text becomes it",
    "plain_yaml": "YAML as people write it",
    "memory": "batches that become smaller where memory is short",
    "shards": "a table's batches, shared out",
    "cache": "compute once, keyed by content",
    "commands": "refusals in words",
    "compat": "one shim",
}


def write_sources(folder: Path, figures: Path, rooms: Sequence[str]) -> None:
    """Write all sources of the site into ``folder``. ValueError for a room that is not there."""
    known = {**facts(figures), "rooms": {room: ROOMS[room] for room in rooms}}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([TEMPLATES, ROOT]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["fmt"] = format
    for template in TEMPLATES.glob("*.j2"):
        text = environment.get_template(template.name).render(known)
        _write(folder / template.stem.replace("-index", "/index"), text)
    for stem, run in known["notebooks"].items():
        text = with_outputs(NOTEBOOKS / f"{stem}.ipynb", figures / run, known["others"][stem])
        _write(folder / "notebooks" / f"{stem}.ipynb", text)
    for room in rooms:
        _write(folder / "api" / f"{room}.rst", api_page(room))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip() + "\n", encoding="utf-8")


# --- facts --------------------------------------------------------------------------------


def facts(figures: Path) -> dict[str, Any]:
    """Return what the pages tell: nothing in it is typed, all is read from the runs."""
    there = shipped(figures)
    ledgers = pd.concat({run: ledger_of(run, figures) for run in there}, names=["run"])
    papers = kinds(ledgers)[PAPERS_CLAIMS]
    notebooks = sorted({exhibit.notebook for exhibit in load_exhibits().values()})
    runs = {stem: _runs(stem, there) for stem in notebooks}
    return {
        "claim": lambda id, run=SHIPPED[0]: ledgers.loc[run].set_index("id").loc[id],
        "caption": lambda id, run=SHIPPED[0]: _record(figures / run / f"{id}.json")["caption"],
        "measured": lambda measure: _measured(figures / SHIPPED[0], measure),
        "came_out": lambda exhibit, runs: came_out(exhibit, runs, figures),
        "left_out": lambda exhibit, run: left_out(exhibit, run, figures),
        "counts": {run: counts(part) for run, part in papers.groupby("run", sort=False)},
        "total": counts(papers),
        "notebooks": {stem: found[0] for stem, found in runs.items()},
        "others": {stem: found[1:] for stem, found in runs.items()},
        "browsers": [run for run in there if (figures / run / BROWSER).is_file()],
        "pages": {run: [page.stem for page in notebook_pages(figures / run)] for run in there},
        "papers": [(key, title, _exhibits(key, figures)) for key, title in PAPERS.items()],
        "credits": credits_of(_records(figures, there)),
        "section": _section,
        "families": pd.read_csv(FAMILIES, keep_default_na=False).to_dict("records"),
        "transformers": _pinned("transformers"),
    }


def _runs(notebook: str, there: Sequence[str]) -> list[str]:
    """List the runs that run a notebook, of those that are ``there`` if any does."""
    runs = [run for run in SHIPPED if load_preset(run).runs(notebook)]
    return [run for run in runs if run in there] or runs[:1]


def _measured(folder: Path, measure: str) -> float:
    """Return what the miniature's table of quality has of a measure."""
    table = pd.read_csv(folder / "C-table-quality.csv", index_col="measure")
    return float(table.loc[measure, "value"])


def _exhibits(paper: str, figures: Path) -> list[tuple[Exhibit, list[str]]]:
    """List a paper's exhibits, each with the runs that tell of it, those that show it first."""
    found = []
    for id, exhibit in load_exhibits().items():
        if exhibit.paper == paper:
            told = [run for run in SHIPPED if (figures / run / f"{id}.json").is_file()]
            bare = [run for run in told if left_out(exhibit, run, figures)]
            found.append((exhibit, [run for run in told if run not in bare] + bare))
    return found


def _records(figures: Path, runs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read the records of all exhibits of some runs."""
    ids = load_exhibits()
    paths = [figures / run / f"{id}.json" for run in runs for id in ids]
    return (_record(path) for path in paths if path.is_file())


def _record(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _pinned(package: str) -> str:
    """Return the release of a package in the lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{package}==")).partition("==")[2]


def _section(title: str) -> str:
    """Return a section of the README without its heading; ValueError where it has none."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n## {title}\n")
    if not found:
        raise ValueError(f"README.md has no section {title!r}, which the site shows")
    return rest.partition("\n## ")[0].strip()


# --- the API ------------------------------------------------------------------------------


def api_page(room: str) -> str:
    """Return the page of a room: what its docstring says, then its modules one by one."""
    if room == "face":  # as it is seen from outside; each name is told of again where it is
        options = ["   :members:", "   :no-index:"]
        return "\n".join([room, "=" * len(room), "", ".. automodule:: mmn_utils", *options])
    package = f"{mmn_utils.__name__}.{room}"
    lines = [room, "=" * len(room), "", *_automodule(package)]
    for name in modules(package):
        title = name.removeprefix(f"{package}.")
        lines += [title, "-" * len(title), "", *_automodule(name)]
    return "\n".join(lines)


def _automodule(name: str) -> list[str]:
    # what a room hands on from its modules is told of where it is
    return [f".. automodule:: {name}", "   :ignore-module-all:", ""]


def modules(package: str) -> list[str]:
    """List the modules of a room with those of its folders, without what only starts them."""
    room = import_module(package)
    if not hasattr(room, "__path__"):
        return []
    found = pkgutil.walk_packages(room.__path__, prefix=f"{package}.")
    return sorted(module.name for module in found if not module.name.endswith("__main__"))
