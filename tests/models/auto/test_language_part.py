"""Padding, positions, and who sees whom: as in the models' own forward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmn_utils.models.auto.inputs import _squares
from mmn_utils.models.auto.sums import accepted
from tests.models.auto.families import system, untouched, wide_gemma3
from tests.tiny import END, tiny_images


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "gemma3", "paligemma", "qwen2_vl"])
def test_padding_in_front_of_a_caption_is_not_seen(family):
    """Behind a caption causality hides it; in front only the mask does."""
    model = wide_gemma3() if family == "gemma3" else system(family)
    prompt = model.prompt(tiny_images(2))
    ids, mask = torch.tensor([[5, 9], [7, 11]]), torch.tensor([[0, 1], [1, 1]])
    padded = prompt.extend(model.embed(ids), mask)
    alone = prompt.select([0]).extend(model.embed(ids[:1, 1:]))
    expected = model.forward(alone)[0]
    torch.testing.assert_close(model.forward(padded)[0][:1], expected, atol=2e-5, rtol=1e-4)
    _, past = model.forward(prompt, use_cache=True)
    cached, _ = model.forward(padded.tail(2), past=past, use_cache=True)
    torch.testing.assert_close(cached[:1], expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_padding_that_would_take_room_in_a_window_is_refused():
    """transformers counts padding as places of the window: its logits would be others."""
    model = system("gemma3")
    prompt, two = model.prompt(tiny_images(2)), torch.zeros(2, 2, 32)
    assert model.language_model.window == 8
    with pytest.raises(ValueError, match=r"window of 8 with padding; pad behind the end"):
        model.forward(prompt.extend(two, torch.tensor([[0, 1], [1, 1]])))
    _, past = model.forward(prompt, use_cache=True)
    gap = prompt.extend(two, torch.tensor([[0, 1], [1, 1]])).tail(2)
    with pytest.raises(ValueError, match="padding stands before real tokens"):
        model.forward(gap, past=past, use_cache=True)
    model.forward(prompt.extend(two, torch.tensor([[1, 0], [1, 1]])))  # behind the end: no harm
    assert system("llava").language_model.window is None
    assert system("onevision").language_model.window is None


# --- positions and who sees whom --------------------------------------------------------


@torch.no_grad()
def test_positions_are_those_of_multimodal_rope():
    model, images = system("qwen2_vl"), tiny_images(2)
    inputs = model.reader(images)
    own, shift = model.language_model.whole.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
    )
    prompt = model.prompt(images)
    mine = model.language_model._own_positions(prompt.positions)
    assert torch.equal(mine, own)
    assert shift.unique().tolist() == [4 - 16]  # 16 tokens move on by the grid's side
    longer = prompt.extend(torch.zeros(2, 3, 32), torch.tensor([[1, 1, 1], [0, 1, 1]]))
    later = model.language_model._own_positions(longer.positions)[0, :, -3:]
    last = int(own[0, 0, -1])
    assert later.tolist() == [[last + 1, last + 2, last + 3], [last, last + 1, last + 2]]


@torch.no_grad()
def test_positions_that_count_from_one_are_kept():
    model = system("paligemma")
    places = model.language_model._own_positions(torch.arange(30)[None])
    assert places.tolist() == [list(range(1, 31))]
    assert system("llava").language_model.table is None or torch.equal(
        system("llava").language_model._own_positions(torch.arange(30)[None])[0], torch.arange(30)
    )


def seen_by_first(model, change: int, caption: int = 0) -> float:
    """Measure how far a change of one token moves the logits at the first image token."""
    prompt = model.prompt(tiny_images(1))
    if caption:
        prompt = prompt.extend(torch.zeros(1, caption, 32))
    moved = prompt.embeds.clone()
    moved[0, change] += 1.0
    other = replace(prompt, embeds=moved)
    first = model.image_tokens.start
    one, two = (model.forward(p, last_only=False)[0][0, first] for p in (prompt, other))
    return float((one - two).abs().max())


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "picture", "prompt"),
    [("llava", False, False), ("gemma3", True, False), ("paligemma", True, True)],
)
def test_who_sees_whom(family, picture, prompt):
    """LLaVA sees backwards only, Gemma 3 within the picture, PaliGemma within the prompt."""
    model = system(family)
    last_image = model.image_tokens.start + model.image_tokens.count - 1
    assert (seen_by_first(model, last_image) > 1e-4) == picture
    assert (seen_by_first(model, -1) > 1e-4) == prompt
    assert seen_by_first(model, -1, caption=2) == 0  # never into the caption


@torch.no_grad()
def test_a_caption_is_causal_behind_a_prompt_that_is_not():
    """PaliGemma's own forward, told by token types where the caption begins."""
    model, images = system("paligemma"), tiny_images(1)
    inputs, more = model.reader(images), torch.tensor([[7, 9, 11]])
    own = untouched("paligemma")(
        input_ids=torch.cat([inputs["input_ids"], more], dim=1),
        pixel_values=inputs["pixel_values"],
        token_type_ids=torch.cat([inputs["token_type_ids"], torch.ones_like(more)], dim=1),
    ).logits
    mine, _ = model.forward(model.prompt(images).extend(model.embed(more)), last_only=False)
    torch.testing.assert_close(mine, own, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_text_of_another_length_is_a_prompt_too():
    whole, model, images = untouched("paligemma"), system("paligemma"), tiny_images(1)
    text = "A picture of two horses near a red barn and a dog and a cat on the grass."
    inputs = model.reader.processor(
        text=[f"<image>{text}"], images=_squares(images, 32), return_tensors="pt"
    )
    own = whole(**accepted(whole.forward, inputs)).logits
    prompt = model.prompt(images, f"{END}{text}\n")  # as PaliGemma's processor writes it
    assert prompt.given == own.shape[1]
    assert prompt.given != model.language_model.given
    torch.testing.assert_close(model.forward(prompt, last_only=False)[0], own, atol=2e-5, rtol=1e-4)


def test_prompts_remember_what_was_given():
    prompt = system("paligemma").prompt(tiny_images(2))
    longer = prompt.extend(torch.zeros(2, 2, 32))
    for part in (longer, longer.tail(1), longer.repeat(3), longer.select([1])):
        assert part.given == prompt.given
    assert longer.embeds.shape[1] == prompt.given + 2
