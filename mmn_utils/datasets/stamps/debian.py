"""Files out of a Debian package, without Debian's tools and without unpacking it to disk.

A ``.deb`` is an ``ar`` archive: eight bytes of magic, then members, each a header of 60 bytes and
its content, padded to an even length. One of them, ``data.tar.*``, holds the package's files.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

MAGIC, END = b"!<arch>\n", b"`\n"
HEADER = 60
NAME, SIZE = slice(0, 16), slice(48, 58)
DATA = "data.tar"
COMPRESSIONS = ("", ".gz", ".bz2", ".xz")


class Part(io.RawIOBase):
    """A stretch of an open file, readable and nothing beyond it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        content = self._file.read(min(len(buffer), self._left))
        buffer[: len(content)] = content
        self._left -= len(content)
        return len(content)


def members(file: BinaryIO, path: Path) -> Iterator[tuple[str, int]]:
    """Yield name and size of each member of an ``ar`` archive, the file placed at its content.

    ValueError, naming ``path``, for anything else.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError(f"{path} is no Debian package: it does not begin with {MAGIC!r}")
    while header := file.read(HEADER):
        if len(header) < HEADER or header[-len(END) :] != END or not header[SIZE].strip().isdigit():
            raise ValueError(f"{path} is damaged: a member's header is {header!r}; fetch it again")
        size, start = int(header[SIZE]), file.tell()
        yield header[NAME].decode("ascii", "replace").strip().rstrip("/"), size
        file.seek(start + size + size % 2, os.SEEK_SET)


def files_in(path: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """Return the contents of files of a package by their names, "usr/share/...".

    Names that it does not have are left out. ValueError for a file that is no package, and for one
    compressed in a way that Python does not read.
    """
    with path.open("rb") as file:
        for name, size in members(file, path):
            if not name.startswith(DATA):
                continue
            if name.removeprefix(DATA) not in COMPRESSIONS:
                raise ValueError(
                    f"{path} holds {name}, which Python does not read: unpack it with "
                    f"`dpkg-deb -x {path.name} FOLDER` and give FOLDER"
                )
            return _from_tar(Part(file, size), path, set(wanted))
    raise ValueError(f"{path} has no {DATA}: it is no Debian package, or damaged; fetch it again")


def _from_tar(part: Part, path: Path, wanted: set[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BufferedReader(part), mode="r|*") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name in wanted and member.isfile():
                    found[name] = archive.extractfile(member).read()
                if len(found) == len(wanted):
                    break
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from None
    return found
