"""What is computed ahead is what the notebook asks for."""

from __future__ import annotations

import json
import re

import pytest

from mmn_utils import ahead, selectivity
from mmn_utils.ablation_study import interpretable_units
from mmn_utils.presets import notebook_path, resolve


@pytest.fixture
def parameters():
    return resolve("03_selectivity", "ci")


def test_the_notebook_finds_it_computed(parameters, monkeypatch, tmp_path):
    monkeypatch.setenv("MMN_CACHE", str(tmp_path))
    said = []
    ahead.class_selectivity(parameters, said.append)
    assert any("classes: 8/8 images" in line for line in said)
    assert any(line.startswith("activity: ") for line in said)
    # nothing is left to compute
    monkeypatch.setattr(selectivity, "_caption_and_score", None)
    monkeypatch.setattr(selectivity, "activation_maps", None)
    cells = json.loads(notebook_path("03_selectivity").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    (cell,) = [source for source in sources if "class_study(" in source]
    (units_per_class,) = re.findall(r"^units_per_class = (\d+)", "\n".join(sources), re.MULTILINE)
    system = ahead.load_model("miniature")
    names = {"sel": selectivity, "system": system, **parameters}
    names["units_per_class"] = int(units_per_class)
    names["readable"] = interpretable_units(system)
    names["folders"] = ahead.ClassFolders(ahead.from_root(parameters["classes"]))
    exec(cell, names)
    assert names["found"].own.shape == names["found"].chance.shape
    assert len(names["found"].image_class) == names["found"].own.shape[1]


def test_bad_arguments(capsys):
    assert ahead.main([]) == 2
    assert ahead.main(["ci", "miniature"]) == 2
    assert "2 arguments; give the name of one preset" in capsys.readouterr().err
    assert ahead.main(["no-such-preset"]) == 2
    assert "no-such-preset" in capsys.readouterr().err
