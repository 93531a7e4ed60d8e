"""Running a notebook: refused early, recorded, executed where it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from mmn_utils.exhibits.entries import figures_root
from mmn_utils.presets import ROOT, Preset, read_parameters
from mmn_utils.running.__main__ import main, read_overrides
from mmn_utils.running.run import check, execute
from tests.notebook_tools import COMMON, write_notebook

EXTRA = """\
quantile = 0.95  # of each map
target = "logit"  # or probability
ks = [0, 50, 100]  # ablated units
offset = -3  # a negative number
hash_inside = "a # b"  # a text with a hash
quotes = 'it\\'s "so"'  # a text with quotes
sizes = {"small": 1}  # named sizes
normalise = False  # apply the final norm
"""
SHOW = """\
import json, os, sys
from pathlib import Path
print(json.dumps(dict(cwd=os.getcwd(), python=sys.executable, seed=seed, ks=ks, quantile=quantile,
    target=target, quotes=quotes, hash_inside=hash_inside, sizes=sizes, normalise=normalise,
    run=run, figures=os.environ["MMN_FIGURES"])))
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "notebooks", "tiny", EXTRA, SHOW)


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text("name: small\nsettings:\n  seed: 5\nnotebooks:\n  tiny:\n    ks: [7]\n")
    return path


@pytest.fixture
def no_kernel(monkeypatch):
    def start(*args, **kwargs):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(papermill, "execute_notebook", start)


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("sed", "1"), "did you mean 'seed'"),
        (("Quantile", "1"), "did you mean 'quantile'"),
        (("n_images", "many"), "n_images = 'many'"),
        (("n_images", "2.5"), "must be of type int"),
        (("quantile", "high"), "not a finite number"),
        (("ks", "50"), "must be of type list"),
        (("ks", "[a]"), "ks[0]"),
        (("normalise", "0"), "must be of type bool"),
        (("sizes", "{big: 1}"), "a key of sizes"),
        (("run", "../up"), "cannot name a folder"),
        (("preset", "other"), "choose the preset"),
    ],
)
def test_bad_parameters_are_refused_before_a_kernel_starts(
    notebook, preset, tmp_path, capsys, pair, message
):
    arguments = [str(notebook), "--preset", str(preset), "--output-root", str(tmp_path / "build")]
    assert main([*arguments, "-p", *pair]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "build").exists()


@pytest.mark.usefixtures("no_kernel")
def test_unknown_notebooks_and_presets_are_refused(notebook, preset, capsys):
    assert main(["99_nothing", "--preset", str(preset)]) == 2
    assert main([str(notebook), "--preset", "nothing"]) == 2
    errors = capsys.readouterr().err
    assert "no notebook '99_nothing'" in errors
    assert "no preset 'nothing'" in errors


def test_every_parameter_is_visible_to_papermill(notebook):
    assert set(papermill.inspect_notebook(str(notebook))) == set(read_parameters(notebook))


def test_a_parameter_that_papermill_does_not_see_is_refused(tmp_path, monkeypatch):
    path = write_notebook(tmp_path, "tiny", EXTRA)
    monkeypatch.setattr(papermill, "inspect_notebook", lambda _: {"preset": {}})
    with pytest.raises(ValueError, match="papermill does not see run, model"):
        check(path, Preset("small"))


def test_overrides_are_read_in_the_parameters_types(notebook):
    pairs = [("seed", "3"), ("quantile", "1"), ("target", "1"), ("ks", "[]"), ("unknown", "1")]
    assert read_overrides(notebook, pairs) == {
        "seed": 3, "quantile": 1.0, "target": "1", "ks": [], "unknown": "1",
    }  # fmt: skip


def test_a_run_records_and_passes_the_resolved_parameters(notebook, preset, tmp_path):
    output = execute(notebook, preset, {"quantile": 1}, output_root=tmp_path / "build",
                     figures=tmp_path / "figures")  # fmt: skip
    assert output == tmp_path / "build" / "small" / "notebooks" / "tiny.ipynb"
    record = json.loads((tmp_path / "build" / "small" / "parameters" / "tiny.json").read_text())
    assert record["notebook"] == "tiny"
    assert record["parameters"]["seed"] == 5
    assert record["parameters"]["ks"] == [7]
    assert record["parameters"]["quantile"] == 1.0
    cells = nbformat.read(output, as_version=4).cells
    seen = json.loads(cells[-1].outputs[0]["text"])
    for name in ("seed", "ks", "quantile", "target", "quotes", "hash_inside", "sizes", "run"):
        assert seen[name] == record["parameters"][name], name
    assert seen["cwd"] == str(ROOT)
    assert Path(seen["python"]).resolve() == Path(sys.executable).resolve()
    assert seen["figures"] == str(tmp_path / "figures")
    page = (tmp_path / "figures" / "small" / "notebooks" / "tiny.html").read_text()
    assert "Parameters of this run" in page
    source = nbformat.read(notebook, as_version=4)
    assert all(not cell.get("outputs") for cell in source.cells)


