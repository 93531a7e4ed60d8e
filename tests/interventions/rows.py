"""Pictures, neurons and rows of neurons that the tests of interventions switch off."""

from __future__ import annotations

import numpy as np

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
