"""Where cut-outs come from: folders, packages, and what is fetched."""

from __future__ import annotations

import io
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from urllib.error import URLError

import pytest

from mmn_utils.datasets.stamps import package
from mmn_utils.datasets.stamps.debian import files_in
from tests.datasets.stamps.conftest import ar, tar

FILES = {"usr/a.png": b"first", "usr/b.png": b"second, longer", "usr/c.ogg": b"sound"}


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_files_are_read_out_of_a_package(tmp_path, compression):
    deb = tmp_path / "a.deb"
    name = f"data.tar.{compression}".rstrip(".")
    # a slash ends names in other writers' archives; what follows is not read
    deb.write_bytes(ar({"debian-binary/": b"2.0", f"{name}/": tar(FILES, compression), "_x": b"y"}))
    found = files_in(deb, ["usr/a.png", "usr/b.png", "usr/absent.png"])
    assert found == {name: FILES[name] for name in ("usr/a.png", "usr/b.png")}


def test_a_package_of_dpkg_is_read_as_dpkg_reads_it(tmp_path):
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is absent; it comes with Debian's dpkg")
    for name, content in FILES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    control = tmp_path / "tree" / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text(
        "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: a\n"
    )
    deb = tmp_path / "a.deb"
    command = ["dpkg-deb", "-Zxz", "-b", str(tmp_path / "tree"), str(deb)]
    subprocess.run(command, check=True, capture_output=True)
    assert files_in(deb, list(FILES)) == FILES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 no package", "is no Debian package"),
        (b"!<arch>\n" + b"x" * 60, "is damaged: a member's header"),
        (b"!<arch>\nshort", "is damaged: a member's header"),
        (ar({"debian-binary": b"2.0\n"}), r"has no data\.tar"),
        (ar({"data.tar.zst": b"("}), r"data\.tar\.zst, which Python does not read.*dpkg-deb -x"),
        (ar({"data.tar.xz": tar(FILES)[:80]}), "is damaged"),
        (ar({"data.tar.xz": b"nothing that is compressed"}), "is damaged"),
    ],
)
def test_what_is_no_package_is_refused(tmp_path, content, message):
    deb = tmp_path / "a.deb"
    deb.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        files_in(deb, ["usr/absent.png"])


def test_a_folder_and_a_package_give_the_same_files(fake, monkeypatch):
    names = [entry.file for entry in fake.entries()]
    with pytest.raises(ValueError, match=r"stamps\.deb has the SHA256 .* fetch http"):
        package.read_files(fake.deb, names)
    monkeypatch.setattr(package, "SHA256", sha256(fake.deb.read_bytes()).hexdigest())
    assert package.read_files(fake.deb, names) == package.read_files(fake.folder, names)
    for source in (fake.deb, fake.folder):
        with pytest.raises(FileNotFoundError, match=r"2 of 8 stamps .* the first is x\.png"):
            package.read_files(source, [*names, "x.png", "y.png"])


def test_a_source_is_what_is_given_else_installed_else_fetched(fake, tmp_path, monkeypatch):
    downloads = tmp_path / "downloads"
    fetched = []
    monkeypatch.setattr(package, "fetch", fetched.append)
    monkeypatch.setattr(package, "INSTALLED", tmp_path / "not-installed")
    assert package.find_source(fake.deb, downloads) == fake.deb
    assert package.find_source(fake.folder, downloads) == fake.folder
    assert package.find_source(tmp_path / "package", downloads) == fake.folder
    with pytest.raises(FileNotFoundError, match=r"nothing at .*absent: give the folder"):
        package.find_source(tmp_path / "absent", downloads)
    assert fetched == []
    assert package.find_source(None, downloads) == downloads / package.DEB
    assert fetched == [downloads / package.DEB]
    monkeypatch.setattr(package, "INSTALLED", fake.folder)
    assert package.find_source(None, downloads) == fake.folder
    assert len(fetched) == 1


@pytest.fixture
def without_apt(monkeypatch):
    monkeypatch.setattr(package.shutil, "which", lambda name: None)


def test_what_is_fetched_is_checked_and_kept_once(tmp_path, monkeypatch, without_apt):
    asked = []

    def answer(address, timeout):
        asked.append(address)
        return io.BytesIO(b"a package")

    monkeypatch.setattr(package.urllib.request, "urlopen", answer)
    monkeypatch.setattr(package, "INSTALLED", tmp_path / "not-installed")
    with pytest.raises(ValueError, match="another version or damaged"):
        package.find_source(None, tmp_path / "downloads")
    assert list((tmp_path / "downloads").iterdir()) == []
    monkeypatch.setattr(package, "SHA256", sha256(b"a package").hexdigest())
    for _ in range(2):
        assert package.find_source(None, tmp_path / "downloads").read_bytes() == b"a package"
    assert asked == [package.ADDRESS] * 2


def test_without_a_network_the_remedy_is_said(tmp_path, monkeypatch, without_apt):
    def fail(address, timeout):
        raise URLError("no route")

    monkeypatch.setattr(package.urllib.request, "urlopen", fail)
    with pytest.raises(FileNotFoundError, match=r"cannot be fetched .*python -m mmn_utils"):
        package.fetch(tmp_path / "downloads" / package.DEB)
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize("fails", [False, True])
def test_apt_is_asked_first(tmp_path, monkeypatch, fails):
    def run(command, cwd, **options):
        assert command[:2] == ["apt-get", "download"]
        if fails:
            raise subprocess.CalledProcessError(100, command)
        Path(cwd, "a.deb").write_bytes(b"of apt")

    monkeypatch.setattr(package.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(package.subprocess, "run", run)
    monkeypatch.setattr(
        package.urllib.request, "urlopen", lambda address, timeout: io.BytesIO(b"of http")
    )
    wanted = b"of http" if fails else b"of apt"
    monkeypatch.setattr(package, "SHA256", sha256(wanted).hexdigest())
    package.fetch(tmp_path / "downloads" / package.DEB)
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == [package.DEB]
    assert (tmp_path / "downloads" / package.DEB).read_bytes() == wanted
