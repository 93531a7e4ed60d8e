"""Picture files and pictures of any kind, read as upright RGB: the one reader of the house.

What happens to an unusual picture, always in this order:

==================  ==========================================================================
EXIF orientation    Follows the annotated width and height where they fit either the stored or
                    the turned picture alone: an annotation is of pixels, and some are of the
                    stored ones. Where none is known, or both fit, the tag is applied.
16 bit              0..65535 becomes 0..255.
32 bit, integers    The same from 0 to the first of 255, 65535, 2^31 - 1 and 2^32 - 1 that no
                    value exceeds: such files do not say how many bits they fill.
floating point      The same from 0 to the first of 1, 255 and 65535 that no value exceeds.
transparency        Laid on white (RGBA, LA, PA, palettes, key colours).
greyscale           The same value in all three channels.
CMYK, LAB, YCbCr    Pillow's plain conversion, without a colour profile.
no pixels           ``ValueError``, as for values below 0, beyond the last scale or not finite.
==================  ==========================================================================

HEIC is read where the package ``pillow-heif`` is installed.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

with contextlib.suppress(ImportError):
    from pillow_heif import register_heif_opener

    register_heif_opener()

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})
HEIC = frozenset({".heic", ".heif", ".hif"})
JUNK = ("__MACOSX",)  # what archivers leave, beside names that begin with a dot

Size = tuple[int, int]  # height, width

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N")
_FULL = {"I": (255, 2**16 - 1, 2**31 - 1, 2**32 - 1), "F": (1, 255, 2**16 - 1)}
_SAMPLE_FORMAT, _UNSIGNED = 339, 1  # TIFF's tag, and its value where there is none
# what pillow raises for a file that is cut off, or no image, or one that would fill the memory
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def reads_heic() -> bool:
    """Say whether HEIC files can be read here."""
    return any(suffix in Image.registered_extensions() for suffix in HEIC)


def readable_suffixes() -> frozenset[str]:
    """Return the endings, in lower case, of the files that are taken for pictures."""
    return SUFFIXES | HEIC if reads_heic() else SUFFIXES


def is_visible(path: Path) -> bool:
    """Say whether a file or folder is one that somebody put there, by its own name alone."""
    return not path.name.startswith(".") and path.name not in JUNK


def read_image(path: str | Path, annotated: Size | None = None) -> Image.Image:
    """Read a picture file as upright RGB without metadata, as the module's table says.

    ``annotated`` is the (height, width) of its annotations, if there are any; a picture of
    neither that nor the turned size comes as the tag says. FileNotFoundError or ValueError,
    naming the file, where it is missing or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no photograph at {path}: check the path, or fetch what the data set lacks"
        )
    try:
        return _read(path, annotated)
    except _UNREADABLE as error:
        why, remedy = error, "fetch it again"
        if isinstance(error, UnidentifiedImageError) and path.suffix.lower() in HEIC:
            why, remedy = "no plug-in for HEIC is there", "pip install pillow-heif"
        raise ValueError(f"{path} cannot be read as an image ({why}): {remedy}") from error


def read_bytes(content: bytes, name: str) -> Image.Image:
    """Read the bytes of a picture file as upright RGB; see :func:`read_image`.

    ValueError, with the file's ``name``, for bytes that are no image.
    """
    try:
        return _read(io.BytesIO(content), None)
    except _UNREADABLE as error:
        why = "its format is not known" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{name} cannot be read as an image ({why}): take another file") from error


def size_of(path: str | Path) -> Size:
    """Return the (height, width) of the upright picture in a file; errors as of ``read_image``."""
    path = Path(path)
    try:
        with Image.open(path) as stored:
            turned = stored.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return stored.size if turned else (stored.height, stored.width)
    except _UNREADABLE:
        return read_image(path).size[::-1]  # says what is wrong with it


def to_rgb(image: Image.Image, annotated: Size | None = None) -> Image.Image:
    """Convert a picture of any mode to upright RGB, as the module's table says."""
    if not isinstance(image, Image.Image):
        raise ValueError(f"{type(image).__name__} is no picture; give a PIL image")
    if 0 in image.size:
        raise ValueError(f"a picture of {image.width} x {image.height} has no pixels")
    unsigned = _is_unsigned(image)
    image = _upright(image, annotated)
    if image.mode in (*_WIDE, *_FULL):
        return _narrow(image, unsigned).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")  # the only conversion that Pillow has from it
    if image.has_transparency_data or image.mode == "RGBa":
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _read(file: Path | io.BytesIO, annotated: Size | None) -> Image.Image:
    """Read a file into a fresh image without metadata, so that nobody turns it once more."""
    with Image.open(file) as stored:
        stored.load()
        image = to_rgb(stored, annotated)
    fresh = Image.new("RGB", image.size)
    fresh.paste(image)
    return fresh


def _upright(image: Image.Image, annotated: Size | None) -> Image.Image:
    turned = ImageOps.exif_transpose(image)
    if annotated == (image.height, image.width) != (turned.height, turned.width):
        return image
    return turned


def _is_unsigned(image: Image.Image) -> bool:
    """Say whether the file of a picture counts its values from 0 up; Pillow's mode I does not."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and _UNSIGNED in tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))


def _narrow(image: Image.Image, unsigned: bool) -> Image.Image:
    """Scale wide greyscale to 8 bit; Pillow itself would clip everything above 255."""
    values = np.asarray(image)
    if image.mode == "I" and unsigned:
        values = values.view(np.uint32)
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    scales = _FULL.get(image.mode, (2**16 - 1,))
    full = next((scale for scale in scales if high <= scale), None)
    if full is None or not low >= 0:
        raise ValueError(
            f"its values go from {low:g} to {high:g}; scale them to 0..{scales[0]} first"
        )
    grey = Image.fromarray(np.rint(values * (255 / full)).astype(np.uint8))
    key = image.info.get("transparency")
    if isinstance(key, int):  # a key colour, at full depth
        grey.paste(255, mask=Image.fromarray(values == key))
    return grey