@pytest.mark.skipif(os.name != "posix", reason="needs sockets that are files")
def test_kernels_share_no_ports(tmp_path, preset):
    show = """\
from ipykernel.connect import get_connection_info
found = get_connection_info(unpack=True)
print(found["transport"], found["ip"])"""
    path = write_notebook(tmp_path / "notebooks", "tiny", "", show)
    preset.write_text("name: small\n")
    folders = set()
    for build in ("one", "two"):
        output = execute(path, preset, output_root=tmp_path / build)
        said = nbformat.read(output, as_version=4).cells[-1].outputs[0]["text"]
        transport, place = said.split()
        assert transport == "ipc"
        folders.add(Path(place).parent)
    assert len(folders) == 2
    assert not any(folder.exists() for folder in folders)


def test_a_failing_cell_leaves_the_copy_and_the_exit_status(tmp_path, preset, capsys):
    path = write_notebook(tmp_path, "broken", "", "print('before')", "1 / 0", "print('after')")
    preset.write_text("name: small\n")
    status = main([str(path), "--preset", str(preset), "--output-root", str(tmp_path / "build")])
    assert status == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    copy = nbformat.read(tmp_path / "build" / "small" / "notebooks" / "broken.ipynb", as_version=4)
    assert any("before" in str(cell.get("outputs")) for cell in copy.cells)
    assert not any("after\\n" in str(cell.get("outputs")) for cell in copy.cells)
    assert not list(figures_root().rglob("*.html")), "a page of what did not run to its end"


def test_of_a_bar_the_copy_holds_the_end(tmp_path, preset):
    show = """\
from mmn_utils.cache import bar
with bar("things", 9, True, unit="things") as progress:
    progress.mininterval = 0
    for _ in range(9):
        progress.update(1)
print("done")"""
    preset.write_text("name: small\n")
    path = write_notebook(tmp_path, "tiny", "", show)
    output = execute(path, preset, output_root=tmp_path / "build")
    (stream,) = nbformat.read(output, as_version=4).cells[-1].outputs
    first, second = stream["text"].splitlines()
    assert first.startswith("things: ")
    assert first.endswith(" 9 of 9 things")
    assert second == "done"


# --- the Snakefile, on a repository of its own -------------------------------------------

# Two of a run wait for each other to begin, so that they end only if they run side by side.
NOTEBOOK = """\
import os
import time
from pathlib import Path
import pandas as pd
import matplotlib.pyplot as plt
from mmn_utils.exhibits.saving import Run
Path(f"{run}-{NAME}").touch()
begun = time.monotonic()
while run == "small" and len(list(Path().glob("small-*"))) < 2:
    assert time.monotonic() - begun < 120, "the other notebook does not run beside this one"
    time.sleep(0.1)
print(n_images, "images, threads:", os.environ["OMP_NUM_THREADS"])
exhibits = Run(run, NAME, dict(seed=seed))
fig, ax = plt.subplots()
exhibits.save_figure(ID, fig, pd.DataFrame(dict(x=[n_images])), f"{n_images} images.")
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the real package and Snakefile, and two small notebooks."""
    root = tmp_path / "repository"
    ignore = shutil.ignore_patterns("__pycache__", "words", "miniature", "models")
    shutil.copytree(ROOT / "mmn_utils", root / "mmn_utils", ignore=ignore)
    shutil.copy(ROOT / "Snakefile", root)
    (root / "data" / "golden").mkdir(parents=True)
    entries = []
    for name, id in (("01_first", "A-fig-1"), ("02_second", "A-fig-2")):
        code = NOTEBOOK.replace("NAME", repr(name)).replace("ID", repr(id))
        write_notebook(root / "notebooks", name, "", code)
        entries.append({"id": id, "kind": "figure", "notebook": name, "paper": "A",
                        "title": f"Of {name}", "claim": "A claim."})  # fmt: skip
    (root / "notebooks" / "exhibits.yaml").write_text(json.dumps(entries))
    (root / "notebooks" / "presets").mkdir()
    set_preset(root, 4)
    return root


def set_preset(root: Path, n_images: int, comment: str = "") -> None:
    text = f"# {comment}\nname: small\nsettings:\n  model: miniature\n  n_images: {n_images}\n"
    (root / "notebooks" / "presets" / "small.yaml").write_text(text)


