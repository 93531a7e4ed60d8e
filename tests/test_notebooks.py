"""The notebooks: their form, and each from end to end on the preset ``ci``."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import papermill
import pytest

from mmn_utils.exhibits.entries import exhibits_of, load_exhibits
from mmn_utils.presets import NOTEBOOKS, REQUIRED, read_parameters, resolve
from mmn_utils.running.run import execute
from tests.conftest import missing_weights

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
MOST_LINES = 25

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


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
def test_every_parameter_is_visible_to_papermill(path):
    seen = papermill.inspect_notebook(str(path))
    parameters = read_parameters(path)
    assert set(seen) == set(parameters)
    assert {name: parameter["help"] for name, parameter in seen.items()} == {
        name: parameter.comment for name, parameter in parameters.items()
    }


@each_notebook
def test_cells_are_short(path):
    for cell in code_cells(path):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) < MOST_LINES, cell.source


@each_notebook
def test_opens_with_its_title_and_explains_itself(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    lines = sum(len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code")
    assert words > lines, "more code than prose"


@each_notebook
def test_names_each_of_its_exhibits(path):
    source = "\n".join(cell.source for cell in code_cells(path))
    for exhibit in exhibits_of(path):
        assert f'"{exhibit.id}"' in source, f"{exhibit.id} is not saved in {path.name}"


@each_notebook
@pytest.mark.slow
def test_runs_from_end_to_end_on_the_preset_ci(path, tmp_path):
    if resolve(path, "ci")["model"].startswith("miniature") and missing_weights():
        pytest.skip(f"{path.stem} needs data/miniature, which lacks {', '.join(missing_weights())}")
    figures = tmp_path / "figures"
    execute(path, "ci", output_root=tmp_path / "build", figures=figures, cache=tmp_path / "cache")
    record = tmp_path / "build" / "ci" / "parameters" / f"{path.stem}.json"
    assert json.loads(record.read_text())["exhibits"] == [
        exhibit.id for exhibit in exhibits_of(path)
    ]
