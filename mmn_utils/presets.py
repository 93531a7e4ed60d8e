"""Presets and parameters: strict, resolved before anything runs, and recorded.

A notebook declares its parameters once, in the cell tagged ``parameters``: literals
only, one per line, each with a trailing comment. That cell is the schema. A preset
(``notebooks/presets/*.yaml``) and the command line may only give values for names
that the cell has, in the type that the cell's default has; everything else is an
error here, before a kernel starts. papermill alone would merely warn, and JupyterLab
not even that: there ``begin``, with which every notebook opens, refuses the same.

The cell's own ``run`` is ``scratch``, which git ignores. Published runs are named by
presets alone, so that no experiment overwrites one.

Paths are taken from the repository's root, never from the current directory.
"""

from __future__ import annotations

import ast
import io
import json
import os
import random
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmn_utils.plain_yaml import load_yaml
from mmn_utils.values import check_allowed, check_choices, conform, refuse_unknown, suggest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PRESETS = NOTEBOOKS / "presets"

# Every notebook has these; what they mean, and their type, is the same in each.
COMMON = {"preset": "", "run": "", "model": "", "seed": 0, "n_images": 1}
REQUIRED = tuple(COMMON)
INJECTED = "# Parameters"  # how the cell begins that papermill puts in
PRESET_KEYS = ("name", "description", "only", "settings", "notebooks")
SUFFIXES = (".yaml", ".yml")
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``name = default  # comment``."""

    name: str
    default: Any
    comment: str


@dataclass(frozen=True)
class Preset:
    """Values for many notebooks.

    ``settings`` hold for every notebook that has a parameter of that name,
    ``notebooks[stem]`` for one notebook and win over ``settings``. ``only`` are the stems
    that ``make figures`` runs on the preset, none for all; any other can still be run by
    its name.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    notebooks: dict[str, dict[str, Any]] = field(default_factory=dict)
    description: str = ""
    only: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def address(self) -> str:
        """What ``load_preset`` finds it by from anywhere: its name, or its file's whole path."""
        here = self.path is None or self.path.parent == PRESETS
        return self.name if here else str(self.path)

    def chosen(self, notebooks: Iterable[str]) -> list[str]:
        """Return those of the stems that the preset runs, in their order.

        ValueError where ``only`` names one that is not among them.
        """
        stems = list(notebooks)
        refuse_unknown(self.only, stems, f"a notebook (in only of preset {self.name})")
        return list(filter(self.runs, stems))

    def runs(self, notebook: str) -> bool:
        """Say whether a notebook, by its stem, is among those that the preset runs."""
        return not self.only or notebook in self.only


def data_path(*parts: str | Path) -> Path:
    """Return the path of something under the repository's ``data`` folder."""
    return ROOT.joinpath("data", *parts)


def from_root(path: str | Path) -> Path:
    """Return ``path`` against the repository's root, variables of the environment filled in."""
    place = os.path.expandvars(path)
    if "$" in place:
        raise ValueError(f"{path} is not set in the environment; set it, or give another path")
    return (ROOT / Path(place).expanduser()).resolve()


def from_here(path: str | Path) -> Path:
    """Return ``path`` against the folder that one stands in where it is there, else ``from_root``.

    For what somebody names by hand. A kernel stands in the repository's root.
    """
    there = from_root(path)
    here = Path(os.path.expandvars(path)).expanduser().absolute()
    return here.resolve() if here.exists() else there


def notebook_path(notebook: str | Path) -> Path:
    """Find a notebook by its path or by its bare name, as in ``02_attribution``."""
    path = Path(notebook)
    candidates = [path, from_root(path), NOTEBOOKS / f"{path.name.removesuffix('.ipynb')}.ipynb"]
    for candidate in candidates:
        if candidate.suffix == ".ipynb" and candidate.is_file():
            return candidate.resolve()
    known = sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb"))
    raise ValueError(f"no notebook {str(notebook)!r}; {suggest(path.stem, known)}")


# --- the parameters cell ---------------------------------------------------------------


def read_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """Read a notebook's parameters cell.

    Returns the parameters in the order of the cell. ValueError where the notebook has
    not exactly one such cell, where it is not the first code cell, or where a line is
    anything but ``name = literal  # comment``.
    """
    path = notebook_path(notebook)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(
            f"{path.name} has {len(tagged)} cells tagged 'parameters'; tag exactly one"
        )
    if tagged[0] is not code[0]:
        raise ValueError(f"{path.name}: the parameters cell must be the first code cell")
    return parse_parameters("".join(tagged[0]["source"]), path.name)


