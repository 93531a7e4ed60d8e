"""Pictures, neurons, rows of neurons and edits that the tests of interventions share."""

from __future__ import annotations

import numpy as np
import torch

from mmn_utils.interventions.edit import Edit
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from tests.tiny import tiny_images

IMAGES = tiny_images(3)
NEURONS = tuple(Neuron(layer, unit) for layer in (0, 2) for unit in (3, 77, 120))
TARGET = Target("a", "horse", 301, (5, 9))
RNG = np.random.default_rng(0)
ROWS = [
    [],
    [Neuron(1, 8)],
    [Neuron(int(layer), int(unit)) for layer, unit in RNG.integers(0, (3, 128), (90, 2))],
    [Neuron(0, unit) for unit in range(128)],
    [],
    [Neuron(2, unit) for unit in range(0, 128, 2)],
    [Neuron(1, 8), Neuron(1, 8)],
]


def edit_at(system, places, seed: int) -> Edit | None:
    """Make a random edit of neurons at (layer, unit), strong enough to change captions."""
    if places is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    deltas = torch.randn(len(places), system.sizes.width, generator=generator)
    neurons = tuple(Neuron(*place) for place in places)
    about = (system.name, system.revision, system.sizes)
    return Edit(neurons, deltas, (float("nan"),) * len(places), (), {}, *about)
