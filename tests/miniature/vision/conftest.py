"""A few random scenes and a tiny encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.miniature.scenes.sets import SceneSet
from mmn_utils.miniature.vision.encoder import build_encoder, localise
from tests.miniature.vision.tiny import TINY


@pytest.fixture
def scenes() -> SceneSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(12, 32, 32, 3), dtype=np.uint8)
    concepts = np.zeros((12, 3), np.int8)
    return SceneSet(images, concepts, np.zeros(12, np.int8), np.zeros((12, 16), np.int8))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_encoder(TINY).eval()
    localise(model)
    for parameter in model.parameters():  # away from the zeros of a fresh model
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model
