"""Tiny systems for the tests of neurons: GPT-J, gated, and either."""

from __future__ import annotations

import pytest
import torch

from tests.neurons.every_noun import BUILD
from tests.neurons.one_each import IMAGES
from tests.tiny import tiny_limber
from tests.tiny_gated import TinyGated


@pytest.fixture(scope="module")
def model():
    return tiny_limber()


@pytest.fixture(scope="module")
def prompt(model):
    with torch.no_grad():
        return model.prompt(IMAGES)


@pytest.fixture(scope="module", params=list(BUILD))
def any_model(request):
    return BUILD[request.param]()


@pytest.fixture(scope="module")
def gated():
    return TinyGated()
