"""How a notebook begins that nobody checked before: in JupyterLab, and under papermill alone."""

from __future__ import annotations

from pathlib import Path

import papermill
import pytest

from mmn_utils.presets import begin, read_parameters
from mmn_utils.running.environment import KERNEL
from tests.notebook_tools import COMMON, write_notebook

EXTRA = """\
quantile = 0.95  # of each map
sizes = {"small": 1, "large": 2}  # named sizes
"""
CELL = """\
from mmn_utils.presets import begin
begin({path!r}, globals())
print("begun", quantile, sizes)
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.ipynb"
    return write_notebook(tmp_path, "tiny", EXTRA, CELL.format(path=str(path)))


def names(notebook: Path, *sources: str, **values) -> dict:
    """Return what a kernel's ``globals()`` would have after the cells ``sources``."""
    found = {name: one.default for name, one in read_parameters(notebook).items()}
    return {**found, **values, "In": ["", *sources, "begin(...)"]}


def cell(path: Path, *more: str) -> str:
    given = [f"{name} = {one.default!r}  # {name}" for name, one in read_parameters(path).items()]
    return "\n".join([*given, *more])


def test_what_was_given_gets_the_types_of_the_defaults(notebook):
    found = names(notebook, cell(notebook), quantile=1, sizes={"small": 5})
    assert begin(notebook, found).random() == begin(notebook, found).random()
    assert type(found["quantile"]) is float
    assert found["sizes"] == {"small": 5, "large": 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_images": "20"}, r"n_images = '20' is of type str, but must be of type int"),
        ({"seed": True}, r"seed = True is of type bool"),
        ({"quantile": "0.9"}, r"quantile = '0.9' is of type str.*like its default 0.95"),
        ({"sizes": {"tiny": 1}}, r"'tiny' is not a key of sizes"),
        ({"n_images": 0}, r"n_images = 0: give 1 or more"),
        ({"run": "../x"}, r"run = '../x' cannot name a folder"),
        ({"run": 7}, r"run = 7 .*write it in quotes, and give it to papermill by -r"),
        ({"n_images": "1:30"}, r"n_images = '1:30' .*plain digits"),
        ({"n_images": 1e3}, r"n_images = 1000.0 is of type float"),
        ({"quantile": float("inf")}, r"must be finite"),
        ({"sizes": "{small: 1}"}, r"papermill's -p takes no lists"),
    ],
)
def test_an_ill_typed_parameter_is_refused(notebook, values, message):
    with pytest.raises(ValueError, match=message):
        begin(notebook, names(notebook, cell(notebook), **values))


def test_a_cell_that_was_saved_with_another_type_is_refused_for_what_all_notebooks_have(tmp_path):
    common = COMMON.replace("n_images = 3", 'n_images = "9"')
    path = write_notebook(tmp_path, "tiny", "", common=common)
    with pytest.raises(ValueError, match="n_images = '9' is of type str"):
        begin(path, names(path))


def test_a_misspelt_name_is_refused_until_the_cell_is_run_again(notebook):
    misspelt = cell(notebook, "quantil = 0.5  # of each map")
    with pytest.raises(ValueError, match=r"'quantil' is not a parameter of tiny\.ipynb"):
        begin(notebook, names(notebook, "quantil = 3", misspelt))
    begin(notebook, names(notebook, misspelt, cell(notebook), "other = 1", "%time x = 1"))


def test_a_parameter_without_a_value_is_named(notebook):
    found = names(notebook)
    del found["quantile"]
    with pytest.raises(ValueError, match="quantile: no value; run the parameters cell of tiny"):
        begin(notebook, found)


def run(path: Path, **values) -> str:
    """Run a notebook by papermill as it is; return what its last cell printed."""
    output = path.with_name("executed.ipynb")
    done = papermill.execute_notebook(
        str(path), str(output), values, kernel_name=KERNEL, progress_bar=False
    )
    return done.cells[-1].outputs[0]["text"]


def test_papermill_alone_is_told_of_what_it_would_only_warn_of(notebook):
    assert run(notebook, quantile=0.5, sizes={"small": 3}).startswith("begun 0.5 {'small': 3, 'l")
    with pytest.raises(papermill.PapermillExecutionError, match="'quantil' is not a parameter of"):
        run(notebook, quantil=0.5)
