"""Learning from captions: their ids, which of them a step shows, the loss."""

from __future__ import annotations

import contextlib
from functools import partial

import numpy as np
import pytest
import torch

from mmn_utils.miniature import captioning
from mmn_utils.miniature.captioning import Batches, CaptionIds, caption_loss
from mmn_utils.miniature.language import last_logits
from mmn_utils.miniature.scenes.sets import SceneSet
from mmn_utils.miniature.world import load_world
from mmn_utils.presets import data_path
from tests.tiny import tiny_language_model, tiny_tokenizer

WIDTH, PATCHES = 32, 6


@pytest.fixture
def language():
    model = tiny_language_model(vocabulary=len(tiny_tokenizer()), positions=96)
    return model.requires_grad_(False)


@pytest.fixture
def exact(monkeypatch):
    """Take bfloat16 out, so that sums can be compared to rounding."""
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())


def example(seed: int = 0):
    """Return image tokens (3, 6, 32), the ids around them, labels (3, 7) of three lengths."""
    generator = torch.manual_seed(seed)
    soft = torch.randn(3, PATCHES, WIDTH, generator=generator)
    around = tuple(tiny_tokenizer().encode(text) for text in ("The horse", "A picture of"))
    labels = torch.randint(1, 200, (3, 7), generator=generator)
    labels[0, 5:] = labels[2, 3:] = -100
    return soft, around, labels


def loss_of(language, soft, around, labels):
    logits_for = partial(last_logits, language)
    return caption_loss(logits_for, language.transformer.wte, around, soft, labels)


@pytest.mark.parametrize("before", [True, False])
def test_caption_loss_equals_transformers_own(language, exact, before):
    soft, around, labels = example()
    around = around if before else ([], around[1])
    first, behind = (torch.tensor(ids, dtype=torch.long).expand(3, -1) for ids in around)
    words = torch.cat([behind, labels.clamp(min=0)], dim=1)
    wte = language.transformer.wte
    embeds = torch.cat([wte(first), soft, wte(words)], dim=1)
    nothing = torch.full((3, embeds.shape[1] - labels.shape[1]), -100)
    expected = language(inputs_embeds=embeds, labels=torch.cat([nothing, labels], dim=1)).loss
    loss = loss_of(language, soft, around, labels)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smooth_labels_mix_the_loss_with_that_of_all_tokens_alike(language, exact, smoothing):
    soft, around, labels = example()
    kept = []

    def logits_for(embeds, count):
        kept.append(last_logits(language, embeds, count))
        return kept[-1]

    loss = caption_loss(logits_for, language.transformer.wte, around, soft, labels, smoothing)
    likely = kept[0].log_softmax(-1)[labels >= 0]
    own = -likely.gather(1, labels[labels >= 0][:, None]).mean()
    expected = (1 - smoothing) * own - smoothing * likely.mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_bfloat16_changes_the_loss_little(language):
    loss = loss_of(language, *example())
    assert loss.dtype == torch.float32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())
        exact_loss = loss_of(language, *example())
    assert float(loss) == pytest.approx(float(exact_loss), rel=0.03)


def test_padding_has_no_part_in_the_loss(language, exact):
    soft, around, labels = example()
    longer = torch.cat([labels, torch.full((3, 4), -100)], dim=1)
    short, long = (loss_of(language, soft, around, x) for x in (labels, longer))
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-5)


def test_the_gradient_reaches_what_makes_the_image_tokens_only(language):
    linear = torch.nn.Linear(5, WIDTH)
    _, around, labels = example()
    loss_of(language, linear(torch.randn(3, PATCHES, 5)), around, labels).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in linear.parameters())
    assert all(p.grad is None for p in language.parameters())


def test_a_batch_is_a_function_of_seed_and_step_alone():
    ids = np.random.default_rng(0).integers(1, 200, (50, 5, 7))
    ids[::2, :, 4:] = ids[1::2, :, 6:] = -100
    first, again = (Batches(ids, 6, (3, 1)) for _ in range(2))
    expected = first.at(5)
    again.at(4)
    found = again.at(5)
    assert np.array_equal(found.rows, expected.rows)
    assert torch.equal(found.labels, expected.labels)
    for other in (first.at(6), Batches(ids, 6, (3, 2)).at(5), Batches(ids, 6, (4, 1)).at(5)):
        assert not np.array_equal(other.rows, expected.rows)
    for row, label in zip(expected.rows, expected.labels, strict=True):
        padded = np.pad(label.numpy(), (0, 7 - len(label)), constant_values=-100)
        assert (padded == ids[row]).all(1).any()


def test_the_plainest_caption_is_shown_as_often_as_asked_for():
    ids = np.arange(5).reshape(1, 5, 1)
    labels = Batches(ids, 5000, (0,), plainest=0.7).at(0).labels.flatten()
    shares = torch.bincount(labels, minlength=5) / len(labels)
    assert shares.tolist() == pytest.approx([0.7, *[0.075] * 4], abs=0.03)


# --- captions -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes() -> SceneSet:
    concepts = np.array([[0, -1, -1], [3, 1, -1], [5, 2, 7], [0, -1, -1]], dtype=np.int8)
    grounds = np.array([0, 1, 2, 0], dtype=np.int8)
    return SceneSet(np.zeros((4, 1)), concepts, grounds, np.zeros((4, 1), dtype=np.int8))


@pytest.fixture
def long_captions(monkeypatch):
    """Make room: the tiny tokenizer cuts most words of the world into letters."""
    monkeypatch.setattr(captioning, "CAPTION_LENGTH", 80)


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
            assert len(tokenizer.encode(f" {text}.")) + 1 <= captioning.CAPTION_LENGTH
