"""One environment for kernels, however they are started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import pytest

from mmn_utils.presets import ROOT
from mmn_utils.running.environment import (
    ENVIRONMENT,
    socket_folder,
    with_defaults,
    write_kernel,
)
from mmn_utils.running.run import execute
from tests.notebook_tools import COMMON, write_notebook

SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


def run(*arguments: str, **given: str) -> subprocess.CompletedProcess:
    free = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    command = [sys.executable, "-m", "mmn_utils.running.environment", *arguments]
    return subprocess.run(
        command, env={**free, **given}, cwd=ROOT, capture_output=True, text=True, check=True
    )


def test_a_command_has_it_but_keeps_what_it_was_given():
    seen = json.loads(run(sys.executable, "-c", SHOW, OMP_WAIT_POLICY="ACTIVE").stdout)
    expected = {**ENVIRONMENT, "OMP_WAIT_POLICY": "ACTIVE"}
    assert {name: seen[name] for name in ENVIRONMENT} == expected
    assert with_defaults({}) == ENVIRONMENT


def test_jupyterlabs_kernel_has_it_in_its_spec(tmp_path):
    with pytest.raises(FileNotFoundError, match="install ipykernel"):
        write_kernel(tmp_path)
    path = tmp_path / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"argv": ["python"], "language": "python"}))
    assert write_kernel(tmp_path) == path
    expected = {"argv": ["python"], "language": "python", "env": ENVIRONMENT}
    assert json.loads(path.read_text()) == expected


@pytest.mark.slow
def test_papermills_kernel_has_it(tmp_path, monkeypatch, capsys):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    preset = tmp_path / "small.yaml"
    preset.write_text("name: small\n")
    notebook = write_notebook(tmp_path, "tiny", "", SHOW, common=COMMON)
    execute(notebook, preset, output_root=tmp_path / "build")
    shown = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    seen = json.loads(shown)
    assert {name: seen[name] for name in ENVIRONMENT} == ENVIRONMENT
    assert "OMP_WAIT_POLICY" not in os.environ


def test_sockets_lie_in_tmp_where_the_usual_folder_has_too_long_a_path(tmp_path, monkeypatch):
    with socket_folder() as folder:
        assert folder.parent == type(folder)(tempfile.gettempdir())
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with socket_folder() as folder:
        assert str(folder.parent) == "/tmp"
    assert not folder.exists()
