"""Which notebook a switch concerns, and that it does change what it says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmn_utils.presets import NOTEBOOKS, Preset, load_preset, read_parameters
from mmn_utils.running.switches import plan
from mmn_utils.running.switches.plan import Switch, parameters_of, read_switches
from tests.notebook_tools import write_notebook

PARAMETERS = 'target = "logit"  # or probability\nparts = {"a": 1, "b": 2}  # of something\n'
PRESET = Preset("tiny", {"n_images": 5, "parts": {"b": 7}})


@pytest.fixture
def notebook(tmp_path):
    return write_notebook(tmp_path, "tiny", PARAMETERS, "print(target, parts, n_images)")


def test_every_switch_of_the_list_has_a_run_of_its_own_and_something_to_change():
    switches = read_switches()
    assert len({one.run for one in switches}) == len(switches) >= 18
    named = {name for one in switches for name in one.parameters}
    known = {name for path in NOTEBOOKS.glob("*.ipynb") for name in read_parameters(path)}
    assert named <= known


@pytest.mark.parametrize(
    ("preset", "switch", "notebooks"),
    [
        ("miniature", "rank-by-sum", ["02_attribution", "03_selectivity", "04_ablation"]),
        ("miniature", "ablate-value-mean", ["04_ablation"]),
        ("miniature", "contribution-norm-final", []),
        ("miniature-llava", "decode-norm-final", ["05_llava_contribution_scoring"]),
        ("miniature-llava", "activation-gate", ["05_llava_contribution_scoring", "06_editing"]),
        ("miniature-llava", "threads-two", ["05_llava_contribution_scoring", "06_editing"]),
    ],
)
def test_a_switch_concerns_the_notebooks_that_have_its_parameter(preset, switch, notebooks):
    one = next(some for some in read_switches() if some.run == switch)
    assert plan.concerned(one, plan.asked_notebooks(load_preset(preset))) == notebooks


@pytest.mark.parametrize("preset", ["miniature", "miniature-llava"])
def test_every_switch_changes_the_notebooks_that_it_concerns(preset):
    chosen, sizes = load_preset(preset), plan.read_sizes(preset)
    notebooks = plan.asked_notebooks(chosen)
    for one in read_switches():
        for stem in plan.concerned(one, notebooks):
            model = "other" if one.system else ""
            usual, put = parameters_of(stem, chosen, one, sizes.get(stem, {}), model)
            changed = {name for name in usual if usual[name] != put[name]}
            asked = set(one.parameters) & set(usual) | ({"model"} if one.system else set())
            assert changed == {"run", *asked}


def test_parts_that_are_not_named_stay_as_the_preset_has_them(notebook):
    one = Switch("parts", "three", {"parts": {"a": 3}})
    usual, put = parameters_of(notebook, PRESET, one, {"n_images": 2})
    assert usual["parts"] == {"a": 1, "b": 7}
    assert put["parts"] == {"a": 3, "b": 7}
    assert usual["n_images"] == put["n_images"] == 2
    assert (usual["run"], put["run"]) == ("default", "parts-three")


def test_a_switch_that_leaves_everything_as_it_was_is_an_error(notebook):
    with pytest.raises(ValueError, match=r"target-logit leaves .* as it is: target has that value"):
        parameters_of(notebook, PRESET, Switch("target", "logit", {"target": "logit"}), {})
    both = Switch("both", "x", {"target": "probability", "parts": {"b": 7}})
    with pytest.raises(ValueError, match="as it is: parts has that value already"):
        parameters_of(notebook, PRESET, both, {})


def test_a_parameter_that_no_cell_reads_is_an_error(tmp_path):
    ignoring = write_notebook(tmp_path, "tiny", PARAMETERS, "target = parts\nprint(n_images)")
    one = Switch("target", "probability", {"target": "probability"})
    with pytest.raises(ValueError, match=r"none of the cells of .* reads target"):
        parameters_of(ignoring, PRESET, one, {})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{switch: a, setting: b}", "a-b puts nothing otherwise"),
        ("{switch: a, setting: b, parameter: {x: 1}}", "unexpected keyword"),
        ("{switch: a, setting: b, parameters: {x: 1}, needs: [luck]}", "'luck' is not something"),
        ("{switch: A, setting: B, parameters: {x: 1}}", "a-b is listed twice"),
    ],
)
def test_a_list_with_a_fault_is_refused(tmp_path, entry, message):
    path = tmp_path / "switches.yaml"
    first = "  - {switch: a, setting: b, parameters: {y: 1}}\n" if "twice" in message else ""
    path.write_text(f"switches:\n{first}  - {entry}\n")
    with pytest.raises(ValueError, match=message):
        read_switches(path)


def test_what_a_system_lacks_is_said():
    language = SimpleNamespace(
        _supports_attention_backend=False, config=SimpleNamespace(_attn_implementation="eager")
    )
    poor = SimpleNamespace(
        unembedding=(torch.ones(7, 2), None), sizes=SimpleNamespace(vocabulary=7),
        architecture=SimpleNamespace(gate=None), language_model=language,
    )  # fmt: skip
    rich = SimpleNamespace(
        unembedding=(torch.ones(9, 2), torch.ones(9)), sizes=SimpleNamespace(vocabulary=7),
        architecture=SimpleNamespace(gate="gate"),
        language_model=SimpleNamespace(_supports_attention_backend=True),
    )  # fmt: skip
    every = Switch("a", "b", {"x": 1}, needs=tuple(plan.NEEDS))
    said = plan.lacking(every, poor)
    for part in ("no bias", "no gate", "7 tokens", "one implementation of attention, eager"):
        assert part in said
    assert plan.lacking(every, rich) == ""
