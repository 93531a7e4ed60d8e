"""The decoder against transformers' LLaMA and its formulas, with cache and padding."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmn_utils.models.mplug_owl2.decoder import (
    MultiwayNetwork,
    Split,
    rotary_embedding,
    visible_keys,
)
from mmn_utils.models.mplug_owl2.network import MplugOwl2ForCausalLM
from tests.models.mplug_owl2.tiny import CONFIG, FULL_HEADS, SPAN, as_llama, embeddings, network
from tests.tiny import tiny_images

BY_MODALITY = ("k_proj", "v_proj", "input_layernorm", "post_attention_layernorm")


def with_equal_branches(model: MplugOwl2ForCausalLM) -> MplugOwl2ForCausalLM:
    state = model.state_dict()
    text = {name: state[name.replace(".multiway.1", ".multiway.0")] for name in state}
    model.load_state_dict({name: tensor.clone() for name, tensor in text.items()})
    return model


@pytest.mark.parametrize("config", [CONFIG, FULL_HEADS], ids=["grouped", "full"])
def test_text_alone_is_llama_to_the_bit(config):
    ours = network(config)
    llama = as_llama(ours)
    embeds = embeddings()
    found, expected = ours(embeds, use_cache=True), llama(inputs_embeds=embeds, use_cache=True)
    assert torch.equal(found.logits, expected.logits)
    step = embeddings(tokens=1, seed=6)
    pairs = ((ours, found.past_key_values), (llama, expected.past_key_values))
    found, expected = (
        f(inputs_embeds=step, past_key_values=past, use_cache=True) for f, past in pairs
    )
    assert torch.equal(found.logits, expected.logits)
    assert found.past_key_values.get_seq_length() == 15


def test_equal_branches_are_llama_and_other_ones_are_not():
    embeds = embeddings()
    ours = network()
    expected = as_llama(ours)(inputs_embeds=embeds).logits
    ours.image_span = SPAN
    different = ours(embeds).logits
    assert torch.equal(different[:, : SPAN[0]], expected[:, : SPAN[0]])  # nothing looks ahead
    assert ((different - expected)[:, SPAN[0] :].abs().amax(-1) > 0.1).all()
    found = with_equal_branches(ours)(embeds).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", BY_MODALITY)
def test_each_part_with_an_image_branch_matters(part):
    ours = with_equal_branches(network())
    ours.image_span = SPAN
    before = ours(embeddings()).logits
    for name, parameter in ours.named_parameters():
        if f"{part}.multiway.1" in name:
            parameter.mul_(1.5)
    after = ours(embeddings()).logits
    assert torch.equal(before[:, : SPAN[0]], after[:, : SPAN[0]])
    assert ((before - after)[:, -1].abs().amax(-1) > 1e-3).all()


def reference_decoder(ours: MplugOwl2ForCausalLM, embeds: torch.Tensor) -> torch.Tensor:
    """The decoder line by line in float64: both branches for all tokens, then the right one."""
    w = {name: tensor.double() for name, tensor in ours.state_dict().items()}
    tokens, eps, size = embeds.shape[1], CONFIG.rms_norm_eps, CONFIG.head_size
    image = torch.tensor([SPAN[0] <= place < SPAN[1] for place in range(tokens)])[:, None]
    ahead = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    angle = torch.arange(tokens)[:, None] / 10000 ** (torch.arange(0, size, 2).double() / size)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]

    def linear(x, weight):
        return x @ weight.T

    def rms(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight

    def either(function, x, name):
        text, picture = (function(x, w[f"{name}.multiway.{branch}.weight"]) for branch in (0, 1))
        return torch.where(image, picture, text)

    def turn(x):
        first, second = x[..., : size // 2], x[..., size // 2 :]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    x = embeds.double()
    for layer in range(CONFIG.num_hidden_layers):
        at = f"model.layers.{layer}"
        y = either(rms, x, f"{at}.input_layernorm")
        q = turn(linear(y, w[f"{at}.self_attn.q_proj.weight"]).unflatten(-1, (4, size)))
        k, v = (
            either(linear, y, f"{at}.self_attn.{part}").unflatten(-1, (2, size))
            for part in ("k_proj", "v_proj")
        )
        k, v = turn(k).repeat_interleave(2, dim=2), v.repeat_interleave(2, dim=2)
        scores = torch.einsum("bthe,bshe->bhts", q, k) / math.sqrt(size)
        shares = scores.masked_fill(ahead, -torch.inf).softmax(-1)
        mixed = torch.einsum("bhts,bshe->bthe", shares, v).flatten(2)
        x = x + linear(mixed, w[f"{at}.self_attn.o_proj.weight"])
        y = either(rms, x, f"{at}.post_attention_layernorm")
        gate, up = (linear(y, w[f"{at}.mlp.{part}_proj.weight"]) for part in ("gate", "up"))
        x = x + linear(gate * gate.sigmoid() * up, w[f"{at}.mlp.down_proj.weight"])
    return linear(rms(x, w["model.norm.weight"]), w["lm_head.weight"])


def test_the_decoder_line_by_line():
    ours = network()
    ours.image_span = SPAN
    expected = reference_decoder(ours, embeddings()).float()
    torch.testing.assert_close(ours(embeddings()).logits, expected, atol=5e-5, rtol=5e-5)


@settings(max_examples=25)
@given(image=st.lists(st.booleans(), min_size=6, max_size=6), seed=st.integers(0, 99))
def test_each_token_goes_through_its_own_module_alone(image, seed):
    torch.manual_seed(seed)
    branches = (nn.Linear(4, 7), nn.Linear(4, 7))
    both = MultiwayNetwork(*branches)
    rows = [0, 0]
    for index, branch in enumerate(branches):

        def count(_module, inputs, _output, index=index):
            rows[index] += inputs[0].flatten(0, -2).shape[0]

        branch.register_forward_hook(count)
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    mask = torch.tensor(image).view(2, 3)
    found = both(hidden, Split.of(mask))
    assert rows == [image.count(False), image.count(True)]
    text, picture = (branch(hidden) for branch in branches)
    expected = torch.where(mask[..., None], picture, text)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    weight = torch.randn_like(found)
    gradients = [
        torch.autograd.grad((x * weight).sum(), hidden, retain_graph=True)[0]
        for x in (found, expected)
    ]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


# --- cache and padding ------------------------------------------------------------------


def test_steps_behind_a_cache_compute_no_image_branch(model):
    prompt = model.prompt(tiny_images(1))
    calls = []
    parts = model.language_model.named_modules()
    handles = [
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, part in parts
        if name.endswith("multiway.1")
    ]
    _, past = model.forward(prompt, use_cache=True)
    assert len(calls) == 4 * CONFIG.num_hidden_layers
    calls.clear()
    model.forward(prompt.extend(model.embed(torch.tensor([[7]]))).tail(1), past=past)
    for handle in handles:
        handle.remove()
    assert calls == []


@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, 13), max_size=5))
def test_steps_of_any_length_behind_a_cache_are_one_pass(cuts):
    """Also where a step begins or ends within the picture."""
    ours = network()
    ours.image_span = SPAN
    embeds = embeddings()
    whole = ours(embeds)
    assert whole.past_key_values is None
    past, logits = None, []
    edges = [0, *sorted(cuts), 14]
    for first, end in pairwise(edges):
        out = ours(embeds[:, first:end], past_key_values=past, use_cache=True)
        past = out.past_key_values
        logits.append(out.logits)
    assert past.get_seq_length() == 14
    torch.testing.assert_close(torch.cat(logits, dim=1), whole.logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_with_padding_are_single_rows(model):
    prompt = model.prompt(tiny_images(2))
    ids = torch.tensor([[5, 9], [7, 11]])
    for mask in ([[1, 0], [1, 1]], [[0, 0], [1, 1]], [[0, 1], [1, 1]]):
        padded = prompt.extend(model.embed(ids), torch.tensor(mask))
        found, past = model.forward(padded, use_cache=True)
        longer = padded.extend(model.embed(torch.tensor([[3], [4]])))
        step, _ = model.forward(longer.tail(1), past=past)
        for row in range(2):
            kept = ids[row : row + 1, torch.tensor(mask[row]) == 1]
            one = prompt.select([row]).extend(model.embed(kept))
            alone, past_alone = model.forward(one, use_cache=True)
            torch.testing.assert_close(found[row], alone[0], atol=1e-5, rtol=1e-5)
            one = one.extend(model.embed(torch.tensor([[3 + row]])))
            alone, _ = model.forward(one.tail(1), past=past_alone)
            torch.testing.assert_close(step[row], alone[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_in_front_moves_the_picture_and_leaves_no_nan(model):
    prompt = model.prompt(tiny_images(1))
    alone, _ = model.forward(prompt, last_only=False)
    front = torch.cat([torch.full_like(prompt.embeds[:, :2], 9.0), prompt.embeds], dim=1)
    mask = torch.tensor([[0, 0] + [1] * prompt.embeds.shape[1]])
    found, _ = model.forward(type(prompt).of(front, mask), last_only=False)
    torch.testing.assert_close(found[:, 2:], alone, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(found).all()


def test_which_keys_a_token_sees():
    cpu = torch.device("cpu")
    whole = torch.ones(2, 4, dtype=torch.long)
    assert visible_keys(None, 0, 4, cpu) is None
    assert visible_keys(whole, 0, 4, cpu) is None  # plain causality
    assert visible_keys(whole, 3, 1, cpu) is None  # everything
    assert visible_keys(whole, 2, 2, cpu)[0, 0].long().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    padded = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    first, second = visible_keys(padded, 0, 4, cpu)[:, 0].long().tolist()
    # Padding sees itself: an attention to nothing has no value.
    assert first == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert second == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert visible_keys(padded, 3, 1, cpu)[:, 0].long().tolist() == [[[0, 1, 1, 1]], [[1] * 4]]


def test_logits_are_kept_where_asked():
    ours = network()
    every = ours(embeddings()).logits
    torch.testing.assert_close(ours(embeddings(), logits_to_keep=2).logits, every[:, -2:])
    places = torch.tensor([1, 4])
    torch.testing.assert_close(ours(embeddings(), logits_to_keep=places).logits, every[:, places])
    each = torch.tensor([[3], [5]])
    found = ours(embeddings(), logits_to_keep=each).logits
    torch.testing.assert_close(found[:, 0], torch.stack([every[0, 3], every[1, 5]]))


def test_no_cast_rounds_rotary_embeddings():
    """A model in half precision has no frequencies to round."""
    half = network().bfloat16()
    assert list(half.buffers()) == []
    positions = torch.arange(90)[None]
    cos, sin = rotary_embedding(positions, half.config, torch.float32)
    size = half.config.head_size
    angle = positions[0, :, None] / 10000 ** (torch.arange(0, size, 2).double() / size)
    torch.testing.assert_close(cos[0, :, : size // 2].double(), angle.cos(), atol=1e-5, rtol=0)
    torch.testing.assert_close(sin[0, :, size // 2 :].double(), angle.sin(), atol=1e-5, rtol=0)
