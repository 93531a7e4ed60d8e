"""The encoder: timm's own function, a training that can be stopped, and what ships."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmn_utils.miniature import vision as vi
from mmn_utils.miniature.scenes import SceneSet

TINY = {**vi.VISION_CONFIG, "img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 4}
RECIPE = vi.VisionRecipe(
    stages=(
        vi.Stage("pixels", images=16, codes=8),
        vi.Stage("features", images=16, codes=8, layer=2, colours="turned", visible_weight=0.5),
        vi.Stage("features again", images=16, codes=8, layer=3, visible_weight=0.0),
    ),
    config=TINY,
    scenes=12,
    batch=4,
    warmup=2,
    code_sample=100,
)


@pytest.fixture
def scenes() -> SceneSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(12, 32, 32, 3), dtype=np.uint8)
    concepts = np.zeros((12, 3), np.int8)
    return SceneSet(images, concepts, np.zeros(12, np.int8), np.zeros((12, 16), np.int8))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = vi.build_vision(TINY).eval()
    vi.localise(model)
    for parameter in model.parameters():  # away from the zeros of a fresh model
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def test_fused_forward_equals_timm(model):
    pixels = torch.randn(2, 3, 32, 32)
    for ours in vi.layers(model, vi.embed(model, pixels, None, None)):
        last = ours
    torch.testing.assert_close(model.norm(last), model.forward_features(pixels), atol=1e-4, rtol=0)


def test_features_are_the_last_block_without_cls_and_norm(model):
    pixels, seen = torch.randn(2, 3, 32, 32), []
    handle = model.blocks[-1].register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.no_grad():
        model(pixels)
    handle.remove()
    torch.testing.assert_close(vi.features(model, pixels), seen[0][:, 1:], atol=1e-4, rtol=0)


def test_masked_patches_are_not_seen(model):
    pixels, masked = torch.randn(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.bool)
    masked[0, 0] = True
    other = pixels.clone()
    other[..., :8, :8] = 7.0
    token = torch.zeros(1, 1, 32)
    first, second = (vi.embed(model, p, masked, token) for p in (pixels, other))
    assert torch.equal(first, second)


@pytest.mark.parametrize("seed", range(5))
def test_block_mask_hides_the_exact_number(seed):
    mask = vi.block_mask(np.random.default_rng(seed), 14, 78)
    assert mask.shape == (196,)
    assert mask.sum() == 78


def test_kmeans_finds_separate_clusters():
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    points = centres.repeat(50, 1) + 0.1 * torch.randn(150, 2, generator=torch.manual_seed(0))
    found = vi.kmeans(points, 3, seed=1)
    assert torch.cdist(centres, found).min(1).values.max() < 0.2 or len(found) == 3
    assert len(vi.nearest(points, found).unique()) == 3


def test_windows_are_means_around_the_patch():
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    window = vi.windows(image, 8)[0, 5].view(3, 6, 6)  # patch in row 1, column 1
    block = vi.to_input(image)[0, :, 0:4, 0:4].mean((1, 2))
    torch.testing.assert_close(window[:, 0, 0], block)


def _train(scenes, folder, stops=()):
    """Train a tiny encoder; at each stop throw everything away but the checkpoint."""
    for steps in stops:
        trainer = vi.Trainer(RECIPE, lambda colours: scenes, None, folder)
        trainer.resume()
        trainer.run_stage(stop_after=steps)
    return vi.Trainer(RECIPE, lambda colours: scenes, None, folder).run().state_dict()


def test_resumed_training_equals_uninterrupted(scenes, tmp_path):
    whole = _train(scenes, tmp_path / "whole")
    parts = _train(scenes, tmp_path / "parts", stops=(1, 2))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_codes_are_of_the_scenes_in_their_own_colours(scenes, tmp_path):
    other = replace(scenes, images=np.roll(scenes.images, 1, axis=0))
    pool = {"own": other, "turned": scenes, "varied": scenes}
    trainer = vi.Trainer(RECIPE, pool.get, None, tmp_path)
    trainer.run()
    before = trainer.encoder_after("features")
    expected = vi.feature_codes(RECIPE, RECIPE.stages[2], before, other.images)
    state = torch.load(tmp_path / "vision_checkpoint.pt", weights_only=False)
    assert torch.equal(state["codes"], expected)
    assert not torch.equal(
        expected, vi.feature_codes(RECIPE, RECIPE.stages[2], before, scenes.images)
    )


def test_a_stage_sees_scenes_in_its_colours(scenes, tmp_path):
    other = replace(scenes, images=255 - scenes.images)
    trainer = vi.Trainer(RECIPE, {"own": scenes, "varied": other}.get, None, tmp_path)
    trainer._begin_stage()
    rows = (vi.to_input(other.images) == trainer._batch()[0][:, None]).flatten(2).all(2)
    assert rows.any(1).all()


def test_checkpoint_of_another_recipe_is_refused(scenes, tmp_path):
    trainer = vi.Trainer(RECIPE, lambda colours: scenes, None, tmp_path)
    trainer.save()
    with pytest.raises(ValueError, match="another recipe"):
        vi.Trainer(replace(RECIPE, batch=6), lambda colours: scenes, None, tmp_path).resume()


def test_saved_encoder_loads_into_timm(tmp_path):
    torch.manual_seed(0)
    model = vi.build_vision().eval()
    vi.save_vision(model, tmp_path / "vision.safetensors")
    loaded = vi.load_vision(tmp_path / "vision.safetensors")
    pixels = torch.randn(1, 3, 112, 112)
    assert vi.features(loaded, pixels).shape == (1, 196, 128)
    torch.testing.assert_close(
        vi.features(loaded, pixels), vi.features(model, pixels), atol=2e-2, rtol=0
    )


def test_a_run_that_trains_nothing_adds_nothing_to_the_curve(tmp_path):
    log = vi.ProgressLog(tmp_path / "log.csv", total=10)
    log.write({"patch": 0.5})
    assert not log.path.exists()
    log.note("pixels", 8, 2.5)
    log.write({"patch": 0.5})
    header, row = log.path.read_text().splitlines()
    assert header.split(",") == list(log.FIELDS)
    assert row.startswith("pixels,8,2.5,")
