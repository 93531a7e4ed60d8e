"""What the CLIP's tower learns first: which features, of which squares, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from mmn_utils.miniature import distillation
from mmn_utils.miniature.distillation import Distillation, DistillationOptions, distil, gathered
from mmn_utils.miniature.vision.encoder import to_input
from mmn_utils.training.features import statistics
from mmn_utils.training.loop import Schedule

OPTIONS = DistillationOptions(
    batch=4, schedule=Schedule(steps=60, rate=1e-2, warmup=2, save_every=20)
)


def tower(side: int = 2) -> CLIPVisionModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = CLIPVisionConfig(**sizes, num_attention_heads=2, image_size=16, patch_size=16 // side)
    return CLIPVisionModel(config)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(8, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def store():
    values = np.random.default_rng(1).standard_normal((8, 16, 3)).astype(np.float16)
    return statistics(values)


def test_patches_of_a_square_are_joined():
    features = torch.randn(2, 36, 5)
    joined = gathered(features, side=3)
    assert joined.shape == (2, 9, 20)
    grid = features.view(2, 6, 6, 5)
    for row in range(3):
        for column in range(3):
            part = grid[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(joined[:, 3 * row + column], part.flatten(1))
    assert torch.equal(gathered(features, side=6), features)


def test_squares_that_patches_do_not_fill_are_refused():
    with pytest.raises(ValueError, match="36 patches do not fill 4 x 4"):
        gathered(torch.randn(1, 36, 5), side=4)


def test_the_loss_is_the_mean_error_of_both_layers(images, store):
    model = Distillation(tower(), width=12)
    rows = np.arange(3)
    states = model.tower(pixel_values=to_input(images[rows]), output_hidden_states=True)
    truth = gathered(store.batch(rows), 2)
    errors = [
        (model.heads[at](states.hidden_states[layer][:, 1:]) - truth).square().mean()
        for at, layer in enumerate((1, 2))  # of two layers; 0 are the embeddings
    ]
    loss = model(to_input(images[rows]), store.batch(rows))
    torch.testing.assert_close(loss, sum(errors) / 2)


def test_a_tower_learns_the_features_and_a_resumed_one_the_same(
    images, store, tmp_path, monkeypatch
):
    whole = tower()
    distil(whole, store, images, OPTIONS, tmp_path / "whole")
    curve = np.loadtxt(tmp_path / "whole" / "clip_seeing.csv", delimiter=",", skiprows=1)
    assert curve[-1, 2] < 0.8 * curve[0, 2]

    steps, to_pixels = [], distillation.to_input

    def killed(rows):
        steps.append(rows)
        if len(steps) == 50:
            raise KeyboardInterrupt
        return to_pixels(rows)

    with monkeypatch.context() as patch:
        patch.setattr(distillation, "to_input", killed)
        with pytest.raises(KeyboardInterrupt):
            distil(tower(), store, images, OPTIONS, tmp_path)
    resumed = tower()
    distil(resumed, store, images, OPTIONS, tmp_path)
    expected = whole.state_dict()
    assert all(torch.equal(expected[name], part) for name, part in resumed.state_dict().items())
