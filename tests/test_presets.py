"""Presets and parameters: strict names, strict types, before anything runs."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmn_utils import presets
from mmn_utils.presets import (
    NOTEBOOKS,
    PRESETS,
    ROOT,
    Preset,
    load_preset,
    parse_parameters,
    read_parameters,
    resolve,
    seed_everything,
)
from mmn_utils.values import conform, read_value
from tests.notebook_tools import COMMON, write_notebook

EXTRA = """\
quantile = 0.95  # of each map
target = "logit"  # or probability
normalise = False  # apply the final norm
ks = [0, 50, 100]  # ablated units
thresholds = [1.0, 2.5]  # floats
words = []  # any words
sizes = {"small": 1, "large": 2}  # named sizes
offset = -3  # a negative number
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return write_notebook(tmp_path, "tiny", EXTRA)


def preset(**settings) -> Preset:
    return Preset("small", settings)


def test_root_is_the_repository_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (ROOT / "pyproject.toml").is_file()
    assert presets.data_path("golden", "A-table-1.csv").is_file()
    assert presets.from_root("build/x") == ROOT / "build" / "x"


def test_what_one_names_is_found_from_here_or_else_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert presets.from_here("data/golden") == ROOT / "data" / "golden"
    (tmp_path / "data" / "golden").mkdir(parents=True)
    assert presets.from_here("data/golden") == tmp_path / "data" / "golden"
    assert presets.from_here("nowhere") == ROOT / "nowhere"


def test_parameters_are_read_in_order_with_their_comments(notebook):
    parameters = read_parameters(notebook)
    assert list(parameters)[:5] == ["preset", "run", "model", "seed", "n_images"]
    assert parameters["quantile"].default == 0.95
    assert parameters["quantile"].comment == "of each map"
    assert parameters["offset"].default == -3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os", "holds 'name = literal"),
        ("a = 1", "trailing comment"),
        ("a = b = 1  # two", "one parameter per line"),
        ("a = [\n  1,\n]  # long", "one parameter per line"),
        ("a = 2 * 3  # product", "not a literal"),
        ("a = None  # nothing", "must be a bool, int"),
        ("a = (1, 2)  # pair", "must be a bool, int"),
        ("a = [1, None]  # hole", "must be a bool, int"),
        ("a = 1  # one\na = 2  # two", "assigned twice"),
        ("a: int = 1  # annotated", "holds 'name = literal"),
        ("a += 1  # added", "holds 'name = literal"),
        ("a, b = 1, 2  # two", "holds 'name = literal"),
    ],
)
def test_parameters_cell_holds_literals_only(source, message):
    with pytest.raises(ValueError, match=message):
        parse_parameters(source)


def test_a_hash_inside_a_text_is_no_comment():
    with pytest.raises(ValueError, match="trailing comment"):
        parse_parameters('a = "no # comment"')
    assert parse_parameters('a = "x # y"  # real')["a"].comment == "real"


def test_resolve_order_of_precedence(notebook):
    chosen = Preset("small", {"seed": 1, "n_images": 10}, {"tiny": {"n_images": 20}})
    resolved = resolve(notebook, chosen, {"quantile": 0.9})
    assert resolved["seed"] == 1
    assert resolved["n_images"] == 20
    assert resolved["quantile"] == 0.9
    assert resolved["preset"] == resolved["run"] == "small"
    assert list(resolved) == list(read_parameters(notebook))
    assert resolve(notebook, chosen, {"run": "other"})["run"] == "other"


def test_misspelt_parameters_are_refused_with_a_suggestion(notebook):
    with pytest.raises(ValueError, match="did you mean 'quantile'"):
        resolve(notebook, preset(), {"quantil": 0.9})
    with pytest.raises(ValueError, match="did you mean 'quantile'"):
        resolve(notebook, preset(quantle=0.9))
    with pytest.raises(ValueError, match="is not a parameter of tiny"):
        resolve(notebook, Preset("small", {}, {"tiny": {"unknown": 1}}))
    with pytest.raises(ValueError, match="not a notebook"):
        resolve(notebook, Preset("small", {}, {"tyni": {}}))


def test_settings_hold_where_a_notebook_has_them(notebook, tmp_path):
    other = write_notebook(tmp_path, "other", "depth = 2  # of the tree\n")
    chosen = preset(depth=3)
    assert resolve(other, chosen)["depth"] == 3
    assert "depth" not in resolve(notebook, chosen)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "0"),
        ("seed", 1.0),
        ("seed", True),
        ("quantile", "0.9"),
        ("quantile", True),
        ("quantile", float("nan")),
        ("target", 3),
        ("normalise", 1),
        ("normalise", "False"),
        ("ks", "0, 50"),
        ("ks", [0, "50"]),
        ("ks", [0.5]),
        ("ks", (0, 50)),
        ("sizes", {"smal": 1}),
        ("sizes", {"small": "1"}),
        ("words", [None]),
        ("model", None),
        ("n_images", 0),
        ("seed", -1),
    ],
)
def test_bad_values_are_refused(notebook, name, value):
    with pytest.raises(ValueError, match=name):
        resolve(notebook, preset(), {name: value})


