"""The one list of exhibits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmn_utils.exhibits.entries import load_exhibits
from mmn_utils.exhibits.saving import Run
from mmn_utils.presets import NOTEBOOKS


def test_all_fifteen_exhibits_of_paper_a_are_listed():
    ours = {id for id, exhibit in load_exhibits().items() if exhibit.paper == "A"}
    figures = {f"A-fig-{n}" for n in ("1", "2", "3", "4", "5", "6", "S1", "S2", "S3", "S4")}
    assert ours == figures | {f"A-table-{n}" for n in ("1", "2", "S1", "S2", "S3")}
    assert len(ours) == 15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "movie"}, "figure or table"),
        ({"paper": "B"}, "begin with its paper"),
        ({"colour": "red"}, "colour"),
        ({"title": ""}, "not empty"),
        ({"id": "fig 1"}, "begin with its paper"),
    ],
)
def test_bad_entries_are_refused(tmp_path, change, message):
    entry = {"id": "A-fig-1", "kind": "figure", "notebook": "x", "paper": "A", "title": "t",
             "claim": "c", **change}  # fmt: skip
    path = tmp_path / "list.yaml"
    path.write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=message):
        load_exhibits(path)


def test_an_id_twice_is_refused(tmp_path):
    entry = {"id": "A-fig-1", "kind": "figure", "notebook": "x", "paper": "A", "title": "t",
             "claim": "c"}  # fmt: skip
    path = tmp_path / "list.yaml"
    path.write_text(json.dumps([entry, entry]))
    with pytest.raises(ValueError, match="twice"):
        load_exhibits(path)


def test_exhibits_name_notebooks_by_their_number():
    for exhibit in load_exhibits().values():
        assert re.fullmatch(r"\d\d_[a-z_]+", exhibit.notebook)
    assert (NOTEBOOKS / "exhibits.yaml").is_file()


def test_folder_of_figures_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("MMN_FIGURES", str(tmp_path / "elsewhere"))
    assert Run("x", "02_attribution", {}).folder == Path(tmp_path / "elsewhere" / "x")
