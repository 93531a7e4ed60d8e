"""The list of exhibits: what the papers show, and which notebook makes it.

``notebooks/exhibits.yaml`` is the one list; it drives the Snakefile, the report, the README's
table and the tests.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmn_utils.plain_yaml import load_yaml
from mmn_utils.presets import NOTEBOOKS, ROOT

LIST = NOTEBOOKS / "exhibits.yaml"
FILES = {"figure": (".png", ".pdf"), "table": (".csv", ".tex", ".md")}
ALL_FILES = (*FILES["figure"], *FILES["table"], ".numbers.csv", ".json")
PAPERS = {
    "A": "Multimodal Neurons in Pretrained Text-Only Transformers",
    "B": "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers",
    "C": "Beyond the papers",
}
# What a run may do without, whatever its photographs have: the judges of texts.
OF_RUNS = ("clipscore", "bertscore")
EXHIBIT_ID = re.compile(r"([A-Z])-[A-Za-z0-9-]+")
# Presets of the same name whose runs come with the repository; the first that makes an
# exhibit shows it in the README. What the miniatures need comes along, so `make figures` makes
# their runs; the others are made by their names.
MINIATURES = ("miniature", "miniature-llava", "miniature-instructblip", "miniature-mplug_owl2")
SHIPPED = (*MINIATURES, "smol")
# Presets of whose runs numbers and claims alone come along: their photographs are not ours to
# show. What is kept of a run is what ends so.
NUMBERS_ALONE = ("smol-photographs",)
NUMBERS = (".csv", ".json")


@dataclass(frozen=True)
class Exhibit:
    """One entry of ``exhibits.yaml``.

    Attributes:
        id: paper, kind and number, such as ``A-fig-5``.
        kind: ``figure`` or ``table``.
        notebook: stem of the notebook that makes it.
        paper: ``A``, ``B``, or ``C`` for what neither paper has.
        title: a few words.
        claim: what the paper says with it, in our own words, whatever came out here; of paper C
            what it shows. One sentence.
        needs: what its photographs must have (``datasets.base.KINDS``), "masks" or, where any
            of some will do, "captions or objects", or the run (``OF_RUNS``); it is left out of
            runs without.
    """

    id: str
    kind: str
    notebook: str
    paper: str
    title: str
    claim: str
    needs: tuple[str, ...] = ()


def load_exhibits(path: str | Path | None = None) -> dict[str, Exhibit]:
    """Read the list of exhibits, keyed by id, in the order of the papers."""
    return _load_exhibits(Path(path or LIST))


@lru_cache(maxsize=8)
def _load_exhibits(path: Path) -> dict[str, Exhibit]:
    found: dict[str, Exhibit] = {}
    for entry in load_yaml(path):
        exhibit = _exhibit(entry, path)
        if exhibit.id in found:
            raise ValueError(f"{path}: exhibit {exhibit.id} is listed twice")
        found[exhibit.id] = exhibit
    return found


def _exhibit(entry: dict[str, Any], path: Path) -> Exhibit:
    try:
        exhibit = Exhibit(**{**entry, "needs": tuple(entry.get("needs", ()))})
    except TypeError as error:
        raise ValueError(f"{path}: {entry!r}: {error}") from None
    texts = [value for name, value in entry.items() if name != "needs"]
    if not all(isinstance(value, str) and value.strip() for value in (*texts, *exhibit.needs)):
        raise ValueError(f"{path}: every field of {entry.get('id')} must be text, and not empty")
    match = EXHIBIT_ID.fullmatch(exhibit.id)
    if not match or match[1] != exhibit.paper or exhibit.paper not in PAPERS:
        raise ValueError(f"{path}: id {exhibit.id!r} must begin with its paper, {exhibit.paper!r}")
    if exhibit.kind not in FILES:
        raise ValueError(f"{path}: kind of {exhibit.id} is {exhibit.kind!r}; figure or table?")
    return exhibit


def exhibits_of(notebook: str | Path, path: str | Path | None = None) -> list[Exhibit]:
    """Return the exhibits that a notebook makes."""
    stem = Path(notebook).stem
    return [exhibit for exhibit in load_exhibits(path).values() if exhibit.notebook == stem]


def shipped(root: str | Path | None = None) -> list[str]:
    """List the runs of ``SHIPPED`` that are there."""
    folder = Path(root or figures_root())
    return [run for run in SHIPPED if (folder / run / "claims.csv").is_file()]


def made_exhibits(run: str, notebook: str | Path, root: str | Path | None = None) -> list[str]:
    """Return the ids of a notebook's exhibits that a run has."""
    folder = Path(root or figures_root()) / run
    return [
        exhibit.id for exhibit in exhibits_of(notebook) if (folder / f"{exhibit.id}.json").is_file()
    ]


def figures_root() -> Path:
    """Return the folder of all runs: ``figures``, or what ``MMN_FIGURES`` names."""
    return Path(os.environ.get("MMN_FIGURES") or ROOT / "figures")


def build_root() -> Path:
    """Return the folder of what git ignores of all runs: ``build`` beside that of the runs, or
    what ``MMN_BUILD`` names."""
    return Path(os.environ.get("MMN_BUILD") or figures_root().with_name("build"))