def test_values_that_are_fine(notebook):
    given_values = {"quantile": 1, "ks": [7], "thresholds": [1, 2], "words": ["a", 1],
                    "sizes": {"small": 5}}  # fmt: skip
    resolved = resolve(notebook, preset(), given_values)
    assert resolved["quantile"] == 1.0
    assert type(resolved["quantile"]) is float
    assert resolved["thresholds"] == [1.0, 2.0]
    assert [type(x) for x in resolved["thresholds"]] == [float, float]
    assert resolved["sizes"] == {"small": 5, "large": 2}


def test_missing_common_parameters_are_named(tmp_path):
    path = write_notebook(tmp_path, common='preset = "x"  # name\nrun = "x"  # folder\n')
    with pytest.raises(ValueError, match="lacks model, seed, n_images"):
        resolve(path, preset())


def test_the_preset_is_not_overridden_and_the_run_is_a_folder_name(notebook):
    with pytest.raises(ValueError, match="choose the preset"):
        resolve(notebook, preset(), {"preset": "other"})
    for name in ("../up", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="cannot name a folder"):
            resolve(notebook, preset(), {"run": name})


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("7", 1, 7),
        ("-7", 1, -7),
        ("1e-3", 0.5, 0.001),
        ("2", 0.5, 2.0),
        ("007", "x", "007"),
        ("true", "x", "true"),
        ("false", True, False),
        ("[1, 2]", [0], [1, 2]),
        ("[1e-3, 2]", [0.5], [0.001, 2.0]),
        ("010", 0.5, 10.0),
        ("1_000", 0.5, 1000.0),
        ("010", "x", "010"),
        ("{small: 3}", {"small": 1}, {"small": 3}),
    ],
)
def test_command_line_text_is_read_in_the_parameters_type(text, default, value):
    read = read_value("x", text, default)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "default"),
    [
        ("abc", 1),
        ("1.5", 1),
        ("0", False),
        ("x", 0.5),
        ("nan", 0.5),
        ("1", [0]),
        ("[a: b", 1),
        ("010", 1),
        ("1_000", 1),
        ("1:30", 1),
        ("1:30", 0.5),
        ("[010]", [1]),
        ("[1_000]", [1]),
        ("yes", True),
        ("1e400", 0.5),
    ],
)
def test_command_line_text_of_the_wrong_type_is_refused(text, default):
    with pytest.raises(ValueError, match="x"):
        read_value("x", text, default)


scalars = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)


@given(value=scalars, default=scalars)
def test_conform_keeps_the_defaults_type_or_refuses(value, default):
    try:
        result = conform("x", value, default)
    except ValueError:
        assert type(value) is not type(default)
        assert not (type(default) is float and type(value) is int)
    else:
        assert type(result) is type(default)
        assert result == value or abs(value) > 2**53


@given(st.lists(st.integers(), min_size=1), st.lists(st.integers(), min_size=1))
def test_lists_conform_item_by_item(value, default):
    result = conform("x", value, default)
    assert result == value
    assert result is not value


# --- preset files ----------------------------------------------------------------------