def snakemake(root: Path, *options: str, presets: str = "small") -> str:
    """Run the Snakefile; return what it printed."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *options]
    command += ["--config", f"preset={presets}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def planned(root: Path) -> list[str]:
    """Return the notebooks that the Snakefile would run, in no special order."""
    return sorted(re.findall(r"^Job \d+: notebook (\w+) ", snakemake(root, "--dry-run"), re.M))


def test_the_notebook_that_reads_ledgers_waits_for_those_that_write_them(repository):
    exhibits = repository / "notebooks" / "exhibits.yaml"
    entry = {**json.loads(exhibits.read_text())[0], "id": "A-fig-4", "notebook": "08_real_model"}
    exhibits.write_text(json.dumps([entry, *json.loads(exhibits.read_text())]))
    write_notebook(repository / "notebooks", "08_real_model", "", "")
    printed = snakemake(repository, "--dry-run")
    jobs = re.split(r"^Job \d+: notebook ", printed, flags=re.M)[1:]
    reasons = {job.split(" ")[0]: job.partition("Reason: ")[2].partition("\n")[0] for job in jobs}
    assert list(reasons)[-1] == "08_real_model"
    for other in ("01_first", "02_second"):
        assert f"{other}.json" in reasons["08_real_model"]
        assert "updated by another job" not in reasons[other]


@pytest.mark.slow
def test_snakemake_runs_side_by_side_and_only_what_changed(repository, monkeypatch):
    for name in ("MMN_FIGURES", "MMN_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(repository))
    other = repository / "notebooks" / "presets" / "other.yaml"
    # No miniature, so its notebook runs alone.
    other.write_text("name: other\nonly: [01_first]\nsettings:\n  model: large\n")
    printed = snakemake(repository, presets="small other")
    assert re.search(r"^small 01_first \| 4 images, threads: 1$", printed, re.M)
    assert re.search(r"^small 02_second \| cells: .*100%", printed, re.M)
    assert re.search(r"^other 01_first \| 3 images, threads: 2$", printed, re.M)
    ran = re.findall(r"^executed copy: build/(\w+/notebooks/\w+).ipynb", printed, re.M)
    assert sorted(ran) == [
        "other/notebooks/01_first", "small/notebooks/01_first", "small/notebooks/02_second",
    ]  # fmt: skip
    for run, beside in (("small", "other"), ("other", "small")):
        html = (repository / "figures" / run / "report.html").read_text()
        assert f'"../{beside}/report.html"' in html
    assert 'id="A-fig-2"' not in html, "the preset other does not make it"
    assert 'href="notebooks/01_first.html"' in html
    assert "Not produced" not in (repository / "figures" / "small" / "report.html").read_text()
    (repository / "figures" / "other" / "notebooks" / "01_first.html").unlink()
    again = snakemake(repository, "--dry-run", presets="small other")
    assert re.findall(r"^Job \d+: notebook (\w+) on (\w+)", again, re.M) == [("01_first", "other")]

    both = ["01_first", "02_second"]
    set_preset(repository, 4, comment="another comment")
    assert planned(repository) == []
    set_preset(repository, 5)
    assert planned(repository) == both
    set_preset(repository, 4)

    plots = repository / "mmn_utils" / "exhibits" / "plots.py"
    source = plots.read_text()
    plots.write_text(source + "\n# changed\n")
    assert planned(repository) == both
    plots.write_text(source)

    (repository / "figures" / "small" / "A-fig-1.json").unlink()
    assert planned(repository) == ["01_first"]
    second = repository / "notebooks" / "02_second.ipynb"
    second.write_text(second.read_text().replace("images.", "pictures."))
    assert planned(repository) == both


def test_the_snakefile_refuses_a_notebook_that_is_not_there(repository, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(repository))
    other = repository / "notebooks" / "presets" / "other.yaml"
    other.write_text("name: other\nonly: [01_frist]\n")
    with pytest.raises(AssertionError, match="did you mean '01_first'"):
        snakemake(repository, "--dry-run", presets="other")


def test_lines_begin_with_the_notebook(tmp_path, preset, capsys):
    path = write_notebook(tmp_path, "tiny", "", "print('one\\ntwo')", common=COMMON)
    preset.write_text("name: small\n")
    execute(path, preset, output_root=tmp_path / "build", lines=True)
    out, error = capsys.readouterr()
    assert out.splitlines() == ["small tiny | one", "small tiny | two"]
    assert all(line.startswith("small tiny | ") for line in error.splitlines())
    assert "100%" in error


def test_the_snakefile_stays_short():
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 165


def test_run_and_exhibits_agree_on_the_folder():
    assert figures_root().name == "figures"


def test_paths_are_from_where_one_stands_though_a_kernel_is_elsewhere(tmp_path, monkeypatch):
    name, folder = "05_llava_contribution_scoring", tmp_path / "photographs"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    given = {"data_root": "photographs", "model": "own"}
    (tmp_path / "own").mkdir()
    found = check(name, "photographs", given)
    assert (found["data_root"], found["model"]) == (str(folder), str(tmp_path / "own"))
    assert check(name, "photographs", {"model": "miniature"})["model"] == "miniature"
    monkeypatch.chdir(ROOT / "data")
    assert check(name, "photographs", {"model": "miniature"})["model"] == "miniature"