def parse_parameters(source: str, where: str = "parameters cell") -> dict[str, Parameter]:
    """Parse the source of a parameters cell; see ``read_parameters``."""
    comments = _comments_by_line(source)
    found: dict[str, Parameter] = {}
    for statement in ast.parse(source).body:
        line = f"{where}, line {statement.lineno}"
        name = _assigned_name(statement, line)
        if name in found:
            raise ValueError(f"{line}: {name} is assigned twice")
        if statement.lineno not in comments:
            raise ValueError(f"{line}: {name} needs a trailing comment that says what it is")
        default = _literal(statement.value, f"{line}: {name}")
        found[name] = Parameter(name, default, comments[statement.lineno])
    return found


def _assigned_name(statement: ast.stmt, line: str) -> str:
    if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
        raise ValueError(f"{line}: a parameters cell holds 'name = literal  # comment' only")
    if len(statement.targets) != 1 or statement.end_lineno != statement.lineno:
        raise ValueError(f"{line}: assign one parameter per line")
    return statement.targets[0].id


def _literal(node: ast.expr, where: str) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{where} is not a literal; derive it in the next cell") from None
    check_allowed(where, value)
    return value


def _comments_by_line(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


# --- presets ---------------------------------------------------------------------------


def load_preset(name_or_path: str | Path) -> Preset:
    """Read a preset by its name (``miniature``) or by the path of its YAML file.

    A path is taken from the current directory, or else from the repository's root. ValueError
    for a file elsewhere that is called like a preset of the repository: its run would be
    written over.
    """
    path = _preset_path(name_or_path)
    content = load_yaml(path) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping with the keys {', '.join(PRESET_KEYS)}")
    refuse_unknown(content, PRESET_KEYS, f"a key of a preset (in {path.name})")
    name = content.get("name")
    if name != path.stem:
        raise ValueError(f"{path}: name is {name!r}, but must be the file's: {path.stem!r}")
    notebooks = _mapping(content, "notebooks", path)
    return Preset(
        check_run_name(name),
        _mapping(content, "settings", path),
        {stem: _mapping(notebooks, stem, path) for stem in notebooks},
        content.get("description", ""),
        _only(content, path),
        path,
    )


def _preset_path(name_or_path: str | Path) -> Path:
    """Find a preset's file; ValueError where there is none, or where its name is taken."""
    given = Path(name_or_path).expanduser()
    if given.suffix not in SUFFIXES:
        path = PRESETS / f"{name_or_path}.yaml"
    else:
        path = (given if given.is_file() else from_root(given)).resolve()
    if not path.is_file():
        known = sorted(p.stem for p in PRESETS.glob("*.yaml"))
        raise ValueError(
            f"no preset {str(name_or_path)!r}; {suggest(path.stem, known)}; one of your own "
            "is given by the path of its .yaml file"
        )
    taken = PRESETS / f"{path.stem}.yaml"
    if path != taken and taken.is_file():
        raise ValueError(
            f"{path}: {path.stem} is a preset of the repository, whose run would be written over; "
            "give the file, and name in it, another name"
        )
    return path


def _mapping(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    """Read a key that holds names and values, none where it is left out or empty."""
    found = content.get(key) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {key} = {found!r} must be a mapping of names to values")
    return found


def _only(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Read the key ``only``; ValueError for anything but a list of some stems."""
    if "only" not in content:
        return ()
    only = content["only"]
    if not (isinstance(only, list) and only and all(isinstance(stem, str) for stem in only)):
        raise ValueError(
            f"{path}: only = {only!r} must be a list of notebooks, such as [02_attribution]; "
            "leave it out for all"
        )
    return tuple(only)


def resolve(
    notebook: str | Path,
    preset: str | Path | Preset,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the full set of a notebook's parameters, in the order of its cell.

    Later wins: the cell's defaults, the preset's settings, the preset's values for this
    notebook, ``overrides``. ``preset`` and ``run`` become the preset's name unless
    ``run`` is given. ValueError for a name that the notebook (or, for the preset's
    settings, any notebook beside it) does not have, for a wrong type, for a value that is none of
    the parameter's (``choices.yaml``), for no images and for a negative seed.
    """
    path = notebook_path(notebook)
    preset = preset if isinstance(preset, Preset) else load_preset(preset)
    parameters = read_parameters(path)
    _require_common(path.name, parameters)
    _check_preset_names(preset, path)
    settings = {name: value for name, value in preset.settings.items() if name in parameters}
    values = {"preset": preset.name, "run": preset.name}
    for source in (settings, preset.notebooks.get(path.stem, {}), overrides or {}):
        refuse_unknown(source, parameters, f"a parameter of {path.name}")
        values.update(source)
    if values["preset"] != preset.name:
        raise ValueError(f"preset = {values['preset']!r}: choose the preset, do not override it")
    resolved = {
        name: conform(name, values.get(name, parameter.default), parameter.default)
        for name, parameter in parameters.items()
    }
    _check_values(path, resolved)
    return resolved


def begin(notebook: str | Path, names: dict[str, Any]) -> np.random.Generator:
    """Check what a notebook was given, seed everything, return a generator of the seed.

    ``names`` are the notebook's ``globals()``; its parameters get the types of their
    defaults there. ValueError as for ``resolve``, whoever started the kernel: for a name
    that the parameters cell does not have, for one that has no value, for a wrong type.
    """
    path = notebook_path(notebook)
    parameters = read_parameters(path)
    _require_common(path.name, parameters)
    refuse_unknown(_given(names), parameters, f"a parameter of {path.name}")
    absent = [name for name in parameters if name not in names]
    if absent:
        raise ValueError(f"{', '.join(absent)}: no value; run the parameters cell of {path.name}")
    values = {name: conform(name, names[name], parameters[name].default) for name in parameters}
    _check_values(path, values)
    names.update(values)
    return seed_everything(values["seed"])


def _given(names: Mapping[str, Any]) -> list[str]:
    """List the names that IPython's history of cells has as parameters: the cell's, as it was
    run last, and those that papermill put in after it."""
    given: list[str] = []
    for source in names.get("In", ()):
        assigned = _assigned_names(source)
        if source.startswith(INJECTED):
            given += assigned
        elif {"preset", "run"} <= set(assigned):
            given = assigned
    return given


def _assigned_names(source: str) -> list[str]:
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell with a magic command holds no parameters
        return []
    targets = [target for one in body if isinstance(one, ast.Assign) for target in one.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _check_values(path: Path, values: Mapping[str, Any]) -> None:
    check_choices(values, path.parent)
    for name, example in COMMON.items():
        conform(name, values[name], example)
    check_run_name(values["run"])
    for name, least in (("n_images", 1), ("seed", 0)):
        if values[name] < least:
            raise ValueError(f"{name} = {values[name]!r}: give {least} or more")


def _require_common(name: str, parameters: Mapping[str, Parameter]) -> None:
    missing = [common for common in REQUIRED if common not in parameters]
    if missing:
        raise ValueError(f"{name}: the parameters cell lacks {', '.join(missing)}")


def _check_preset_names(preset: Preset, path: Path) -> None:
    beside = {p.stem: p for p in sorted(path.parent.glob("*.ipynb"))}
    preset.chosen(beside)
    refuse_unknown(preset.notebooks, beside, f"a notebook (in preset {preset.name})")
    anywhere = {name for notebook in beside.values() for name in read_parameters(notebook)}
    what = f"a parameter of any notebook (in preset {preset.name})"
    refuse_unknown(preset.settings, sorted(anywhere), what)


def check_run_name(name: str) -> str:
    """Return ``name`` if it can name a folder under ``figures``; ValueError otherwise."""
    if not FOLDER_NAME.fullmatch(name):
        raise ValueError(
            f"run = {name!r} cannot name a folder; use letters, digits, '.', '_' and '-'"
        )
    return name


def seed_everything(seed: int) -> np.random.Generator:
    """Seed Python, numpy and torch; return a generator of this seed for local use."""
    if type(seed) is not int or seed < 0:
        raise ValueError(f"seed = {seed!r} must be an int that is not negative")
    import torch  # here, since reading a preset must not cost torch's import

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (libraries still draw from it)
    torch.manual_seed(seed)
    return np.random.default_rng(seed)
