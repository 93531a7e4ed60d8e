"""Values that are few: refused before a kernel starts, in every notebook, by one list."""

from __future__ import annotations

import copy

import pytest

from mmn_utils.datasets.published import SYSTEMS
from mmn_utils.interventions.editing import METHODS
from mmn_utils.interventions.positions import POSITIONS
from mmn_utils.neurons.targets import ACTIVATIONS
from mmn_utils.plain_yaml import load_yaml
from mmn_utils.presets import NOTEBOOKS, begin, read_parameters, resolve
from mmn_utils.running.__main__ import main
from mmn_utils.studies.concepts.sensitivity import COMPARE
from mmn_utils.studies.subjects import RANKS
from mmn_utils.values import CHOICES

LISTED = load_yaml(NOTEBOOKS / CHOICES)
STEMS = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def leaves(choices: dict, defaults: dict, at: tuple = ()) -> list[tuple]:
    """List the paths of enumerated values that are among defaults."""
    found = []
    for name in filter(defaults.__contains__, choices):
        inside = isinstance(choices[name], dict)
        here = (*at, name)
        found += leaves(choices[name], defaults[name], here) if inside else [here]
    return found


CASES = [
    (stem, place)
    for stem in STEMS
    for place in leaves(LISTED, {n: p.default for n, p in read_parameters(stem).items()})
]


def test_the_list_is_what_the_code_takes():
    assert LISTED["rank_by"] == list(RANKS)
    assert LISTED["ablate_positions"] == list(POSITIONS)
    assert LISTED["activation"] == LISTED["switches"]["activation"] == list(ACTIVATIONS)
    assert LISTED["algorithm"]["method"] == list(METHODS)
    assert LISTED["judges"]["compare"] == list(COMPARE)
    assert LISTED["paper_model"] == list(SYSTEMS)


def test_every_enumerated_value_belongs_to_a_notebook():
    names = {place for _, place in CASES}
    assert names == set(leaves(LISTED, copy.deepcopy(LISTED)))


@pytest.mark.parametrize(("stem", "place"), CASES, ids=lambda one: str(one))
def test_a_misspelt_value_is_refused_whoever_starts_the_kernel(stem, place):
    values = resolve(stem, "ci")
    holder, listed = values, LISTED
    for name in place[:-1]:
        holder, listed = holder[name], listed[name]
    right = listed[place[-1]][0]
    holder[place[-1]] = wrong = right[:-2] + right[-1]
    message = f"{place[-1]}.* = {wrong!r}: did you mean {right!r}"
    with pytest.raises(ValueError, match=message):
        begin(stem, dict(values))
    given = {place[0]: values[place[0]]}
    with pytest.raises(ValueError, match=message):
        resolve(stem, "ci", given)


def test_the_command_line_says_so(capsys):
    assert (
        main(["05_llava_contribution_scoring", "--preset", "ci", "-p", "activation", "gatd"]) == 2
    )
    assert "activation = 'gatd': did you mean 'gated'" in capsys.readouterr().err
