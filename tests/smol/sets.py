"""Tiny sets of photographs, a tiny encoder and a tiny language model to train between."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import nn

from mmn_utils.models.any_encoder import Found, GridEncoder
from mmn_utils.smol.photographs import TRAIN, VAL, Shown, find_photographs
from tests.tiny import tiny_images, tiny_tokenizer
from tests.tiny_gated import tiny_llama

CAPTIONS = {  # of the set with captions, as people write them
    "0.png": ("A horse in a field .", "Two dogs , and a cat."),
    "1.png": ("The boat on Joshua's water", "a bird above the house."),
}
CLASSES = {TRAIN: {"Leopards": 3, "brain_coral": 2}, VAL: {"Leopards": 2, "brain_coral": 1}}
WIDTH, SIDE = 6, 16


def write_sets(root: Path) -> Path:
    """Write two sets: ``kinds`` of two classes, and ``said`` with captions of people."""
    for number, (split, classes) in enumerate(CLASSES.items()):
        for place, (name, count) in enumerate(classes.items()):
            folder = root / "kinds" / split / name
            folder.mkdir(parents=True)
            for i, image in enumerate(tiny_images(count, seed=10 * number + place)):
                image.save(folder / f"image_{i}.png")
    (root / "said").mkdir()
    for name, image in zip(CAPTIONS, tiny_images(2, seed=99), strict=True):
        image.save(root / "said" / name)
    rows = [(name, caption) for name, captions in CAPTIONS.items() for caption in captions]
    write_captions(root / "said", [*rows, ("gone.png", "A ship")])
    return root


def write_captions(folder: Path, rows, columns=("image", "caption")) -> None:
    """Write a set's captions."""
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def tiny_shown(root: Path, split: str = TRAIN) -> list[Shown]:
    """List the photographs of ``write_sets``."""
    return find_photographs(write_sets(root), split, {"Leopards": "leopard"})


def pooled(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return features (B, 16, ``WIDTH``) of pixels."""
    return nn.functional.avg_pool2d(network(pixels), 4).flatten(2).mT


def tiny_found(trained: bool = True) -> Found:
    """Build an encoder of one convolution: 16 pixels, 4 x 4 features of 6."""
    state = torch.get_rng_state()
    torch.manual_seed(0 if trained else 1)
    network = nn.Conv2d(3, WIDTH, 1)
    torch.set_rng_state(state)
    encoder = GridEncoder(network, pooled, SIDE)
    return Found(encoder, (0.5,) * 3, (0.5,) * 3, f"tiny-{trained}")


def tiny_language():
    """Build a frozen LLaMA of two layers for ``tiny_tokenizer``."""
    model = tiny_llama(vocabulary=len(tiny_tokenizer()), layers=2)
    return model.eval().requires_grad_(False)
