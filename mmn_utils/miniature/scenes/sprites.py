"""The objects of scenes: glyphs of the emoji font, turned, scaled and recoloured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_SIZE = 109  # the only bitmap size inside NotoColorEmoji
FONT_FILES = (
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf"),
    Path.home() / ".local/share/fonts/NotoColorEmoji.ttf",
)


@dataclass(frozen=True)
class Colours:
    """How far the colours of objects stray: hue in radians either way, two ranges of factors."""

    hue: float
    saturation: tuple[float, float]
    brightness: tuple[float, float]


# In their own colours many objects can be told by colour alone, and that much the patches
# of an untrained encoder hold as well. The world varies them, in more than hue, so that
# they have to be told by shape.
COLOURS = {
    "own": Colours(0.22, (0.8, 1.15), (0.85, 1.1)),
    "turned": Colours(np.pi / 2, (0.7, 1.2), (0.75, 1.15)),
    "varied": Colours(np.pi / 2, (0.6, 1.2), (0.7, 1.2)),
}
SHOWN = "varied"  # the colours of the world's pictures, where no others are asked for


def find_font(path: str | Path | None = None) -> Path:
    """Return the emoji font's file, or say how to get it."""
    candidates = (Path(path),) if path else FONT_FILES
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        "new pictures need the font NotoColorEmoji.ttf, not found at "
        f"{', '.join(map(str, candidates))}; install it (Debian: "
        "'apt-get install fonts-noto-color-emoji') or pass its path (--font)"
    )


@lru_cache(maxsize=4)
def _load_font(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), FONT_SIZE)


@lru_cache(maxsize=512)
def glyph(look: str, font: Path) -> Image.Image:
    """Return the glyph of a hexadecimal code point, cropped to its ink (RGBA)."""
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    draw.text((8, 8), chr(int(look, 16)), font=_load_font(font), embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"{font} has no picture of code point U+{look.upper()}")
    return canvas.crop(box)


def sprite_of(
    look: str, longest: int, colours: Colours, rng: np.random.Generator, font: Path
) -> np.ndarray:
    """Return a jittered object as float32 RGBA (h, w, 4), cropped to its ink."""
    picture = glyph(look, font)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = rng.uniform(-15, 15)
    picture = picture.rotate(angle, resample=Image.Resampling.BICUBIC, expand=True)
    picture = picture.crop(picture.getchannel("A").getbbox())
    scale = longest / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    # A filter without ringing: Lanczos leaves odd colours on the rim of transparent pictures.
    pixels = np.asarray(picture.resize(size, Image.Resampling.HAMMING), dtype=np.float32)
    coloured = _recolour(pixels[..., :3], colours, rng)
    return np.concatenate([coloured, pixels[..., 3:] / 255], axis=2)


# Luma and chroma axes (YIQ): turning the chroma plane turns the hue.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def _recolour(pixels: np.ndarray, colours: Colours, rng: np.random.Generator) -> np.ndarray:
    """Change hue, saturation and brightness of float pixels (H, W, 3)."""
    angle = rng.uniform(-colours.hue, colours.hue)
    saturation, brightness = rng.uniform(*colours.saturation), rng.uniform(*colours.brightness)
    cos, sin = saturation * np.cos(angle), saturation * np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix = brightness * (_FROM_YIQ @ turn @ _TO_YIQ)
    return np.clip(pixels @ matrix.T.astype(np.float32), 0, 255)
