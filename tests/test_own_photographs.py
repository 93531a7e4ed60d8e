"""Notebooks on ten photographs of which nothing is known, with a model of one's own."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from mmn_utils.exhibits.entries import exhibits_of, load_exhibits
from mmn_utils.exhibits.ledger import claims
from mmn_utils.exhibits.texts import load_texts
from mmn_utils.exhibits.verify import verify
from mmn_utils.presets import ROOT, Preset, data_path, load_preset, notebook_path, resolve
from mmn_utils.running import run
from tests.models.auto.families import llava
from tests.photographs import some_photographs

BLOCK = re.compile(r"## Your own model and photographs\n.*?```python\n(.*?)```", re.DOTALL)
CLIP = (
    "no CLIP is given that knows the photographs of 'folder' (the miniature's own knows the "
    "miniature's scenes alone); name one by the parameter clip"
)
CAPTIONS, MASKS = "no photograph has a caption", "no photograph has the mask of an object"
LEFT_OUT = {
    "01_projection_decoding": {"A-fig-3": CLIP, "A-table-S2": CAPTIONS, "A-table-2": CAPTIONS},
    "02_attribution": {"A-table-1": CAPTIONS},
    "03_selectivity": {
        "A-fig-4": f"{CAPTIONS}, no photograph has an annotated object, "
        "the photographs do not lie in folders of their class",
        "A-fig-5": MASKS,
        "A-fig-S1": MASKS,
        "A-fig-S2": "the photographs do not lie in folders of their class",
    },
}
# Why, which exhibits, and which that come around them are there all the same.
TOO_FEW = {
    "05_llava_contribution_scoring": (
        "no noun is in 2 of the 2 photographs' captions; take more photographs of the same things",
        ("B-fig-4",),
        (),
    ),
    "06_editing": (
        "edits were found on each of the 2 photographs, which leaves none to try them on; "
        "take more photographs, or fewer concepts",
        ("C-edit-evaluation", "C-edit-sweep"),
        ("receipt", "B-table-6", "C-edit-uses"),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return some_photographs(tmp_path_factory.mktemp("own") / "photographs")


def small() -> Preset:
    """The preset for photographs of one's own, at the sizes of ``ci``."""
    own, tiny = load_preset("photographs"), load_preset("ci")
    settings = {"max_new_tokens": 8, "n_images": 12, **own.settings}
    notebooks = {
        name: {**tiny.notebooks.get(name, {}), **own.notebooks.get(name, {})}
        for name in {*tiny.notebooks, *own.notebooks}
    }
    del notebooks["05_llava_contribution_scoring"]["n_images"]  # all ten, or few share a noun
    notebooks["01_projection_decoding"]["n_random"] = 20
    # few neurons of a random model pull more
    notebooks["06_editing"] |= {"algorithm": {"beta": 0.01}, "concepts": {"n": 2}}
    return Preset(own.name, settings, notebooks)


def left_out(figures: Path, notebook: str) -> dict[str, str]:
    """Return the reasons of a notebook's left-out exhibits; all others must be there."""
    found = {}
    for exhibit in exhibits_of(notebook):
        record = json.loads((figures / f"{exhibit.id}.json").read_text(encoding="utf-8"))
        shown = figures / f"{exhibit.id}{'.png' if exhibit.kind == 'figure' else '.md'}"
        assert shown.is_file() != bool(record.get("left_out"))
        if record.get("left_out"):
            found[exhibit.id] = record["left_out"]
    return found


def test_these_notebooks_have_all_exhibits_that_need_more_than_pictures():
    needy = {exhibit.id for exhibit in load_exhibits().values() if exhibit.needs}
    assert needy == {id for reasons in LEFT_OUT.values() for id in reasons}


@pytest.mark.slow
@pytest.mark.usefixtures("warm_kernels")
def test_five_lines_of_the_readme_on_a_llava_that_was_saved(folder, tmp_path, monkeypatch):
    model, processor, _ = llava()
    model.save_pretrained(tmp_path / "llava")
    processor.save_pretrained(tmp_path / "llava")
    lines = BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))[1]
    assert len(lines.splitlines()) == 5
    for placeholder, path in (("MODEL", tmp_path / "llava"), ("FOLDER", folder)):
        assert lines.count(f'"{placeholder}"') == 1
        lines = lines.replace(placeholder, str(path))
    at_tiny_size = functools.partial(run.execute, output_root=tmp_path / "build")
    monkeypatch.setattr(run, "execute", lambda name, _, given: at_tiny_size(name, small(), given))
    exec(lines, {})
    figures = tmp_path / "figures" / "mine"
    html = (figures / "report.html").read_text(encoding="utf-8")
    for name in ("05_llava_contribution_scoring", "06_editing"):
        assert left_out(figures, name) == {}
        assert all(f'id="{exhibit.id}"' in html for exhibit in exhibits_of(name))


