"""What the decoder gets besides embeddings, and pictures that enter by cross-attention."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.models.auto.flow import Extra, regrouped
from mmn_utils.models.capture import capture
from mmn_utils.studies.concepts.regions import shuffled
from tests.models.auto.families.checks import own_logits, sweep_cuts_the_cache
from tests.models.auto.families.table import made, system_of
from tests.tiny import tiny_images

BESIDE = {
    "qwen3_vl": ["deepstack_visual_embeds.0", "visual_pos_masks"],
    "mllama": ["cross_attention_mask", "cross_attention_states", "full_text_row_masked_out_mask"],
}


@torch.no_grad()
@pytest.mark.parametrize("name", list(BESIDE))
def test_extras_follow_the_rows_of_a_prompt(name):
    model, images = system_of(name), tiny_images(3)
    prompt = model.prompt(images)
    assert sorted(prompt.extras) == BESIDE[name]
    alone = model.forward(model.prompt([images[2]]))[0]
    for some in (prompt.select([2]), prompt.repeat(2).select([5]), prompt.select([2]).to("cpu")):
        torch.testing.assert_close(model.forward(some)[0], alone, atol=2e-5, rtol=1e-4)
    joined = prompt.select([0]).join([prompt.select([2])])
    torch.testing.assert_close(model.forward(joined)[0][1:], alone, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="a prompt with nothing besides embeddings"):
        model.language_model(inputs_embeds=prompt.embeds)


@torch.no_grad()
@pytest.mark.parametrize("name", list(BESIDE))
def test_another_text_of_another_length(name):
    model, images = system_of(name), tiny_images(1)
    whole, longer = made(name)[0], model.prefix + " a horse near the boat"
    inputs = model.reader(images)
    end = model.image_tokens.start + model.image_tokens.count
    ids = model.tokenizer.encode(longer, add_special_tokens=False)
    inputs["input_ids"] = torch.cat([inputs["input_ids"][:, :end], torch.tensor([ids])], dim=1)
    more = inputs["input_ids"].shape[1]
    for key in set(inputs) & {"attention_mask", "mm_token_type_ids", "cross_attention_mask"}:
        last = inputs[key][:, -1:].expand(-1, more, *inputs[key].shape[2:])
        inputs[key] = torch.cat([inputs[key], last], dim=1)[:, :more]
    mine = model.forward(model.prompt(images, longer), last_only=False)[0]
    torch.testing.assert_close(mine, whole(**inputs).logits, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", list(BESIDE))
def test_sweeps_cut_the_cache_and_keep_the_picture(name):
    sweep_cuts_the_cache(system_of(name), 1)


def test_cross_attention_has_no_heat_map():
    model = system_of("mllama")
    with pytest.raises(ValueError, match="by cross-attention, not as tokens of the prompt"):
        model.require_grid()
    assert model.image_tokens.count == 1
    assert model.language_model.paths.crossing == (1,)


@torch.no_grad()
def test_units_are_silent_where_the_picture_is_not_seen():
    """The beginning of the text stands before the picture: its crossing MLP is left out."""
    model = system_of("mllama")
    with capture(model, layers=[1]) as seen:
        model.forward(model.prompt(tiny_images(1)))
    start = model.image_tokens.start
    assert start > 0
    assert (seen.values[1][0, :start] == 0).all()
    assert (seen.values[1][0, start:] != 0).any(-1).all()


@torch.no_grad()
def test_a_shuffle_takes_the_deeper_features_along():
    model, images = system_of("qwen3_vl"), tiny_images(2)
    prompt, count = model.prompt(images), model.image_tokens.count
    orders = torch.stack([torch.arange(count).roll(1), torch.arange(count).flip(0)])
    moved, _ = shuffled(model, prompt, orders)
    deep = "deepstack_visual_embeds.0"
    assert torch.equal(moved.extras[deep][0, 0], prompt.extras[deep][0, -1])
    assert torch.equal(moved.extras["visual_pos_masks"], prompt.extras["visual_pos_masks"])


def test_an_extra_is_cut_grouped_and_handed_back():
    states, rows = torch.arange(24.0).view(6, 4), torch.arange(10).view(2, 5)
    grouped = Extra(3, None).by_row(states, end=2)
    assert grouped.shape == (2, 3, 4)
    assert torch.equal(Extra(3, None).handed(grouped, 0, 9), states)
    assert Extra(3, None).handed(grouped, 4, 1) is None
    cut = Extra(1, 1).by_row(rows, end=2)
    assert cut.tolist() == [[0, 1, 2], [5, 6, 7]]
    assert Extra(1, 1).handed(cut, 1, 4).tolist() == [[1, 2, 2, 2], [6, 7, 7, 7]]
    assert list(regrouped({"a.0": states, "a.1": rows, "b": rows})) == ["a", "b"]


@torch.no_grad()
def test_the_picture_matters_where_it_crosses():
    whole, model = made("mllama")[0], system_of("mllama")
    own = own_logits(model, whole, tiny_images(2))
    assert (own[0, -1] - own[1, -1]).abs().max() > 1e-3
