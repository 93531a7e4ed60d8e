"""Training of the projection: what it starts as, that it resumes, what is saved."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from mmn_utils.miniature import projection
from mmn_utils.miniature.projection import ProjectionOptions
from mmn_utils.miniature.vision.encoder import build_encoder, encode_images
from mmn_utils.training.features import FeatureStore
from mmn_utils.training.loop import Schedule
from tests.tiny import tiny_language_model, tiny_tokenizer

WIDTH, PATCHES, FEATURES = 32, 16, 5


@pytest.fixture
def language():
    model = tiny_language_model(vocabulary=len(tiny_tokenizer()), positions=96)
    return model.requires_grad_(False)


@pytest.fixture
def store() -> FeatureStore:
    rng = np.random.default_rng(0)
    values = (3 + 2 * rng.standard_normal((8, PATCHES, FEATURES))).astype(np.float16)
    flat = torch.from_numpy(values).float().flatten(0, 1)
    return FeatureStore(values, flat.mean(0), flat.std(0) + 1e-6)


def test_folding_equals_the_standardised_map(store):
    linear = torch.nn.Linear(FEATURES, WIDTH)
    folded = projection.fold(linear, store)
    raw = torch.from_numpy(store.values).float()
    expected = linear(store.batch(np.arange(len(raw)))).detach()
    got = torch.nn.functional.linear(raw, folded["weight"], folded["bias"])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_batch_of_some_patches_is_a_part_of_that_of_all(store):
    rows, patches = np.array([1, 5]), np.array([0, 7, 9])
    assert torch.equal(store.batch(rows, patches), store.batch(rows)[:, patches])


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 10**6))
def test_one_patch_of_each_square_is_drawn(squares, block, seed):
    side = squares * block
    drawn = projection.drawn_patches(side * side, block, (seed,))
    assert torch.equal(drawn, drawn.sort().values)
    row, column = drawn // side // block, drawn % side // block
    assert sorted((row * squares + column).tolist()) == list(range(squares**2))
    assert torch.equal(drawn, projection.drawn_patches(side * side, block, (seed,)))


def test_each_patch_of_a_square_is_drawn_alike_often():
    drawn = torch.stack([projection.drawn_patches(16, 2, (seed,)) for seed in range(800)])
    counts = torch.bincount(drawn.flatten(), minlength=16)
    assert counts.min() > 150  # of 200 expected; a binomial's deviation is 12
    assert counts.max() < 250


def test_a_side_that_squares_do_not_fill_is_refused():
    with pytest.raises(ValueError, match=r"196 patches.*3 x 3"):
        projection.drawn_patches(196, 3, (0,))


def test_the_untrained_projection_is_a_fresh_linear_layer(store):
    first, again = (projection.untrained_projection(WIDTH, store, seed=4) for _ in range(2))
    torch.manual_seed(4)
    fresh = projection.fold(torch.nn.Linear(FEATURES, WIDTH), store)
    for key in ("weight", "bias"):
        assert torch.equal(first[key], again[key])
        assert torch.equal(first[key], fresh[key])


# --- training -----------------------------------------------------------------------------


def train(language, store, ids, work, steps=6, part=1):
    options = ProjectionOptions(batch=2, part=part, steps=steps, smooth_steps=4)
    return projection.train_projection("toy", language, tiny_tokenizer(), store, ids, options, work)


@pytest.mark.parametrize("at", [11, 17])  # two parts to a step: in the sixth, and in a smooth one
def test_a_resumed_training_ends_with_the_projection_of_an_uninterrupted_one(
    language, store, tmp_path, monkeypatch, at
):
    ids = np.random.default_rng(1).integers(1, 200, (8, 5, 7))
    monkeypatch.setattr(projection, "Schedule", partial(Schedule, warmup=2, save_every=2))
    before = {name: value.clone() for name, value in language.state_dict().items()}
    whole = train(language, store, ids, tmp_path / "whole")
    batch, calls = FeatureStore.batch, []

    def killed(self, rows, patches):
        calls.append(rows)
        if len(calls) == at:
            raise KeyboardInterrupt
        return batch(self, rows, patches)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "batch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(language, store, ids, tmp_path / "halves")
    halves = train(language, store, ids, tmp_path / "halves")
    fresh = projection.untrained_projection(WIDTH, store, seed=0)
    for key in ("weight", "bias"):
        assert torch.equal(whole[key], halves[key])
        assert not torch.equal(whole[key], fresh[key])
    assert all(torch.equal(before[name], value) for name, value in language.state_dict().items())


def test_the_size_of_the_parts_does_not_change_what_is_learnt(language, store, tmp_path):
    ids = np.random.default_rng(1).integers(1, 200, (8, 5, 7))
    ids[::2, :, 4:] = -100  # captions of different lengths weigh by their words
    halves, whole = (
        train(language, store, ids, tmp_path / str(part), part=part) for part in (1, 2)
    )
    for key in ("weight", "bias"):
        torch.testing.assert_close(halves[key], whole[key], atol=1e-5, rtol=1e-4)


def test_what_is_saved_is_half_precision_and_says_how_it_was_trained(store, tmp_path):
    weights = projection.untrained_projection(WIDTH, store, seed=0)
    path = tmp_path / "projection.safetensors"
    projection.save_projection(path, weights, ProjectionOptions())
    stored = load_file(path)
    assert {key: tuple(value.shape) for key, value in stored.items()} == {
        "weight": (WIDTH, FEATURES),
        "bias": (WIDTH,),
    }
    assert torch.equal(stored["weight"], weights["weight"].half())


# --- features that are kept ---------------------------------------------------------------


def test_features_are_computed_once_for_an_encoder_and_its_pictures(tmp_path, monkeypatch):
    sizes = {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 0}
    encoder = build_encoder({"img_size": 8, **sizes, "use_shared_rel_pos_bias": True}).eval()
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    expected = torch.cat(list(encode_images(encoder, images))).half()

    kept = projection.kept_features(encoder, images, tmp_path / "work")
    np.testing.assert_array_equal(kept.values, expected.numpy())
    torch.testing.assert_close(kept.mean, expected.float().flatten(0, 1).mean(0))

    monkeypatch.setattr(projection, "encode_images", None)  # a second time, nothing is encoded
    again = projection.kept_features(encoder, images, tmp_path / "work")
    np.testing.assert_array_equal(again.values, expected.numpy())
    with torch.no_grad():
        encoder.cls_token += 1
    with pytest.raises(TypeError):  # other weights: their features are not there
        projection.kept_features(encoder, images, tmp_path / "work")
    assert len(list((tmp_path / "work").glob("*.npy"))) == 1  # what broke off left no such file