@pytest.fixture
def shell(monkeypatch):
    """A notebook's shell in this process: a kernel would import everything anew."""
    monkeypatch.setenv("MMN_HEADLESS", "1")
    found = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    yield found
    InteractiveShell.clear_instance()


def run_cells(shell, name: str, given: dict, ids: tuple[str, ...] = ()) -> None:
    """Run a notebook's cells with what the preset leaves open.

    With ``ids``, of the cells behind the one that says which concepts there are, those that name
    one of them.
    """
    parameters = resolve(name, small(), given)
    injected = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    cells = nbformat.read(notebook_path(name), 4).cells
    first, *sources = [cell.source for cell in cells if cell.cell_type == "code"]
    if ids:
        begun = next(i for i, source in enumerate(sources) if 'say("concepts"' in source) + 1
        named = [one for one in sources[begun:] if any(f'"{id}"' in one for id in ids)]
        sources = sources[:begun] + named
    for source in (first, f"# Parameters\n{injected}", *sources):
        shell.run_cell(source, store_history=True).raise_error()


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("name", LEFT_OUT)
def test_notebooks_of_paper_a_leave_out_what_needs_more(name, folder, shell, tmp_path):
    run_cells(shell, name, {"data_root": str(folder), "run": "mine", "n_images": 5})
    assert left_out(tmp_path / "figures" / "mine", name) == LEFT_OUT[name]
    entered = claims("mine").set_index("id")
    assert set(entered.index) == {i for text in load_texts(name).values() for i in text.claims}
    for exhibit, reason in LEFT_OUT[name].items():
        rows = entered[entered["exhibit"] == exhibit]
        assert set(rows["holds"]) == {"not tested"}
        assert set(rows["test"]) == {f"left out: {reason}"}


@pytest.fixture
def captioned(folder, tmp_path) -> Path:
    """Five of the photographs, with a caption each."""
    place = tmp_path / "captioned"
    place.mkdir()
    said = ("a dog on a sofa", "two boats", "a man with a kite", "a red car", "birds on a tree")
    for path, caption in zip(sorted(folder.iterdir()), said, strict=False):
        shutil.copy(path, place)
        (place / path.name).with_suffix(".txt").write_text(caption)
    return place


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("clip", ["none", ""])
@pytest.mark.parametrize(
    ("name", "table", "untested"),
    [
        (
            "01_projection_decoding",
            "A-table-2",
            {"A-table-2-clipscore-prompts", "A-table-2-clipscore-captions"},
        ),
        ("02_attribution", "A-table-1", {"A-table-1-clipscore", "A-table-1-captions"}),
    ],
)
def test_captioned_photographs_without_a_clip_are_judged_by_bertscore_alone(
    name, table, untested, clip, captioned, shell, tmp_path
):
    run_cells(shell, name, {"data_root": str(captioned), "run": "mine", "clip": clip})
    reason = "clip = 'none' asks for no CLIPScore" if clip else CLIP
    figures = tmp_path / "figures" / "mine"
    assert left_out(figures, name) == {
        exhibit.id: reason for exhibit in exhibits_of(name) if exhibit.id == "A-fig-3"
    }
    assert [path.suffix for path in figures.glob("A-fig-3*")] in ([], [".json"])
    for suffix in (".csv", ".md"):
        shown = (figures / f"{table}{suffix}").read_text(encoding="utf-8")
        assert "BERTScore" in shown
        assert "CLIPScore" not in shown
    assert "clipscore" not in (figures / f"{table}.numbers.csv").read_text(encoding="utf-8")
    record = json.loads((figures / f"{table}.json").read_text(encoding="utf-8"))
    assert f"CLIPScore is left out: {reason}." in record["caption"]
    entered = claims("mine").set_index("id")
    of_clip = entered[entered["test"] == f"not tested: {reason}"]
    assert set(of_clip.index) == untested
    assert set(of_clip["holds"]) == {"not tested"}
    tested = entered[entered["exhibit"] == table].drop(index=of_clip.index)
    assert len(tested)
    assert tested["n"].notna().all()
    assert verify("mine", tmp_path / "figures") == (len(entered), [])


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("name", TOO_FEW)
def test_notebooks_of_paper_b_leave_out_what_two_photographs_are_too_few_for(name, shell, tmp_path):
    for one in ("dog", "boat"):
        picture = data_path("miniature", "classes", "val", one, "0000.jpg")
        shutil.copy(picture, tmp_path / f"{one}.jpg")
    given = {"model": "miniature/llava", "data_root": str(tmp_path), "run": "mine"}
    reason, few, around = TOO_FEW[name]
    run_cells(shell, name, given, (*few, *around))
    for id in few:
        record = json.loads((tmp_path / "figures" / "mine" / f"{id}.json").read_text())
        assert record["left_out"] == reason
    entered = claims("mine")
    assert set(entered.loc[entered["exhibit"].isin(few), "holds"]) <= {"not tested"}
    assert set(entered["exhibit"]) >= {id for id in around if id in load_exhibits()}
