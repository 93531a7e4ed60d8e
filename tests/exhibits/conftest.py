"""What the tests of this room share: a run of a tiny model, empty and with two exhibits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmn_utils.exhibits import judging
from mmn_utils.exhibits.entries import LIST
from mmn_utils.exhibits.saving import Run
from tests.exhibits.samples import fill, open_run


@pytest.fixture
def few_redraws(monkeypatch) -> None:
    """Where rows are clear, few redraws of them say what many say."""
    monkeypatch.setattr(judging, "REDRAWS", 40)


@pytest.fixture(scope="session")
def untold(tmp_path_factory) -> Path:
    """A list of the exhibits that there are, without texts and hence without claims."""
    path = tmp_path_factory.mktemp("list") / LIST.name
    path.write_bytes(LIST.read_bytes())
    return path


@pytest.fixture
def run(tmp_path, untold) -> Run:
    return open_run(tmp_path, untold)


@pytest.fixture(scope="session")
def sample(tmp_path_factory, untold) -> Path:
    """The files of a filled run; drawing its figure takes half a second."""
    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMN_BUILD", str(folder / "build"))
        run = open_run(folder, untold)
        fill(run)
    return run.folder


@pytest.fixture
def filled(run, sample) -> Run:
    shutil.copytree(sample, run.folder)
    return run
