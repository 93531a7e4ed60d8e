"""Pictures for a page: where they lie, or what they are, as an address."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from mmn_utils.datasets.base import read_image

LARGEST = 1024  # pixels of the longer side of a picture that is made for a page
THUMB = 128  # pixels of the longer side
KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}  # kept as they are
_ROTATION = 0x0112  # the EXIF tag
Size = tuple[int, int] | None


def data_uri(path: Path, annotated: Size = None, side: int | None = None) -> str:
    """Return a picture file as a data URI, its own bytes where a browser shows them upright.

    ``annotated`` is the (height, width) at which stored pixels stay as they are. A picture whose
    longer side has more than ``side`` pixels is made smaller. Errors as of ``read_image``.
    """
    if _as_it_is(path):
        with Image.open(path) as stored:
            if side is None or max(stored.size) <= side:
                return _uri(KINDS[stored.format], path.read_bytes())
    return jpeg_uri(read_image(path, annotated), side)


def thumbnail(path: Path, annotated: Size = None, side: int = THUMB) -> str:
    """Return a small copy of a picture as a JPEG data URI."""
    return jpeg_uri(read_image(path, annotated), side)


def part_uri(
    path: Path, annotated: Size, box: tuple[int, int, int, int], side: int = LARGEST
) -> str:
    """Return the part of a picture in a box (left, top, right, bottom) as a JPEG data URI."""
    return jpeg_uri(read_image(path, annotated).crop(box), side)


def jpeg_uri(image: Image.Image, side: int | None = None, quality: int = 85) -> str:
    """Return a picture as a JPEG data URI, its longer side at most ``side``."""
    if side is not None:
        image = image.copy()
        image.thumbnail((side, side))
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=quality)
    return _uri("image/jpeg", stream.getvalue())


def relative_url(folder: Path, path: Path, annotated: Size = None) -> str:
    """Return the address of a picture from a page in ``folder``, whatever its name holds.

    One that a browser would not show upright goes in as a data URI.
    """
    if not _as_it_is(path):
        return data_uri(path, annotated)
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def size_of(path: Path, annotated: Size = None) -> tuple[int, int]:
    """Return the (width, height) of an upright picture; errors as of ``read_image``."""
    if _as_it_is(path):
        with Image.open(path) as stored:
            return stored.size
    return read_image(path, annotated).size


def _as_it_is(path: Path) -> bool:
    """Say whether a browser shows a file as ``read_image`` does."""
    try:
        with Image.open(path) as stored:
            plain = stored.mode in ("RGB", "L") and "transparency" not in stored.info
            return stored.format in KINDS and plain and stored.getexif().get(_ROTATION, 1) == 1
    except OSError:
        return False


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
