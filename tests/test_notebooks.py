"""The notebooks: their form, and each from end to end on the preset ``ci``."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import nbformat
import papermill
import pytest

from mmn_utils.exhibits.entries import exhibits_of, load_exhibits
from mmn_utils.exhibits.ledger import claims
from mmn_utils.exhibits.texts import load_texts
from mmn_utils.presets import NOTEBOOKS, REQUIRED, read_parameters, resolve
from mmn_utils.running.run import execute
from tests.conftest import missing_weights

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
LONGEST_CELL, LONGEST_LINE, BY_HAND_LINES = 20, 100, 12
MOST_PARAMETERS = 22  # each on a line of its own
WORDS_A_LINE = 6
MOST_LINES = {
    "00_miniature": 265,
    "01_projection_decoding": 125,
    "02_attribution": 155,
    "03_selectivity": 159,
    "04_ablation": 102,
    "05_llava_contribution_scoring": 168,
    "06_editing": 133,
    "07_neuron_browser": 110,
    "08_real_model": 125,
    "09_method_court": 105,
    "10_switches": 80,
}

SHOWS = {f"exhibits.{name}" for name in ("save_figure", "save_table", "say", "claims")}

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_lines(cell: nbformat.NotebookNode) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip()]


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def test_notebooks_and_the_list_of_exhibits_name_each_other():
    listed = {exhibit.notebook for exhibit in load_exhibits().values()}
    assert {path.stem for path in PATHS} == listed


@each_notebook
def test_is_a_valid_notebook_of_the_kernel_python3(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


@each_notebook
def test_carries_no_outputs(path):
    for cell in code_cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None


@each_notebook
def test_has_one_parameters_cell_and_it_is_the_first_code_cell(path):
    tagged = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code_cells(path)[:1]
    parameters = list(read_parameters(path))
    assert parameters[:2] == ["preset", "run"]
    assert set(REQUIRED) <= set(parameters)


@each_notebook
def test_an_experiment_goes_to_a_run_of_its_own_and_is_checked_before_anything_else(path):
    parameters = read_parameters(path)
    assert parameters["run"].default == "scratch"
    assert parameters["preset"].default == ""
    lines = [line for cell in code_cells(path)[1:] for line in code_lines(cell)]
    first = next(line for line in lines if not line.startswith(("import ", "from ")))
    assert f'presets.begin("{path.stem}", globals())' in first


@each_notebook
def test_every_parameter_is_visible_to_papermill(path):
    seen = papermill.inspect_notebook(str(path))
    parameters = read_parameters(path)
    assert set(seen) == set(parameters)
    assert {name: parameter["help"] for name, parameter in seen.items()} == {
        name: parameter.comment for name, parameter in parameters.items()
    }


@each_notebook
def test_code_is_short_and_outweighed_by_prose(path):
    cells = [code_lines(cell) for cell in code_cells(path)]
    for place, lines in enumerate(cells):
        assert len(lines) <= (LONGEST_CELL if place else MOST_PARAMETERS), lines
        assert all(len(line) <= LONGEST_LINE for line in lines), lines
    lines = sum(map(len, cells))
    assert lines <= MOST_LINES[path.stem]
    words = sum(len(cell.source.split()) for cell in read(path).cells if cell.cell_type != "code")
    assert words >= WORDS_A_LINE * lines, f"{words} words of prose for {lines} lines of code"


@each_notebook
def test_opens_with_its_title(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")


@each_notebook
def test_draws_nothing_and_types_no_words_itself(path):
    source = "\n".join(cell.source for cell in code_cells(path))
    for elsewhere in ("matplotlib", "plt.", "Markdown(", "caption="):
        assert elsewhere not in source


@each_notebook
def test_shows_what_it_saves_and_says(path):
    """A cell shows its last expression: what is saved, or said, before it would go unseen."""
    for cell in code_cells(path):
        shown = [
            node.lineno
            for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in SHOWS
        ]
        if shown:
            last = ast.parse(cell.source).body[-1]
            assert isinstance(last, ast.Expr), f"{cell.id} ends in {ast.unparse(last)}"
            assert max(shown) >= last.lineno, f"{cell.id} ends in {ast.unparse(last)}"


@pytest.mark.parametrize("path", PATHS[1:], ids=lambda path: path.stem)
def test_derives_its_central_quantity_by_hand(path):
    """In torch, and held against the helper: at the end of the cell or in the next one."""
    cells = code_cells(path)
    by_hand = [i for i, cell in enumerate(cells) if "by-hand" in cell.metadata.get("tags", [])]
    assert by_hand
    for i in by_hand:
        assert len(code_lines(cells[i])) <= BY_HAND_LINES
        assert "mmn_utils" not in cells[i].source
        assert "assert" in cells[i].source + cells[i + 1].source


@each_notebook
def test_texts_belong_to_what_the_notebook_shows(path):
    source = "\n".join(cell.source for cell in code_cells(path))
    ids = {exhibit.id for exhibit in exhibits_of(path)}
    texts = load_texts(path.stem)
    assert ids <= set(texts)
    for name, text in texts.items():
        assert bool(text.caption) == (name in ids), name
        assert f'"{name}"' in source, f"{name} is not used in {path.name}"
        assert not text.claims or name in ids


@each_notebook
def test_names_each_of_its_exhibits(path):
    source = "\n".join(cell.source for cell in code_cells(path))
    for exhibit in exhibits_of(path):
        assert f'"{exhibit.id}"' in source, f"{exhibit.id} is not saved in {path.name}"


@each_notebook
@pytest.mark.slow
@pytest.mark.usefixtures("warm_kernels")
def test_runs_from_end_to_end_on_the_preset_ci(path, tmp_path):
    if resolve(path, "ci")["model"].startswith("miniature") and missing_weights():
        pytest.skip(f"{path.stem} needs data/miniature, which lacks {', '.join(missing_weights())}")
    figures = tmp_path / "figures"
    execute(path, "ci", output_root=tmp_path / "build", figures=figures, cache=tmp_path / "cache")
    record = tmp_path / "build" / "ci" / "parameters" / f"{path.stem}.json"
    assert json.loads(record.read_text())["exhibits"] == [
        exhibit.id for exhibit in exhibits_of(path)
    ]
    entered = set(claims("ci", figures)["id"])
    assert entered == {id for text in load_texts(path.stem).values() for id in text.claims}
