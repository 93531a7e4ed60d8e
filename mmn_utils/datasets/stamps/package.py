"""Where the cut-outs come from: an installed package, a folder, or a .deb, which may be fetched."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path

from mmn_utils.cache import atomic
from mmn_utils.datasets.stamps.credits import PACKAGE, VERSION
from mmn_utils.datasets.stamps.debian import files_in

INSIDE = "usr/share/tuxpaint/stamps"
INSTALLED = Path("/", INSIDE)
DEB = f"{PACKAGE}_{VERSION}_all.deb"
SHA256 = "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
ADDRESS = f"http://deb.debian.org/debian/pool/main/t/tuxpaint-stamps/{DEB}"
MINUTES = 15  # that a fetch may take


def find_source(given: str | Path | None, downloads: Path) -> Path:
    """Return the folder of stamps or the .deb to take them from.

    What is ``given``, else the installed package's, else a .deb that is fetched to ``downloads``
    and stays there. FileNotFoundError where nothing is to be had, with what would mend it.
    """
    if given is not None:
        return _given(Path(given).expanduser())
    if INSTALLED.is_dir():
        return INSTALLED
    deb = downloads / DEB
    if not deb.is_file():
        fetch(deb)
    return deb


def _given(path: Path) -> Path:
    if path.is_dir():
        inside = path / INSIDE
        return inside if inside.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"nothing at {path}: give the folder of the stamps or the package {DEB}, or nothing, "
            "and it is fetched"
        )
    return path


def fetch(deb: Path) -> None:
    """Fetch the package: by apt-get where that has this version, else from Debian's mirror.

    It appears under its name when it is complete and its checksum is right.
    """
    with atomic(deb) as fresh:
        if not _by_apt(fresh):
            _by_http(fresh)
        check(fresh)


def _by_apt(target: Path) -> bool:
    if shutil.which("apt-get") is None:
        return False
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = ["apt-get", "download", f"{PACKAGE}={VERSION}"]
        try:
            subprocess.run(
                command, cwd=folder, check=True, capture_output=True, timeout=60 * MINUTES
            )
        except (subprocess.SubprocessError, OSError):
            return False  # another release of Debian, or no lists: the mirror has it still
        found = sorted(Path(folder).glob("*.deb"))
        if found:
            found[0].replace(target)
        return bool(found)


def _by_http(target: Path) -> None:
    try:
        with urllib.request.urlopen(ADDRESS, timeout=60) as answer, target.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise FileNotFoundError(
            f"{ADDRESS} cannot be fetched ({error}): fetch {DEB} on another machine, or install "
            f"{PACKAGE}, and give the file: python -m mmn_utils.datasets.stamps {DEB}"
        ) from None


def check(deb: Path) -> None:
    """Raise ValueError unless a .deb is the very one that the list of stamps was made of."""
    with deb.open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{deb} has the SHA256 {found}, {PACKAGE} {VERSION} has {SHA256}: it is another "
            f"version or damaged; fetch {ADDRESS}"
        )


def read_files(source: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the contents of files of the package by their path below its folder of stamps.

    A .deb is checked first. FileNotFoundError names a file that is not there.
    """
    if source.is_dir():
        paths = {name: source / name for name in names}
        found = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    else:
        check(source)
        inside = files_in(source, [f"{INSIDE}/{name}" for name in names])
        found = {name.removeprefix(f"{INSIDE}/"): content for name, content in inside.items()}
    absent = [name for name in names if name not in found]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of {len(names)} stamps are not in {source}, the first is {absent[0]}: "
            f"give the folder of the stamps of {PACKAGE} {VERSION}, or its .deb"
        )
    return found
