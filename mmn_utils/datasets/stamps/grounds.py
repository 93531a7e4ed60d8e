"""Grounds for cut-outs to stand on: smooth noise in the colours of outdoors and indoors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

OCTAVES = 6


@dataclass(frozen=True)
class Ground:
    """How a ground is painted.

    Attributes:
        colours: from its darkest to its lightest, RGB.
        bumps: of the coarsest octave, down and across the picture.
        rough: an octave's weight by the one before it.
    """

    colours: tuple[tuple[int, int, int], ...]
    bumps: tuple[int, int]
    rough: float


GROUNDS = {
    "grass": Ground(((38, 62, 22), (82, 118, 44), (128, 158, 74), (164, 180, 104)), (4, 9), 0.82),
    "leaves": Ground(((26, 44, 24), (54, 88, 40), (96, 130, 58), (150, 170, 96)), (5, 6), 0.66),
    "sand": Ground(((158, 130, 92), (196, 170, 128), (222, 200, 160)), (5, 3), 0.62),
    "soil": Ground(((58, 42, 30), (98, 74, 54), (140, 112, 84)), (4, 5), 0.78),
    "stone": Ground(((92, 92, 94), (136, 134, 130), (178, 174, 166)), (4, 5), 0.7),
    "snow": Ground(((186, 198, 214), (222, 230, 240), (244, 247, 251)), (3, 4), 0.5),
    "water": Ground(((28, 66, 92), (58, 112, 142), (112, 162, 184)), (14, 3), 0.58),
    "wood": Ground(((92, 60, 34), (142, 100, 62), (186, 144, 98)), (2, 16), 0.64),
    "cloth": Ground(((118, 108, 112), (150, 140, 142), (176, 168, 166)), (2, 3), 0.42),
    "wall": Ground(((172, 160, 140), (200, 190, 170), (218, 210, 194)), (2, 2), 0.48),
}
SKY = Ground(((96, 146, 202), (150, 186, 222), (226, 234, 242)), (3, 2), 0.44)
# Grounds that a sky may stand over.
OPEN = ("grass", "sand", "soil", "stone", "snow", "water")
UNDER_SKY, HORIZON = 0.4, (0.2, 0.42)  # share of them; the horizon's height, from above
HAZE = 3.0  # pixels over which the ground becomes sky
LIGHT = (0.86, 1.08)


def paint_ground(rng: np.random.Generator, height: int, width: int) -> tuple[str, np.ndarray]:
    """Draw a ground; return its name and its pixels, float32 (height, width, 3) in 0..255."""
    name = sorted(GROUNDS)[rng.integers(len(GROUNDS))]
    pixels = _paint(GROUNDS[name], rng, height, width)
    if name in OPEN and rng.random() < UNDER_SKY:
        pixels = _under_sky(pixels, rng)
    slope = np.linspace(*rng.uniform(*LIGHT, size=2), height, dtype=np.float32)
    return name, np.clip(pixels * slope[:, None, None], 0, 255)


def _under_sky(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = pixels.shape[:2]
    sky = _paint(SKY, rng, height, width)
    hills = _octave(rng, (1, 3), height, width)[:1] * 4  # (1, width): the horizon's rise and fall
    edge = rng.uniform(*HORIZON) * height + hills
    below = np.arange(height, dtype=np.float32)[:, None] - edge
    share = np.clip(below / HAZE + 0.5, 0, 1)[..., None]
    return share * pixels + (1 - share) * sky


def _paint(ground: Ground, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a ground's pixels: noise whose ranks are spread over the colours."""
    noise = np.zeros((height, width), np.float32)
    for octave in range(OCTAVES):
        bumps = tuple(
            min(n << octave, side) for n, side in zip(ground.bumps, (height, width), strict=True)
        )
        noise += ground.rough**octave * _octave(rng, bumps, height, width)
    low, high = np.quantile(noise, (0.02, 0.98))
    place = (noise - low) / (high - low) * (len(ground.colours) - 1)
    stops = np.arange(len(ground.colours))
    channels = np.array(ground.colours, np.float32).T
    return np.stack([np.interp(place, stops, one) for one in channels], -1).astype(np.float32)


def _octave(
    rng: np.random.Generator, bumps: tuple[int, int], height: int, width: int
) -> np.ndarray:
    """Return smooth noise (height, width) with about so many bumps down and across."""
    rows, columns = bumps
    coarse = rng.standard_normal((rows + 2, columns + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
