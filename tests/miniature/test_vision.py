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
        vi.Stage("features", images=16, codes=8, layer=2, colours="turned", window=3, whole=4),
        vi.Stage("features again", images=16, codes=8, layer=3, visible_weight=0.0),
    ),
    config=TINY,
    scenes=12,
    batch=4,
    warmup=2,
    head_steps=30,
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


@pytest.mark.parametrize("batch", [1, 4, 5, 12])  # an odd and an even number of batches
def test_pictures_are_encoded_in_their_order(model, scenes, batch):
    parts = list(vi.encode_images(model, scenes.images, batch=batch))
    assert [len(part) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    expected = vi.features(model, vi.to_input(scenes.images))
    torch.testing.assert_close(torch.cat(parts), expected, atol=1e-4, rtol=0)


def test_every_encoder_is_probed_in_every_colour(model, scenes):
    rng, fresh = np.random.default_rng(1), vi.build_vision(TINY).eval()
    marked = replace(scenes, patch_concepts=rng.integers(0, 3, (12, 16)).astype(np.int8))
    shown = {name: replace(marked, images=scenes.images // (1 + i)) for i, name in
             enumerate(vi.COLOURS)}  # fmt: skip
    table = vi.colour_table({"trained": model, "fresh": fresh}, shown.get)
    assert list(table["encoder"]) == ["trained"] * len(vi.COLOURS) + ["fresh"] * len(vi.COLOURS)
    assert list(table["colours"]) == [*vi.COLOURS] * 2
    for row in table.to_dict("records"):
        encoder = {"trained": model, "fresh": fresh}[row["encoder"]]
        expected = vi.probe(encoder, shown[row["colours"]])
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=0.03)


def test_a_window_has_the_same_place_biases_wherever_it_falls(model):
    whole = vi.position_bias(model, 16).detach()
    assert torch.equal(whole, model.rel_pos_bias().detach())
    grid, window = torch.arange(16).view(4, 4), vi.position_bias(model, 9).detach()
    for top, left in ((0, 0), (1, 0), (1, 1)):
        kept = torch.cat((torch.tensor([0]), 1 + grid[top : top + 3, left : left + 3].flatten()))
        assert torch.equal(window, whole[:, kept[:, None], kept])


def test_windows_of_pictures_and_codes_are_of_the_same_place():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (60, 16))
    pixels = codes.reshape(60, 4, 4, 1).repeat(8, 1).repeat(8, 2).repeat(3, 3).astype(np.uint8)
    images, cut = vi.cut_windows(rng, pixels, codes, 3)
    assert images.shape == (60, 24, 24, 3)
    np.testing.assert_array_equal(images[:, ::8, ::8, 1].reshape(60, 9), cut)
    np.testing.assert_array_equal(images[:, 7::8, 7::8, 2].reshape(60, 9), cut)
    grid = codes.reshape(60, 4, 4)
    places = [
        (grid[:, t : t + 3, x : x + 3].reshape(60, 9) == cut).all(1) for t in (0, 1) for x in (0, 1)
    ]
    assert np.sum(places, 0).min() == 1
    assert np.sum(places, 1).min() > 5
    whole, same = vi.cut_windows(rng, pixels, codes, 4)
    np.testing.assert_array_equal(whole, pixels)
    np.testing.assert_array_equal(same, codes)


def test_a_stage_ends_with_whole_scenes():
    stage = vi.Stage("pixels", images=16, window=3, whole=4)
    assert [stage.window_at(seen) for seen in (0, 8, 12, 15)] == [3, 3, None, None]
    assert vi.Stage("pixels", images=16).window_at(0) is None


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


def test_a_fresh_head_learns_before_the_encoder_goes_on(scenes, tmp_path):
    trainer = vi.Trainer(RECIPE, lambda colours: scenes, None, tmp_path)
    trainer._begin_stage()
    trainer.stage_number, trainer.codes = 1, None
    before = {name: value.clone() for name, value in trainer.model.encoder.state_dict().items()}
    trainer._begin_stage()
    after = trainer.model.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    with torch.no_grad():
        taught = sum(float(loss()) for loss in trainer._losses(trainer._batch(0)))
        trainer.model.new_head(8)
        fresh = sum(float(loss()) for loss in trainer._losses(trainer._batch(0)))
    assert taught < 0.9 * fresh


def test_the_parts_of_a_batch_do_not_change_what_is_learnt(scenes, tmp_path):
    ends = []
    for part in (1, 3, 4):
        recipe = replace(RECIPE, part=part)
        trainer = vi.Trainer(recipe, lambda colours: scenes, None, tmp_path / str(part))
        ends.append(trainer.run().state_dict())
    for end in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(end[name], value, atol=1e-4, rtol=1e-3)


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
    rows = (vi.to_input(other.images) == trainer._batch(0)[0][:, None]).flatten(2).all(2)
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