def test_every_preset_of_the_repository_is_read():
    names = {path.stem for path in PRESETS.glob("*.yaml")}
    assert {"miniature", "limber", "ci"} <= names
    for name in names:
        assert load_preset(name).name == name
        assert load_preset(name).description


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
@pytest.mark.parametrize("notebook", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_every_preset_fits_every_notebook(name, notebook):
    assert resolve(notebook, name)["preset"] == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: wrong\n", "must be the file's"),
        ("name: bad\nsetings: {}\n", "did you mean 'settings'"),
        ("name: bad\nsettings:\n  seed: 1\n  seed: 2\n", "given twice"),
        ("- a\n", "must be a mapping"),
        ("name: [\n", "cannot be read as YAML"),
    ],
)
def test_bad_preset_files_are_refused(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_preset(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settings: {n_images: 010}", "010 begins with a zero; write 10"),
        ("settings: {n_images: 1_000}", r"n_images = '1_000' .*plain digits, without '_'"),
        ("settings: {n_images: 1:30}", r"n_images = '1:30' .*plain digits"),
        ("settings: {n_images: 1e3}", "must be of type int"),
        ("settings: {normalise: yes}", "normalise = 'yes' .*write true or false"),
        ("settings: {target: 7}", "target = 7 .*write it in quotes"),
        ("settings: [1]", r"settings = \[1\] must be a mapping"),
        ("notebooks: {tiny: 3}", "tiny = 3 must be a mapping"),
    ],
)
def test_values_that_are_not_what_they_look_like_are_refused(notebook, tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        resolve(notebook, only_preset(tmp_path, text))


def test_numbers_and_merges_of_a_preset_are_what_they_say(notebook, tmp_path):
    text = "settings: &s {quantile: 1e-3}\nnotebooks: {tiny: {<<: *s, thresholds: [1e-5, 2]}}\n"
    resolved = resolve(notebook, only_preset(tmp_path, text))
    assert (resolved["quantile"], resolved["thresholds"]) == (0.001, [1e-5, 2.0])


def test_a_preset_by_path_is_found_from_here_and_from_the_root(notebook, tmp_path, monkeypatch):
    only_preset(tmp_path, "settings: {seed: 3}\n")
    monkeypatch.chdir(tmp_path)
    for path in ("some.yaml", "./some.yaml", str(tmp_path / "some.yaml"), Path("some.yaml")):
        preset = load_preset(path)
        assert resolve(notebook, path)["seed"] == 3
        assert preset.address == str(tmp_path / "some.yaml")
        assert load_preset(preset.address) == preset
    assert load_preset("notebooks/presets/ci.yaml").address == "ci"
    assert load_preset("ci").address == "ci"


def test_a_preset_that_would_write_over_a_run_of_the_repository_is_refused(tmp_path):
    (tmp_path / "miniature.yaml").write_text("name: miniature\n")
    with pytest.raises(ValueError, match=r"miniature is a preset of the repository.*another name"):
        load_preset(tmp_path / "miniature.yaml")
    (tmp_path / "my preset.yaml").write_text("name: my preset\n")
    with pytest.raises(ValueError, match="cannot name a folder"):
        load_preset(tmp_path / "my preset.yaml")
    with pytest.raises(ValueError, match="one of your own is given by the path of its"):
        load_preset(tmp_path / "absent")


def only_preset(tmp_path, text: str):
    path = tmp_path / "some.yaml"
    path.write_text(f"name: some\n{text}")
    return load_preset(path)


def test_only_chooses_notebooks_and_without_it_all_run(tmp_path):
    stems = ["01_first", "02_second", "03_third"]
    chosen = only_preset(tmp_path, "only: [03_third, 01_first]\n")
    assert chosen.chosen(stems) == ["01_first", "03_third"]
    assert not chosen.runs("02_second")
    assert only_preset(tmp_path, "").chosen(stems) == stems


def test_only_leaves_other_notebooks_to_those_who_ask_for_them(tmp_path):
    notebook = write_notebook(tmp_path / "notebooks", "tiny")
    write_notebook(tmp_path / "notebooks", "other")
    assert resolve(notebook, only_preset(tmp_path, "only: [other]\n"))["preset"] == "some"


def test_only_names_notebooks_that_are_there(tmp_path):
    notebook = write_notebook(tmp_path / "notebooks", "tiny")
    wrong = only_preset(tmp_path, "only: [tinny]\n")
    with pytest.raises(ValueError, match=r"in only of preset some.*did you mean 'tiny'"):
        resolve(notebook, wrong)
    with pytest.raises(ValueError, match=r"in only of preset some.*did you mean 'tiny'"):
        wrong.chosen(["tiny"])


@pytest.mark.parametrize("only", ["[]", "01_first", "[1]", "{a: 1}", ""])
def test_only_is_a_list_of_names(tmp_path, only):
    with pytest.raises(ValueError, match="must be a list of notebooks"):
        only_preset(tmp_path, f"only: {only}\n")


def test_unknown_preset_and_notebook_are_named():
    with pytest.raises(ValueError, match="did you mean 'miniature'"):
        load_preset("minature")
    with pytest.raises(ValueError, match="no notebook '99_nothing'"):
        presets.notebook_path("99_nothing")


def test_notebook_needs_exactly_one_parameters_cell_first(tmp_path):
    path = write_notebook(tmp_path)
    text = path.read_text()
    path.write_text(text.replace('"parameters"', '"other"'))
    with pytest.raises(ValueError, match="has 0 cells tagged"):
        read_parameters(path)


# --- seeds -----------------------------------------------------------------------------


def test_seed_everything_repeats_all_generators():
    def draw():
        rng = seed_everything(7)
        legacy = np.random.rand()  # noqa: NPY002
        return rng.random(), random.random(), legacy, torch.rand(1).item()

    assert draw() == draw()
    assert os.environ.get("OMP_NUM_THREADS")


@pytest.mark.parametrize("seed", [-1, 1.0, True, "0"])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        seed_everything(seed)


def test_common_lines_are_the_required_ones():
    assert tuple(parse_parameters(COMMON)) == presets.REQUIRED
