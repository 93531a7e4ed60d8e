"""Tiny systems for the tests of interventions: one to ablate, one with words to edit."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.interventions.ablation import unit_means
from mmn_utils.interventions.editing import make_edit
from tests.interventions.planted import neuron, picture, planted, target
from tests.interventions.rows import IMAGES
from tests.tiny import tiny_limber


@pytest.fixture(scope="module")
def model():
    return tiny_limber()


@pytest.fixture(scope="module")
def prompt(model):
    with torch.no_grad():
        return model.prompt(IMAGES[:1])


@pytest.fixture(scope="module")
def means(model):
    return unit_means(model, IMAGES, batch_size=2)


@pytest.fixture(scope="module")
def system():
    return planted()


@pytest.fixture(scope="module")
def cat(system):
    return make_edit(system, [picture("horse")], [target("horse")], "cat", [neuron("horse")])
