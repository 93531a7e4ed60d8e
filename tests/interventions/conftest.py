"""A tiny system with a prompt and mean activations, for the tests of interventions."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.interventions.ablation import unit_means
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
