"""What is computed ahead is what the notebook asks for."""

from __future__ import annotations

import json
import re

import pytest

from mmn_utils import ahead, selectivity
from mmn_utils.presets import notebook_path, resolve


@pytest.fixture
def parameters():
    return resolve("03_selectivity", "ci")


def test_the_notebook_finds_it_computed(parameters, monkeypatch, tmp_path):
    monkeypatch.setenv("MMN_CACHE", str(tmp_path))
    said = []
    ahead.class_selectivity(parameters, said.append)
    assert any("8/8 images" in line for line in said)
    monkeypatch.setattr(selectivity, "_caption_and_score", None)  # nothing is left to compute
    cells = json.loads(notebook_path("03_selectivity").read_text())["cells"]
    (cell,) = ["".join(c["source"]) for c in cells if "class_table(" in "".join(c["source"])]
    (asked,) = re.findall(r"kinds = .*?\n\)\n", cell, re.DOTALL)
    names = {"sel": selectivity, "system": ahead.load_model("miniature"), **parameters}
    names["folders"] = ahead.ClassFolders(ahead.from_root(parameters["classes"]))
    exec(asked, names)
    assert len(names["found_on"]["image"].unique()) == 8


def test_bad_arguments(capsys):
    assert ahead.main([]) == 2
    assert ahead.main(["ci", "miniature"]) == 2
    assert "2 arguments; give the name of one preset" in capsys.readouterr().err
    assert ahead.main(["no-such-preset"]) == 2
    assert "no-such-preset" in capsys.readouterr().err
