"""Saving: what lands in a run, deterministic bytes, refusals before anything is written."""

from __future__ import annotations

import io
import json
import re

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from mmn_utils.exhibits.ledger import claims, enter, forget, row_of
from mmn_utils.exhibits.provenance import (
    circumstances_path,
    describe,
    enter_versions,
    read_versions,
    versions,
)
from mmn_utils.exhibits.report import build_report
from mmn_utils.exhibits.saving import Run
from tests.exhibits.samples import NUMBERS, PAPER, PARAMETERS, TABLE, UNTESTED, draw, fill


def test_everything_of_an_exhibit_lands_in_the_run(run):
    fill(run)
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        "A-fig-1.png", "A-fig-1.pdf", "A-fig-1.numbers.csv", "A-fig-1.json",
        "A-table-1.csv", "A-table-1.tex", "A-table-1.md", "A-table-1.numbers.csv",
        "A-table-1.json", "claims.csv", "versions.csv",
    }  # fmt: skip
    record = json.loads((run.folder / "A-fig-1.json").read_text())
    assert record["notebook"] == "02_attribution"
    assert record["parameters"] == PARAMETERS
    assert record["model"] == {"name": "tiny", "revision": "r1"}
    assert record["data"] == {"name": "scenes"}
    assert record["seed"] == 3
    assert record["device"] == "cpu"
    assert read_versions(run.folder).loc["torch", "02_attribution"]


def test_what_differs_from_run_to_run_lies_beside_it(run):
    fill(run)
    beside = json.loads(circumstances_path("test", "A-fig-1").read_text())
    assert set(beside["git"]) == {"commit", "dirty"}
    assert beside["versions"] == versions()
    assert beside["duration_seconds"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", beside["time"])
    record = json.loads((run.folder / "A-fig-1.json").read_text())
    assert not {"time", "git", "host", "duration_seconds", "versions"} & set(record)


def test_of_a_device_the_tracked_record_has_the_kind(tmp_path, untold):
    model = {"name": "tiny", "device": "cuda:3"}
    run = Run("test", "02_attribution", PARAMETERS, model, root=tmp_path, exhibits=untold)
    fill(run)
    record = json.loads((run.folder / "A-fig-1.json").read_text())
    assert record["device"] == "cuda"
    assert record["model"] == {"name": "tiny"}
    assert json.loads(circumstances_path("test", "A-fig-1").read_text())["device"] == "cuda:3"


def test_versions_are_entered_by_notebook_without_what_moves_no_number(tmp_path, monkeypatch):
    known = {"python": "3.11.7", "torch": "2.13.0+cpu", "bert-score": None}
    monkeypatch.setattr("mmn_utils.exhibits.provenance.versions", lambda: known)
    enter_versions(tmp_path, "04_ablation")
    enter_versions(tmp_path, "02_attribution")
    known["torch"] = "2.14.0"
    enter_versions(tmp_path, "04_ablation")
    text = (tmp_path / "versions.csv").read_text()
    assert text == (
        "library,02_attribution,04_ablation\npython,3.11,3.11\ntorch,2.13.0,2.14.0\nbert-score,,\n"
    )


def test_bytes_are_deterministic(tmp_path, untold):
    folders = []
    for part in ("one", "two"):
        run = Run("test", "02_attribution", PARAMETERS, root=tmp_path / part, exhibits=untold)
        fill(run)
        build_report(run)
        folders.append(run.folder)
    for path in sorted(folders[0].iterdir()):
        ours, other = path.read_bytes(), (folders[1] / path.name).read_bytes()
        assert ours == other, path.name


def test_figures_carry_no_date_or_version(run):
    fill(run)
    for name in ("A-fig-1.png", "A-fig-1.pdf"):
        content = (run.folder / name).read_bytes()
        for mark in (b"CreationDate", b"Software", b"Matplotlib v", b"matplotlib.org"):
            assert mark not in content, (name, mark)
    assert Image.open(run.folder / "A-fig-1.png").size == (3 * 160, 2 * 160)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.save_figure("A-fig-99", draw(), NUMBERS, "c"), "not in exhibits.yaml"),
        (lambda r: r.save_figure("A-fig-5", draw(), NUMBERS, "c"), "belongs to 03_selectivity"),
        (lambda r: r.save_figure("A-table-1", draw(), NUMBERS, "c"), "save it with save_table"),
        (lambda r: r.save_table("A-fig-1", TABLE, "c"), "save it with save_figure"),
        (lambda r: r.save_table("A-table-1", TABLE, " "), "needs a caption"),
    ],
)
def test_wrong_exhibits_are_refused_before_anything_is_written(run, call, message):
    with pytest.raises(ValueError, match=message):
        call(run)
    assert not run.folder.exists()


def test_parameters_that_cannot_be_recorded_are_refused_at_once(tmp_path, untold):
    for value in (object(), float("nan")):
        with pytest.raises(ValueError, match="cannot be recorded"):
            Run("test", "02_attribution", {"x": value}, root=tmp_path, exhibits=untold)
    with pytest.raises(ValueError, match="cannot name a folder"):
        Run("../x", "02_attribution", {}, root=tmp_path)


def test_describe_takes_what_has_a_name():
    class Model:
        name, revision, device = "miniature", "abc", "cpu"

    assert describe(Model()) == {"name": "miniature", "revision": "abc", "device": "cpu"}
    assert describe(None) is None
    with pytest.raises(ValueError, match="no name"):
        describe(object())
    assert versions()["python"].startswith("3.")


def test_forget_takes_a_notebooks_exhibits_and_claims_only(run, tmp_path, untold):
    fill(run)
    other = Run("test", "03_selectivity", {}, root=tmp_path, exhibits=untold)
    other.save_figure("A-fig-5", draw(), NUMBERS, "Other.")
    enter(other.folder, "A-fig-5", {"A-7": row_of("A-7", "A-fig-5", PAPER, "t", UNTESTED)})
    pages = run.folder / "notebooks"
    pages.mkdir()
    for name in ("02_attribution.html", "02_attribution-1.png", "03_selectivity.html"):
        (pages / name).touch()
    forget("test", "notebooks/02_attribution.ipynb", root=tmp_path)
    assert [path.name for path in pages.iterdir()] == ["03_selectivity.html"]
    assert not list(run.folder.glob("A-fig-1*"))
    assert (run.folder / "A-fig-5.png").is_file()
    assert claims(run)["id"].tolist() == ["A-7"]
    assert not circumstances_path("test", "A-fig-1").exists()
    assert circumstances_path("test", "A-fig-5").exists()
    forget("absent", "02_attribution", root=tmp_path)


def test_what_is_drawn_is_shown_once_and_kept_only_where_it_is_saved(run):
    fig = plt.figure(figsize=(2, 1))
    shown = run.show(fig)
    assert Image.open(io.BytesIO(shown._repr_png_())).size == (2 * 160, 160)
    assert not plt.fignum_exists(fig.number)
    assert not run.folder.exists()
    fig = plt.figure(figsize=(2, 1))
    run.save_figure("A-fig-1", fig, NUMBERS, "c")
    assert not plt.fignum_exists(fig.number)
