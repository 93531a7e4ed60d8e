"""Notebooks on ten photographs of which nothing is known, with a model of one's own."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from mmn_utils.exhibits.entries import exhibits_of, load_exhibits
from mmn_utils.exhibits.ledger import claims
from mmn_utils.exhibits.texts import load_texts
from mmn_utils.presets import ROOT, Preset, load_preset, notebook_path, resolve
from mmn_utils.running import run
from tests.models.auto.families import llava
from tests.photographs import some_photographs

BLOCK = re.compile(r"## Your own model and photographs\n.*?```python\n(.*?)```", re.DOTALL)
CAPTIONS, MASKS = "no photograph has a caption", "no photograph has the mask of an object"
LEFT_OUT = {
    "01_projection_decoding": {"A-table-S2": CAPTIONS, "A-table-2": CAPTIONS},
    "02_attribution": {"A-table-1": CAPTIONS},
    "03_selectivity": {
        "A-fig-4": f"{CAPTIONS}, no photograph has an annotated object, "
        "the photographs do not lie in folders of their class",
        "A-fig-5": MASKS,
        "A-fig-S1": MASKS,
        "A-fig-S2": "the photographs do not lie in folders of their class",
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return some_photographs(tmp_path_factory.mktemp("own") / "photographs")


def small() -> Preset:
    """The preset for photographs of one's own, at the sizes of ``ci``."""
    own, tiny = load_preset("photographs"), load_preset("ci")
    settings = {"max_new_tokens": 8, "n_images": 12, **own.settings}
    notebooks = {
        name: {**tiny.notebooks.get(name, {}), **own.notebooks.get(name, {})}
        for name in {*tiny.notebooks, *own.notebooks}
    }
    del notebooks["05_llava_contribution_scoring"]["n_images"]  # all ten, or few share a noun
    notebooks["01_projection_decoding"]["n_random"] = 20
    # few neurons of a random model pull more
    notebooks["06_editing"] |= {"algorithm": {"beta": 0.01}, "concepts": {"n": 2}}
    return Preset(own.name, settings, notebooks)


def left_out(figures: Path, notebook: str) -> dict[str, str]:
    """Return the reasons of a notebook's left-out exhibits; all others must be there."""
    found = {}
    for exhibit in exhibits_of(notebook):
        record = json.loads((figures / f"{exhibit.id}.json").read_text(encoding="utf-8"))
        shown = figures / f"{exhibit.id}{'.png' if exhibit.kind == 'figure' else '.md'}"
        assert shown.is_file() != bool(record.get("left_out"))
        if record.get("left_out"):
            found[exhibit.id] = record["left_out"]
    return found


def test_these_notebooks_have_all_exhibits_that_need_more_than_pictures():
    needy = {exhibit.id for exhibit in load_exhibits().values() if exhibit.needs}
    assert needy == {id for reasons in LEFT_OUT.values() for id in reasons}


@pytest.mark.slow
def test_five_lines_of_the_readme_on_a_llava_that_was_saved(folder, tmp_path, monkeypatch):
    model, processor, _ = llava()
    model.save_pretrained(tmp_path / "llava")
    processor.save_pretrained(tmp_path / "llava")
    lines = BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))[1]
    assert len(lines.splitlines()) == 5
    for placeholder, path in (("MODEL", tmp_path / "llava"), ("FOLDER", folder)):
        assert lines.count(f'"{placeholder}"') == 1
        lines = lines.replace(placeholder, str(path))
    at_tiny_size = functools.partial(run.execute, output_root=tmp_path / "build")
    monkeypatch.setattr(run, "execute", lambda name, _, given: at_tiny_size(name, small(), given))
    exec(lines, {})
    figures = tmp_path / "figures" / "mine"
    html = (figures / "report.html").read_text(encoding="utf-8")
    for name in ("05_llava_contribution_scoring", "06_editing"):
        assert left_out(figures, name) == {}
        assert all(f'id="{exhibit.id}"' in html for exhibit in exhibits_of(name))


@pytest.fixture
def shell(monkeypatch):
    """A notebook's shell in this process: a kernel would import everything anew."""
    monkeypatch.setenv("MMN_HEADLESS", "1")
    found = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    yield found
    InteractiveShell.clear_instance()


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("name", LEFT_OUT)
def test_notebooks_of_paper_a_leave_out_what_needs_more(name, folder, shell, tmp_path):
    few = {"data_root": str(folder), "run": "mine", "n_images": 5}
    parameters = resolve(name, small(), few)
    given = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    cells = [c for c in nbformat.read(notebook_path(name), 4).cells if c.cell_type == "code"]
    for source in (cells[0].source, f"# Parameters\n{given}", *(c.source for c in cells[1:])):
        shell.run_cell(source, store_history=True).raise_error()
    assert left_out(tmp_path / "figures" / "mine", name) == LEFT_OUT[name]
    entered = claims("mine").set_index("id")
    assert set(entered.index) == {i for text in load_texts(name).values() for i in text.claims}
    for exhibit, reason in LEFT_OUT[name].items():
        rows = entered[entered["exhibit"] == exhibit]
        assert set(rows["holds"]) == {"not tested"}
        assert set(rows["test"]) == {f"left out: {reason}"}
