"""What the chat systems begin as: CLIP's tower and LLaMA, as far as their classes hold them."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.miniature import instructblip, mplug_owl2
from mmn_utils.miniature.chat import TEMPLATES
from mmn_utils.miniature.vision.encoder import to_input
from tests.miniature.chat.trained import OPTIONS, trainer, vision_of


@torch.no_grad()
def test_mplug_owl2s_tower_begins_as_clips(data, scenes, world):
    whole, _ = trainer("mplug_owl2", data, scenes, world)
    clip, pixels = vision_of(data), to_input(scenes.images[:2])
    expected = clip.post_layernorm(clip(pixel_values=pixels).last_hidden_state)
    found = whole.model.vision_model(pixels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_mplug_owl2_begins_as_its_language_model_for_both_modalities(data, scenes, world, parts):
    whole, _ = trainer("mplug_owl2", data, scenes, world)
    embeds = torch.randn(2, 12, 32, generator=torch.manual_seed(1))
    expected = parts[0](inputs_embeds=embeds).logits
    start = len(TEMPLATES["mplug_owl2"].ids(parts[1])[0])
    assert whole.image_span == (start, start + 4)
    torch.testing.assert_close(whole(embeds).logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_instructblips_tower_begins_as_clips(data, scenes, world):
    """Exactly, where CLIP's first norm divides every patch of the pictures by the same."""
    whole, _ = trainer("instructblip", data, scenes, world)
    clip, pixels = vision_of(data), to_input(scenes.images)
    theirs = clip.embeddings(pixels)
    spread = (theirs.var(-1, correction=0) + clip.pre_layrnorm.eps).sqrt()
    bias = clip.pre_layrnorm.bias
    expected = (clip.pre_layrnorm(theirs) - bias) * spread[..., None]  # centred and scaled only
    ours = whole.vision_model.embeddings(pixels) - bias
    # CLS and places are divided by the mean of their own spread, patches by that of all.
    places = clip.embeddings.position_embedding.weight[1:]
    places = (places - places.mean(-1, keepdim=True)) * clip.pre_layrnorm.weight
    means = spread.mean(0)
    torch.testing.assert_close(ours[:, 0], expected[:, 0] / means[0])
    pixels_alone = expected[:, 1:] - places
    torch.testing.assert_close(
        ours[:, 1:], pixels_alone / means[1:].mean() + places / means[1:, None]
    )
    states = torch.randn(2, 5, clip.config.hidden_size)
    for ours, theirs in zip(whole.vision_model.encoder.layers, clip.encoder.layers, strict=True):
        torch.testing.assert_close(ours(states), theirs(states, None))


def test_queries_begin_unlike(data, scenes, world):
    _, ours = trainer("instructblip", data, scenes, world)
    with torch.no_grad():
        read = ours.queries(to_input(scenes.images[:2]), ours.instruction)
    assert float((read[:, 0] - read[:, 1]).abs().mean()) > 0.1
    assert float((read[0] - read[1]).abs().mean()) > 1e-4


def test_parts_that_do_not_fit_are_refused(data, parts, monkeypatch):
    monkeypatch.setattr(mplug_owl2, "tower_weights", lambda vision: {"odd": torch.ones(1)})
    with pytest.raises(ValueError, match=r"CLIP and LLaMA do not fit: .*model\.vision_model\.odd"):
        mplug_owl2.join(vision_of(data), *parts, OPTIONS["mplug_owl2"])


def test_the_qformers_tokenizer_knows_instruction_and_world(world):
    words = instructblip.qformer_tokenizer(world)
    texts = ["Describe the image in few words. An image of", "a dog and a cat on the grass"]
    for ids in words(texts)["input_ids"]:
        assert words.unk_token_id not in ids
        assert (ids[0], ids[-1]) == (words.bos_token_id, words.eos_token_id)
    longer = words("fewer swords")["input_ids"]
    assert longer[1:-1] == [words.unk_token_id] * 2
