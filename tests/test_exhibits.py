"""Exhibits: the one list, deterministic bytes, the ledger of claims, report and README."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmn_utils import exhibits, plots
from mmn_utils.exhibits import (
    CLAIM_COLUMNS,
    README_BEGIN,
    README_END,
    Run,
    build_report,
    claims,
    forget,
    format_number,
    golden,
    latex_escape,
    load_exhibits,
    to_csv,
    to_latex,
    to_markdown,
    update_readme,
)
from mmn_utils.presets import NOTEBOOKS, ROOT, data_path, load_preset
from mmn_utils.provenance import TIME_FIELDS, describe, versions

NUMBERS = pd.DataFrame({"k": [0, 50], "value": [1.0, 0.123456789], "low": [0.9, np.nan]})
TABLE = pd.DataFrame({"neuron": ["L1.u2", "L3.u4"], "tokens": [" a|b", "50% & _x"], "n": [3, 4]})
PARAMETERS = {"preset": "ci", "run": "test", "seed": 3}


@pytest.fixture
def run(tmp_path) -> Run:
    return Run("test", "02_attribution", PARAMETERS, model={"name": "tiny", "revision": "r1"},
               data="scenes", seed=3, root=tmp_path)  # fmt: skip


def draw():
    plots.use_style()
    fig, ax = plt.subplots(figsize=(3, 2))
    plots.line_with_interval(ax, [0, 1], [1, 0.5], [0.9, 0.4], [1.1, 0.6], "multimodal")
    ax.imshow(np.random.default_rng(0).random((4, 4)), extent=(0, 1, 0, 1))
    ax.legend()
    plt.close(fig)
    return fig


def fill(run: Run) -> None:
    run.save_figure("A-fig-1", draw(), NUMBERS, "A caption with <b>signs</b> & 3 units.")
    run.save_table("A-table-1", TABLE, "A table.", numbers=NUMBERS,
                   paper=pd.DataFrame({"what": ["random"], "score": [0.3627]}))  # fmt: skip
    run.claim("A-1", "A-fig-1", claim="Half of the top units are interpretable.",
              paper_value="50 %", value=0.25, ci=(0.2, 0.3), n=40, holds=False)  # fmt: skip


# --- the list --------------------------------------------------------------------------


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


# --- saving ----------------------------------------------------------------------------


def test_everything_of_an_exhibit_lands_in_the_run(run):
    fill(run)
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        "A-fig-1.png", "A-fig-1.pdf", "A-fig-1.numbers.csv", "A-fig-1.json",
        "A-table-1.csv", "A-table-1.tex", "A-table-1.md", "A-table-1.numbers.csv",
        "A-table-1.json", "claims.csv",
    }  # fmt: skip
    record = json.loads((run.folder / "A-fig-1.json").read_text())
    assert record["notebook"] == "02_attribution"
    assert record["parameters"] == PARAMETERS
    assert record["model"] == {"name": "tiny", "revision": "r1"}
    assert record["data"] == {"name": "scenes"}
    assert record["seed"] == 3
    assert record["device"] == "cpu"
    assert record["versions"]["torch"]
    assert set(record["git"]) == {"commit", "dirty"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["time"])


def test_bytes_are_deterministic_but_for_the_times(tmp_path):
    folders = []
    for part in ("one", "two"):
        run = Run("test", "02_attribution", PARAMETERS, root=tmp_path / part)
        fill(run)
        build_report(run)
        folders.append(run.folder)
    for path in sorted(folders[0].iterdir()):
        ours, other = path.read_bytes(), (folders[1] / path.name).read_bytes()
        if path.suffix == ".json":
            ours, other = (
                {k: v for k, v in json.loads(content).items() if k not in TIME_FIELDS}
                for content in (ours, other)
            )
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


def test_parameters_that_cannot_be_recorded_are_refused_at_once(tmp_path):
    for value in (object(), float("nan")):
        with pytest.raises(ValueError, match="cannot be recorded"):
            Run("test", "02_attribution", {"x": value}, root=tmp_path)
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


# --- text formats ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "text"),
    [(0.1 + 0.2, "0.3"), (-0.0, "0"), (np.float32(0.1), "0.1"), (3, "3"), (None, ""),
     (float("nan"), ""), (True, "yes"), (np.bool_(False), "no"), (" a", " a"),
     (123456789, "123456789"), (1e-9, "1e-09")],
)  # fmt: skip
def test_format_number(cell, text):
    assert format_number(cell) == text


def test_csv_is_read_back_to_six_digits():
    from io import StringIO

    read = pd.read_csv(StringIO(to_csv(NUMBERS)))
    np.testing.assert_allclose(read["value"], NUMBERS["value"], rtol=1e-5)
    assert read["low"].isna().tolist() == [False, True]
    assert "\r" not in to_csv(NUMBERS)


def test_markdown_and_latex_escape_their_signs():
    markdown = to_markdown(TABLE)
    assert markdown.splitlines()[1] == "| --- | --- | ---: |"
    assert r" a\|b" in markdown
    latex = to_latex(TABLE, "Of 5 % & more", "A-table-1")
    assert r"50\% \& \_x" in latex
    assert r"\caption{Of 5 \% \& more}" in latex
    assert r"\begin{tabular}{llr}" in latex


@given(st.text())
def test_latex_never_keeps_a_bare_special_sign(text):
    escaped = latex_escape(text)
    assert not re.search(r"(?<!\\)[&%$#_]", escaped)


# --- claims ----------------------------------------------------------------------------


def claim(run: Run, id: str, **changes):
    options = {"claim": "It holds.", "paper_value": 1, "value": 0.5, "n": 10, "holds": True}
    return run.claim(id, "A-fig-1", **{**options, **changes})


def test_the_ledger_is_keyed_and_in_natural_order(run):
    for id in ("A-10", "A-2", "A-1", "A-2"):
        claim(run, id, ci=(0.25, 0.75))
    table = claims(run)
    assert list(table.columns) == CLAIM_COLUMNS
    assert table["id"].tolist() == ["A-1", "A-2", "A-10"]
    assert table["ci_low"].tolist() == [0.25] * 3
    claim(run, "A-2", value=None, n=None, holds=None)
    row = claims(run).set_index("id").loc["A-2"]
    assert row["holds"] == "not tested"
    assert np.isnan(row["value"])
    assert np.isnan(row["ci_low"])


def test_the_ledger_does_not_depend_on_the_order_of_writing(tmp_path):
    texts = []
    for order in (["A-1", "A-2", "A-3"], ["A-3", "A-1", "A-2"]):
        run = Run("test", "02_attribution", {}, root=tmp_path / order[0])
        for id in order:
            claim(run, id)
        texts.append((run.folder / "claims.csv").read_bytes())
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "changes",
    [{"holds": "yes"}, {"holds": 1}, {"ci": (0.7, 0.3)}, {"value": None}, {"value": float("nan")}],
)
def test_typed_or_impossible_claims_are_refused(run, changes):
    with pytest.raises(ValueError, match="claim A-1"):
        claim(run, "A-1", **changes)


def test_numpy_verdicts_count_and_the_id_names_the_paper(run):
    assert claim(run, "A-1", holds=np.bool_(True)) == "yes"
    assert claim(run, "A-1", holds=np.bool_(False)) == "no"
    with pytest.raises(ValueError, match="begin with its paper"):
        claim(run, "1")


def test_claims_from_many_notebooks_at_once_all_arrive(run):
    threads = [threading.Thread(target=claim, args=(run, f"A-{i}")) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims(run)) == 12


def test_forget_takes_a_notebooks_exhibits_and_claims_only(run, tmp_path):
    fill(run)
    other = Run("test", "03_selectivity", {}, root=tmp_path)
    other.save_figure("A-fig-5", draw(), NUMBERS, "Other.")
    other.claim("A-7", "A-fig-5", claim="c", paper_value="", value=1.0, holds=True)
    forget("test", "notebooks/02_attribution.ipynb", root=tmp_path)
    assert not list(run.folder.glob("A-fig-1*"))
    assert (run.folder / "A-fig-5.png").is_file()
    assert claims(run)["id"].tolist() == ["A-7"]
    forget("absent", "02_attribution", root=tmp_path)


# --- report ----------------------------------------------------------------------------


def test_the_report_is_one_page_that_needs_nothing_else(run):
    fill(run)
    html = build_report(run).read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 1
    outside = re.findall(r'(?:src|href)="(?!#|data:)([^"]+)"', html)
    assert all(link.endswith(".json") or link.startswith("https://arxiv.org/") for link in outside)
    assert "Other runs" not in html
    assert "<script" not in html
    assert "@import" not in html
    assert "<b>signs</b>" not in html
    assert "&lt;b&gt;signs&lt;/b&gt; &amp; 3 units." in html


def test_the_report_shows_missing_exhibits_verdicts_and_the_papers_numbers(run):
    fill(run)
    html = build_report(run).read_text(encoding="utf-8")
    missing = len(load_exhibits()) - 2
    assert html.count("Not produced in this run.") == missing
    assert 'class="verdict no"' in html
    assert "[0.2, 0.3]" in html
    assert "0.3627" in html
    assert "L14.u2019" in html or ">2019<" in html  # golden numbers of A-fig-1
    ids = re.findall(r'<article class="exhibit" id="([^"]+)"', html)
    assert ids == list(load_exhibits())


def test_a_report_links_to_the_reports_beside_it(run, tmp_path):
    for name in ("with-report", "without-report", "to-come"):
        (tmp_path / name).mkdir()
    build_report("with-report", root=tmp_path)
    fill(run)
    html = build_report(run, together=["test", "to-come"]).read_text(encoding="utf-8")
    links = re.findall(r'href="\.\./([^"]+)/report\.html"', html)
    assert links == ["to-come", "with-report"]


def test_a_report_shows_what_its_preset_makes_and_what_is_there(tmp_path):
    (tmp_path / "miniature").mkdir()
    build_report("miniature", root=tmp_path)
    preset = load_preset("miniature")
    mine = [e.id for e in load_exhibits().values() if preset.runs(e.notebook)]
    html = build_report("miniature", root=tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'<article class="exhibit" id="([^"]+)"', html) == mine
    others = [e for e in load_exhibits().values() if not preset.runs(e.notebook)]
    for entry in others[:1]:
        table = Run("miniature", entry.notebook, {}, root=tmp_path)
        save = table.save_table if entry.kind == "table" else table.save_figure
        save(entry.id, *([TABLE] if entry.kind == "table" else [draw(), NUMBERS]), "Made by hand.")
        html = build_report("miniature", root=tmp_path).read_text(encoding="utf-8")
        assert f'<article class="exhibit" id="{entry.id}">' in html


def test_a_run_without_anything_still_has_a_report(tmp_path):
    (tmp_path / "empty").mkdir()
    html = build_report("empty", root=tmp_path).read_text(encoding="utf-8")
    assert "No claim was tested" in html
    with pytest.raises(ValueError, match="no run in"):
        build_report("absent", root=tmp_path)


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MMN_FIGURES", str(tmp_path))
    assert exhibits.main(["report", "absent"]) == 2
    assert "no run in" in capsys.readouterr().err
    (tmp_path / "r").mkdir()
    (tmp_path / "s").mkdir()
    assert exhibits.main(["report", "r", "s"]) == 0
    for name, other in ("rs", "sr"):
        assert f'"../{other}/report.html"' in (tmp_path / name / "report.html").read_text()


# --- README and what is committed ------------------------------------------------------


def test_update_readme_rewrites_between_the_marks_only():
    text = f"# Title\n\n{README_BEGIN}\nold\n{README_END}\n\nend\n"
    new = update_readme(text)
    assert new.startswith("# Title\n")
    assert new.endswith("\n\nend\n")
    assert "old" not in new
    assert "A-table-S3" in new
    assert update_readme(new) == new
    with pytest.raises(ValueError, match="two lines"):
        update_readme("# no marks")


def test_the_readmes_table_is_current():
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("there is no README.md yet")
    text = readme.read_text(encoding="utf-8")
    assert update_readme(text) == text, "run 'make readme'"


each_shipped_run = pytest.mark.parametrize("name", exhibits.SHIPPED)


@each_shipped_run
def test_a_committed_run_has_every_exhibit_and_a_current_report(name, monkeypatch):
    monkeypatch.delenv("MMN_FIGURES")
    folder = exhibits.figures_root() / name
    if not (folder / "report.html").is_file():
        pytest.skip(f"figures/{name} is not there; make it with 'make figures'")
    for exhibit in load_exhibits().values():
        if not load_preset(name).runs(exhibit.notebook):
            continue
        for suffix in (*exhibits.FILES[exhibit.kind], ".numbers.csv", ".json"):
            assert (folder / f"{exhibit.id}{suffix}").is_file(), exhibit.id + suffix
    from mmn_utils.report import render

    html = (folder / "report.html").read_text(encoding="utf-8")
    beside = re.findall(r'href="\.\./([^"]+)/report\.html"', html)
    assert render(folder, beside) == html
    assert all((folder.parent / other / "report.html").is_file() for other in beside)


@each_shipped_run
def test_nothing_in_a_committed_run_is_an_orphan(name, monkeypatch):
    monkeypatch.delenv("MMN_FIGURES")
    folder = exhibits.figures_root() / name
    if not folder.is_dir():
        pytest.skip(f"figures/{name} is not there; make it with 'make figures'")
    known = {id + suffix for id, exhibit in load_exhibits().items()
             for suffix in (*exhibits.FILES[exhibit.kind], ".numbers.csv", ".json")}  # fmt: skip
    known |= {"claims.csv", "report.html"}
    assert {path.name for path in folder.iterdir()} <= known


# --- numbers of the papers -------------------------------------------------------------


def test_golden_table_s1_has_the_papers_rows_and_units():
    table = golden("A-table-S1")
    assert len(table) == 140
    assert table["neuron"].nunique() == 108
    assert table.groupby("image").size().tolist() == [20] * 7
    tokens = [f"token_{i}" for i in range(1, 6)]
    assert (table.groupby("neuron")[tokens].nunique() == 1).all().all()
    first = table.iloc[0]
    assert (first["neuron"], first["patch"], first["score"]) == ("L7.u15772", 119, 0.0214)
    assert first["token_1"] == " animals"


def test_golden_tables_hold_the_papers_means():
    one = golden("A-table-1").set_index("condition")
    assert one.loc["multimodal neurons"].tolist() == [0.3848, 23.43]
    two = golden("A-table-2").set_index("measure")
    assert two.loc["CLIPScore"].tolist() == [19.22, 19.17, 23.62, 27.89]
    assert len(golden("A-table-S2")) == 36
    assert golden("A-table-S3").groupby("image", sort=False).size().max() <= 18


def test_golden_fractions_are_shares_of_all_units():
    table = pd.read_csv(data_path("golden", "ablation_fractions.csv"))
    assert table["ablated"].tolist() == [0, 50, 100, 200, 400, 800, 1600, 3200, 6400]
    np.testing.assert_allclose(table["fraction"], table["ablated"] / (28 * 16384), atol=1e-6)


def test_golden_files_belong_to_exhibits():
    files = {path.stem for path in data_path("golden").glob("*.csv")} - {"ablation_fractions"}
    assert files <= set(load_exhibits())


def test_exhibits_name_notebooks_by_their_number():
    for exhibit in load_exhibits().values():
        assert re.fullmatch(r"\d\d_[a-z_]+", exhibit.notebook)
    assert (NOTEBOOKS / "exhibits.yaml").is_file()


def test_folder_of_figures_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("MMN_FIGURES", str(tmp_path / "elsewhere"))
    assert Run("x", "02_attribution", {}).folder == Path(tmp_path / "elsewhere" / "x")
