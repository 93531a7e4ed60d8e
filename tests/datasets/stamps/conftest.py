"""A package of stamps made up for the tests: a few cut-outs with soft edges."""

from __future__ import annotations

import csv
import io
import tarfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmn_utils.datasets.stamps.catalogue import COLUMNS, Entry, Stamp, read_list, stamps_from
from mmn_utils.datasets.stamps.package import INSIDE, read_files

LISTED = (
    ("animals/horse-1.png", "horse", "animal", "train", "yes", "yes"),
    ("animals/horse-2.png", "horse", "animal", "val", "yes", "yes"),
    ("food/orange.png", "orange", "food", "train", "yes", "no"),
    ("food/broccoli.png", "broccoli", "food", "train", "no", "yes"),
    ("food/apple-1.png", "apple", "food", "train", "yes", "yes"),
    ("food/apple-2.png", "apple", "food", "val", "yes", "yes"),
)


@dataclass(frozen=True)
class Fake:
    """A folder of stamps, its list, and the same in a package."""

    folder: Path
    list: Path
    deb: Path

    def entries(self) -> tuple[Entry, ...]:
        return read_list(self.list)

    def stamps(self) -> tuple[Stamp, ...]:
        entries = self.entries()
        return stamps_from(entries, read_files(self.folder, [entry.file for entry in entries]))


def cut_out(number: int) -> bytes:
    """Draw a disc with a soft edge, of an own colour and size, off the middle of its file."""
    height, width = 60 + 8 * number, 90 - 6 * number
    y, x = np.mgrid[:height, :width]
    away = np.hypot((y - height / 2 - 2) / height, (x - width / 2 + 3) / width)
    alpha = np.clip((0.42 - away) * 1500, 0, 255)
    colour = np.full((height, width, 3), [40 * number, 200 - 30 * number, 90])
    pixels = np.dstack([colour, alpha]).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_list(path: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    return path


def ar(members: dict[str, bytes]) -> bytes:
    """Pack an ``ar`` archive, as a .deb is one."""
    packed = b"!<arch>\n"
    for name, content in members.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        packed += head.encode() + content + b"\n" * (len(content) % 2)
    return packed


def tar(files: dict[str, bytes], compression: str = "xz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{compression}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    files = {line[0]: cut_out(number) for number, line in enumerate(LISTED)}
    for name, content in files.items():
        path = tmp_path / "package" / INSIDE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.with_suffix(".txt").write_text("A thing.\nfr=Une chose.\n")
    rows = [(*line, sha256(files[line[0]]).hexdigest()) for line in LISTED]
    inside = {f"{INSIDE}/{name}": content for name, content in files.items()}
    deb = tmp_path / "stamps.deb"
    # odd lengths, so that the padding between members counts
    parts = {"debian-binary": b"2.0\n\n", "control.tar.xz": b"odd", "data.tar.xz": tar(inside)}
    deb.write_bytes(ar(parts))
    listed = write_list(tmp_path / "stamps.csv", rows)
    return Fake(tmp_path / "package" / INSIDE, listed, deb)
