"""Every system's pixels are those of transformers' own processor, on photographs.

On the real ones of COCO_ROOT where they are, and on synthetic ones everywhere: of uneven sizes,
with fine lines and smooth gradients, which scaling without antialiasing would show.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BeitImageProcessorPil,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    LlavaImageProcessorPil,
)

from mmn_utils.models.instructblip import InstructBlip, InstructBlipFacts
from mmn_utils.models.limber import LIMBER, Limber
from mmn_utils.models.llava.system import Llava, LlavaFacts
from mmn_utils.models.mplug_owl2.system import MplugOwl2, MplugOwl2Facts

SIZES = [(640, 480), (427, 640), (500, 333), (612, 612), (333, 501), (641, 479)]
COCO = Path(os.environ.get("COCO_ROOT", "data/coco"))
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def synthetic(size: tuple[int, int], seed: int) -> Image.Image:
    """Draw gradients, stripes of all widths and noise."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [np.sin(x * x / rng.integers(200, 900) + y / rng.integers(2, 30)) for _ in range(3)]
    values = 128 + 90 * np.stack(waves, -1) + rng.normal(0, 20, (*x.shape, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def real() -> list[Image.Image]:
    files = sorted(COCO.glob("*2017/*.jpg"))[::8]
    if not files:
        pytest.skip(f"no photographs in {COCO}; set COCO_ROOT to a folder in COCO's layout")
    return [Image.open(file) for file in files]


PHOTOGRAPHS: dict[str, Callable[[], list[Image.Image]]] = {
    "synthetic": lambda: [synthetic(size, seed) for seed, size in enumerate(SIZES)],
    "real": real,
}


def squared(images: list[Image.Image]) -> list[Image.Image]:
    """As mPLUG-Owl2's authors prepare them: a square of the longer side, the aspect not kept."""
    return [image.convert("RGB").resize((max(image.size),) * 2) for image in images]


def clip(side: int, kind=CLIPImageProcessorPil, **options):
    square = {"height": side, "width": side}
    return kind(size={"shortest_edge": side}, crop_size=square, **options)


SYSTEMS = {  # system: (its class, its facts, its square's side, what goes in, its processor)
    "limber": (
        Limber, LIMBER, 224, list,
        lambda side: BeitImageProcessorPil(
            size={"height": side, "width": side},
            resample=Image.Resampling.BILINEAR, do_center_crop=False, **HALF,
        ),
    ),
    "llava": (Llava, LlavaFacts(), 224, list, clip),
    "llava15": (Llava, LlavaFacts(), 336, list, clip),
    "llava15, padded": (
        Llava, LlavaFacts(fit="pad"), 336, list,
        lambda side: clip(side, LlavaImageProcessorPil, do_pad=True),
    ),
    "instructblip": (
        InstructBlip, InstructBlipFacts(), 224, list,
        lambda side: BlipImageProcessorPil(size={"height": side, "width": side}),
    ),
    "mplug_owl2": (MplugOwl2, MplugOwl2Facts(), 448, squared, clip),
}  # fmt: skip


@pytest.mark.parametrize("photographs", list(PHOTOGRAPHS))
@pytest.mark.parametrize("system", list(SYSTEMS))
def test_pixels_are_those_of_the_own_processor(system, photographs):
    kind, facts, side, prepare, processor = SYSTEMS[system]
    images = PHOTOGRAPHS[photographs]()
    rgb = [image.convert("RGB") for image in images]
    expected = processor(side)(prepare(rgb), return_tensors="pt")["pixel_values"]
    # Without weights: all that an adapter prepares pictures by.
    bare = SimpleNamespace(facts=facts, image_tokens=SimpleNamespace(pixels=side))
    found = kind.preprocess(bare, images)
    assert found.shape == (len(images), 3, side, side)
    steps = (found - expected).abs() * torch.tensor(facts.std).view(1, 3, 1, 1) * 255
    assert steps.max() < 0.01  # the same of 256 values, everywhere
