"""The tiny CLIP: knows the world's words, resumes, and loads through transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmn_utils.miniature import clip, phrases
from mmn_utils.miniature.distillation import DistillationOptions
from mmn_utils.miniature.scenes import SIZE
from mmn_utils.miniature.scenes.sets import SceneSet
from mmn_utils.miniature.vision.probe import probe_features
from mmn_utils.training.features import FeatureStore, statistics
from mmn_utils.training.loop import Schedule

RECIPE = clip.ClipRecipe(
    scenes=8, batch=6, schedule=Schedule(steps=4, rate=1.5e-3, warmup=2, save_every=2),
    seeing=DistillationOptions(batch=4, schedule=Schedule(steps=2, rate=1e-3, warmup=2)),
    vision_width=16, vision_depth=1, text_width=16, text_depth=1, embed=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> SceneSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(8, SIZE, SIZE, 3), dtype=np.uint8)
    concepts = np.full((8, 3), -1, np.int8)
    concepts[:, 0] = np.arange(8)
    return SceneSet(images, concepts, np.zeros(8, np.int8), np.zeros((8, 196), np.int8))


@pytest.fixture(scope="module")
def store() -> FeatureStore:
    return statistics(np.random.default_rng(1).standard_normal((8, 196, 3)).astype(np.float16))


def test_every_word_of_captions_and_tags_is_known(world):
    tokenizer, rng = clip.make_tokenizer(world), np.random.default_rng(0)
    for concept in world.concepts:
        other = world.by_name["cat" if concept.name == "dog" else "dog"]
        texts = [*phrases.captions([concept], "road"), *phrases.captions([concept, other], "snow")]
        texts += [clip.tag_text([concept.name], "road", world, rng), "A picture of"]
        ids = tokenizer(texts)["input_ids"]
        assert tokenizer.unk_token_id not in {i for row in ids for i in row}


def test_resumed_training_equals_uninterrupted(world, scenes, store, tmp_path, monkeypatch):
    whole = clip.train_clip(RECIPE, world, scenes, store, tmp_path / "whole").state_dict()
    drawn, steps = clip.contrastive_loss, []

    def killed(*arguments):
        steps.append(arguments)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return drawn(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(clip, "contrastive_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            clip.train_clip(RECIPE, world, scenes, store, tmp_path)
    assert torch.load(tmp_path / "clip.pt", weights_only=True)["step"] == 2
    parts = clip.train_clip(RECIPE, world, scenes, store, tmp_path).state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    start = clip.build_clip(RECIPE, clip.make_tokenizer(world)).state_dict()
    assert not torch.equal(start["logit_scale"], parts["logit_scale"])


def test_the_scale_of_the_logits_is_limited(world):
    model = clip.build_clip(RECIPE, clip.make_tokenizer(world))
    model.logit_scale.data.fill_(9.0)
    clip.limit_scale(model)
    assert float(model.logit_scale.detach().exp()) == pytest.approx(100)


def test_saved_folder_loads_through_transformers(world, tmp_path):
    from transformers import AutoProcessor, CLIPModel

    model = clip.build_clip(RECIPE, clip.make_tokenizer(world)).eval()
    clip.save_clip(model, world, tmp_path)
    loaded = CLIPModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    texts = ["a cat on the grass", "some bread, a dog"]
    batch = processor(text=texts, images=[image], return_tensors="pt", padding=True)
    assert batch["pixel_values"].shape == (1, 3, SIZE, SIZE)
    torch.testing.assert_close(batch["pixel_values"], clip.to_input(image[None]))
    with torch.no_grad():
        theirs = loaded(**batch).logits_per_image
    ours = clip.similarities(
        model, clip.to_input(image[None]), clip.tokenize(clip.make_tokenizer(world), texts)
    )
    torch.testing.assert_close(theirs / model.logit_scale.exp(), ours, atol=1e-2, rtol=0)


@pytest.mark.parametrize("kept", [0.0, 5.0])
def test_patches_are_held_to_what_they_told(kept, world, scenes, store, tmp_path):
    recipe = replace(RECIPE, kept=kept)
    clip.train_clip(recipe, world, scenes, store, tmp_path)
    seen = torch.load(tmp_path / "clip_seeing.pt", weights_only=True)["model"]
    after = torch.load(tmp_path / "clip.pt", weights_only=True)["model"]
    name = "1.1.bias"  # of the last head; no decay moves it
    assert torch.equal(seen[f"heads.{name}"], after[f"1.{name}"]) is (kept == 0)
    tower = "embeddings.patch_embedding.weight"
    assert not torch.equal(seen[f"tower.{tower}"], after[f"0.vision_model.{tower}"])


def test_without_an_encoder_a_clip_learns_from_pairs_alone(world, scenes, tmp_path):
    clip.train_clip(RECIPE, world, scenes, None, tmp_path, "control")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["control.csv", "control.pt"]


def test_towers_are_probed_square_by_square(world, scenes):
    rng = np.random.default_rng(2)
    squares = rng.integers(0, 3, (8, 7, 7)).repeat(2, axis=1).repeat(2, axis=2).reshape(8, 196)
    marked = replace(scenes, patch_concepts=squares.astype(np.int8))
    told = torch.nn.functional.one_hot(torch.from_numpy(squares)).float()
    one_a_square = told.view(8, 7, 2, 7, 2, 3)[:, :, 0, :, 0].reshape(8, 49, 3)
    assert probe_features(one_a_square, marked)["patch"] == 1.0
    assert probe_features(told, marked) == probe_features(one_a_square, marked)

    tower = clip.build_clip(RECIPE, clip.make_tokenizer(world)).vision_model.eval()
    table = clip.tower_table({"fresh": tower}, marked)
    states = tower(pixel_values=clip.to_input(scenes.images), output_hidden_states=True)
    expected = probe_features(states.hidden_states[-2][:, 1:].detach(), marked)
    [row] = table.to_dict("records")
    assert row.pop("tower") == "fresh"
    assert row == pytest.approx(expected, abs=0.02)
