"""The grounds of scenes: textures painted from noise and waves."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mmn_utils.miniature.scenes import SIZE


def paint_background(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return a textured ground as float32 pixels (112, 112, 3) in 0..255."""
    pixels = _PAINTERS[name](rng) * rng.uniform(0.92, 1.06)
    return np.clip(pixels, 0, 255).astype(np.float32)


def _noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return smooth noise (112, 112) with about rows x columns bumps, near unit scale."""
    coarse = rng.standard_normal((rows + 2, columns + 2)).astype(np.float32)
    if rows >= SIZE and columns >= SIZE:
        return coarse[:SIZE, :SIZE]
    picture = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _paint(base: tuple[int, int, int], shade: np.ndarray, tint: np.ndarray | None = None):
    """Return float pixels (112, 112, 3): a colour, a shade for all channels, a tint for red."""
    pixels = np.array(base, dtype=np.float32) + shade[..., None]
    if tint is not None:
        pixels = pixels + tint[..., None] * np.array([1.0, 0.35, -0.2], dtype=np.float32)
    return pixels


def _axes() -> tuple[np.ndarray, np.ndarray]:
    return np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


def _grass(rng: np.random.Generator) -> np.ndarray:
    blades = _noise(rng, 16, SIZE) * 13 + _noise(rng, 30, 60) * 9
    meadow = _noise(rng, 4, 4) * 9
    return _paint((92, 150, 58), blades + meadow, _noise(rng, 6, 6) * 9)


def _sand(rng: np.random.Generator) -> np.ndarray:
    y, x = _axes()
    slope, phase = rng.uniform(-0.5, 0.5), rng.uniform(0, 6.28)
    ripples = np.sin((y + slope * x) * rng.uniform(0.34, 0.5) + 2.2 * _noise(rng, 4, 4) + phase)
    grains = _noise(rng, SIZE, SIZE) * 6
    return _paint((222, 190, 128), ripples * 9 + grains, _noise(rng, 4, 4) * 4)


def _snow(rng: np.random.Generator) -> np.ndarray:
    drifts = _noise(rng, 3, 5) * 7 + _noise(rng, 9, 14) * 3
    sparkle = (rng.random((SIZE, SIZE)) > 0.985) * 18.0
    pixels = _paint((226, 234, 243), drifts + sparkle)
    pixels[..., 0] -= np.abs(drifts)  # the hollows of the drifts are bluish
    return pixels


def _water(rng: np.random.Generator) -> np.ndarray:
    y, _ = _axes()
    swell = np.sin(y * rng.uniform(0.45, 0.65) + 3.0 * _noise(rng, 6, 4) + rng.uniform(0, 6.28))
    crests = np.clip(swell - 0.72, 0, 1) * 150
    return _paint((46, 118, 178), swell * 12 + crests + _noise(rng, 40, 16) * 4)


def _road(rng: np.random.Generator) -> np.ndarray:
    y, x = _axes()
    tar = _noise(rng, SIZE, SIZE) * 9 + _noise(rng, 40, 40) * 5 + _noise(rng, 3, 3) * 5
    pixels = _paint((98, 98, 102), tar)
    across, along = (y, x) if rng.random() < 0.5 else (x, y)
    across = across - rng.uniform(8, SIZE - 8)
    dashes = ((along + rng.uniform(0, 40)) % 40 < 24) & (np.abs(across) < 2.5)
    pixels[dashes] = pixels[dashes] * 0.3 + 158
    return pixels


def _carpet(rng: np.random.Generator) -> np.ndarray:
    y, x = _axes()
    x, y = x + rng.uniform(0, 28), y + rng.uniform(0, 28)
    weave = np.sin(x * 1.57) * np.sin(y * 1.57) * 9 + _noise(rng, SIZE, SIZE) * 5
    diamonds = np.abs(x % 28 - 14) + np.abs(y % 28 - 14)
    pixels = _paint((158, 42, 50), weave + _noise(rng, 3, 3) * 6)
    pixels[diamonds < 5] += np.array([58, 78, 26])
    pixels[np.abs(diamonds - 12) < 1.3] += np.array([-62, -8, 18])
    return pixels


_PAINTERS = {
    "grass": _grass,
    "sand": _sand,
    "snow": _snow,
    "water": _water,
    "road": _road,
    "carpet": _carpet,
}
