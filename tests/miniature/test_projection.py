"""Training of the projection: its loss, what its gradient reaches, what is saved."""

from __future__ import annotations

import contextlib
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmn_utils.miniature import projection
from mmn_utils.miniature.projection import CaptionIds, FeatureStore, ProjectionOptions
from mmn_utils.miniature.scenes import SceneSet
from mmn_utils.miniature.training import Schedule
from mmn_utils.miniature.world import load_world
from mmn_utils.presets import data_path
from tests.tiny import tiny_language_model, tiny_tokenizer

WIDTH, PATCHES, FEATURES = 32, 6, 5


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


@pytest.fixture
def exact(monkeypatch):
    """Take bfloat16 out, so that sums can be compared to rounding."""
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())


def example(seed: int = 0):
    generator = torch.manual_seed(seed)
    soft = torch.randn(3, PATCHES, WIDTH, generator=generator)
    prompt = torch.tensor(tiny_tokenizer().encode("A picture of"))
    labels = torch.randint(1, 200, (3, 7), generator=generator)
    labels[0, 5:] = labels[2, 3:] = -100
    return soft, prompt, labels


def test_caption_loss_equals_transformers_own(language, exact):
    soft, prompt, labels = example()
    words = torch.cat([prompt.expand(3, -1), labels.clamp(min=0)], dim=1)
    embeds = torch.cat([soft, language.transformer.wte(words)], dim=1)
    nothing = torch.full((3, PATCHES + len(prompt)), -100)
    expected = language(inputs_embeds=embeds, labels=torch.cat([nothing, labels], dim=1)).loss
    loss = projection.caption_loss(language, soft, prompt, labels)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_patches_left_out_keep_their_places(language, exact):
    soft, prompt, labels = example()
    places = torch.tensor([0, 2, 5])
    words = torch.cat([prompt.expand(3, -1), labels.clamp(min=0)], dim=1)
    embeds = torch.cat([soft[:, places], language.transformer.wte(words)], dim=1)
    nothing = torch.full((3, len(places) + len(prompt)), -100)
    where = torch.cat([places, PATCHES + torch.arange(words.shape[1])]).expand(3, -1)
    targets = torch.cat([nothing, labels], dim=1)
    expected = language(inputs_embeds=embeds, position_ids=where, labels=targets).loss
    loss = projection.caption_loss(language, soft[:, places], prompt, labels, places, PATCHES)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_all_patches_are_shown_at_the_end_only():
    options = ProjectionOptions(steps=3, thin_steps=2, thin_patches=4)
    rng = np.random.default_rng(0)
    shown = [projection.shown_patches(options, step, PATCHES, rng) for step in range(3)]
    assert [len(places) for places in shown] == [4, 4, PATCHES]
    assert all((places.diff() > 0).all() for places in shown)
    assert not torch.equal(shown[0], shown[1])


def test_bfloat16_changes_the_loss_little(language):
    soft, prompt, labels = example()
    loss = projection.caption_loss(language, soft, prompt, labels)
    assert loss.dtype == torch.float32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())
        exact_loss = projection.caption_loss(language, soft, prompt, labels)
    assert float(loss) == pytest.approx(float(exact_loss), rel=0.03)


def test_padding_has_no_part_in_the_loss(language, exact):
    soft, prompt, labels = example()
    longer = torch.cat([labels, torch.full((3, 4), -100)], dim=1)
    short, long = (projection.caption_loss(language, soft, prompt, x) for x in (labels, longer))
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-5)


def test_the_gradient_reaches_the_projection_only(language, store):
    linear = torch.nn.Linear(FEATURES, WIDTH)
    soft = linear(store.batch(np.array([0, 1, 2])))
    _, prompt, labels = example()
    projection.caption_loss(language, soft, prompt, labels).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in linear.parameters())
    assert all(p.grad is None for p in language.parameters())


def test_folding_equals_the_standardised_map(store):
    linear = torch.nn.Linear(FEATURES, WIDTH)
    folded = projection.fold(linear, store)
    raw = torch.from_numpy(store.values).float()
    expected = linear(store.batch(np.arange(len(raw)))).detach()
    got = torch.nn.functional.linear(raw, folded["weight"], folded["bias"])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_the_untrained_projection_is_a_fresh_linear_layer(store):
    first, again = (projection.untrained_projection(WIDTH, store, seed=4) for _ in range(2))
    torch.manual_seed(4)
    fresh = projection.fold(torch.nn.Linear(FEATURES, WIDTH), store)
    for key in ("weight", "bias"):
        assert torch.equal(first[key], again[key])
        assert torch.equal(first[key], fresh[key])


# --- captions -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes() -> SceneSet:
    concepts = np.array([[0, -1, -1], [3, 1, -1], [5, 2, 7], [0, -1, -1]], dtype=np.int8)
    grounds = np.array([0, 1, 2, 0], dtype=np.int8)
    return SceneSet(np.zeros((4, 1)), concepts, grounds, np.zeros((4, 1), dtype=np.int8))


@pytest.fixture
def long_captions(monkeypatch):
    """Make room: the tiny tokenizer cuts most words of the world into letters."""
    monkeypatch.setattr(projection, "CAPTION_LENGTH", 80)


def test_caption_ids_read_back_as_the_captions_with_their_end(scenes, long_captions):
    world, tokenizer = load_world(data_path("miniature", "concepts.yaml")), tiny_tokenizer()
    ids = CaptionIds(scenes, world, tokenizer).ids
    assert ids.shape[:2] == (4, 5)
    for i in range(4):
        for row, text in zip(ids[i], scenes.captions(i, world), strict=True):
            real = row[row >= 0]
            assert real[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(real[:-1]) == f" {text}."
            assert (row[len(real) :] == -100).all()


@pytest.mark.weights
def test_no_caption_of_the_world_is_longer_than_its_row():
    from itertools import islice, permutations

    from transformers import AutoTokenizer

    from mmn_utils.miniature.phrases import captions

    world = load_world(data_path("miniature", "concepts.yaml"))
    tokenizer = AutoTokenizer.from_pretrained(data_path("miniature", "language_model"))
    for things in islice(permutations(world.concepts, 3), 0, None, 997):
        for text in captions(things, world.backgrounds[0].name):
            assert len(tokenizer.encode(f" {text}.")) + 1 <= projection.CAPTION_LENGTH


# --- training -----------------------------------------------------------------------------


def train(language, store, ids, work, steps=6):
    captions = CaptionIds.__new__(CaptionIds)
    captions.ids = ids
    options = ProjectionOptions(batch=2, steps=steps, thin_steps=4, thin_patches=3)
    return projection.train_projection(
        "toy", language, tiny_tokenizer(), store, captions, options, work
    )


def test_a_resumed_training_ends_with_the_projection_of_an_uninterrupted_one(
    language, store, tmp_path, monkeypatch
):
    ids = np.random.default_rng(1).integers(1, 200, (8, 5, 7))
    monkeypatch.setattr(projection, "Schedule", partial(Schedule, warmup=2, save_every=2))
    before = {name: value.clone() for name, value in language.state_dict().items()}
    whole = train(language, store, ids, tmp_path / "whole")
    batch, calls = FeatureStore.batch, []

    def killed(self, rows, places=None):
        calls.append(rows)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return batch(self, rows, places)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "batch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(language, store, ids, tmp_path / "halves")
    halves = train(language, store, ids, tmp_path / "halves")
    for key in ("weight", "bias"):
        assert torch.equal(whole[key], halves[key])
    assert all(torch.equal(before[name], value) for name, value in language.state_dict().items())


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
