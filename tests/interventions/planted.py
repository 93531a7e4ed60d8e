"""A tiny gated system with three words planted in it: each colour makes a unit write its word."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from mmn_utils.interventions.concept import Concept, word_tokens
from mmn_utils.interventions.edit import Edit
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from tests.tiny_gated import TinyGated

LAYER = 2
UNITS = {"horse": 17, "boat": 5, "horses": 40}
CHANNELS = {"horse": (255, 0, 0), "boat": (0, 255, 0), "horses": (0, 0, 255)}
WORDS = (*UNITS, "cat", "dog", "grass")


def token(word: str) -> int:
    return word_tokens(TinyGated(), word)[0]


@torch.no_grad()
def planted() -> TinyGated:
    """Let each colour make a unit of the last layer write its word; captions go on ' grass'."""
    system = TinyGated()
    torch.manual_seed(1)
    model, width = system.language_model, system.sizes.width
    directions = torch.linalg.qr(torch.randn(width, 3 + len(WORDS) + 1)).Q.T
    colours, words = directions[:3], dict(zip((*WORDS, "end"), directions[3:], strict=True))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        elif "o_proj" in name or "down_proj" in name:
            parameter.mul_(0.02)
    first, last = model.model.layers[0].self_attn, model.model.layers[LAYER].mlp
    first.q_proj.weight.zero_()  # the same weight for every token before
    first.v_proj.weight[:3] = colours
    first.o_proj.weight[:, :3] = 20 * colours.T
    away = directions.T @ directions
    for table in (model.lm_head.weight, model.model.embed_tokens.weight):
        table.copy_(0.1 * (table - table @ away))
    ids = {word: word_tokens(system, word) for word in WORDS} | {"end": (0,)}
    assert all(len(one) == 1 for one in ids.values())
    for word, (one,) in ids.items():
        model.lm_head.weight[one] = 3 * words[word]
        follower = "end" if word == "grass" else "grass"
        model.model.embed_tokens.weight[one] = 2000 * words[follower]
    for (word, unit), colour in zip(UNITS.items(), colours, strict=True):
        last.gate_proj.weight[unit] = last.up_proj.weight[unit] = 0.5 * colour
        last.down_proj.weight[:, unit] = 4 * words[word]
    system.projection = 30 * colours
    system.places = system.places - system.places @ away
    return system


def picture(word: str, shade: int = 0) -> Image.Image:
    """Paint the word's colour; shades differ in how much of the picture it fills."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[4 * shade :] = CHANNELS[word]
    return Image.fromarray(pixels)


def target(word: str, image: str = "scene") -> Target:
    return Target(image, word, token(word), ())


def neuron(word: str) -> Neuron:
    return Neuron(LAYER, UNITS[word])


def made_up(model, seed: int, count: int = 6, size: float = 1.0) -> Edit:
    """Draw an edit of some neurons that nobody has found."""
    rng = np.random.default_rng(seed)
    total = model.sizes.layers * model.sizes.units
    places = rng.choice(total, count, replace=False)
    neurons = tuple(Neuron(int(p) // model.sizes.units, int(p) % model.sizes.units) for p in places)
    deltas = torch.from_numpy(rng.normal(0, size, (count, model.sizes.width))).float()
    concept = (Concept("a", "b", (1,), ("x",)),)
    return Edit(neurons, deltas, (1.0,) * count, concept, {}, model.name, model.revision,
                model.sizes)  # fmt: skip
