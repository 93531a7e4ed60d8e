"""mPLUG-Owl2: its own modules against independent references, its facts, and its files.

References are transformers' LLaMA and CLIP, and formulas written out below.
"""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace as changed
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.models import mplug_owl2 as module
from mmn_utils.models.base import ImageTokens, Sizes, state_hash
from mmn_utils.models.doctor import CHECKS, doctor
from mmn_utils.models.hub import MissingParts
from mmn_utils.models.mplug_owl2 import (
    MplugOwl2Config,
    MplugOwl2Facts,
    MplugOwl2ForCausalLM,
    build_mplug_owl2,
    load_mplug_owl2,
    load_weights,
    save_mplug_owl2,
    text_weights,
)
from mmn_utils.models.mplug_owl2_modules import (
    AbstractorConfig,
    MultiwayNetwork,
    Split,
    VisionConfig,
    VisualAbstractor,
    grid_embedding,
    line_embedding,
    rotary_embedding,
    visible_keys,
)
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from tests.tiny import PADDING, tiny_images, tiny_tokenizer

VISION = VisionConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    image_size=28,
    patch_size=7,
)
ABSTRACTOR = AbstractorConfig(
    num_learnable_queries=5,
    hidden_size=24,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
)
CONFIG = MplugOwl2Config(
    vocab_size=len(tiny_tokenizer()) + PADDING,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=96,
    rms_norm_eps=2e-5,
    vision=VISION,
    abstractor=ABSTRACTOR,
)
FULL_HEADS = changed(CONFIG, num_key_value_heads=4)
SPAN = (3, 9)
BY_MODALITY = ("k_proj", "v_proj", "input_layernorm", "post_attention_layernorm")


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter random values, norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name or "ffn_ln" in name
            parameter.copy_(0.25 * noise + float(is_norm and name.endswith("weight")))
    return network.eval()


@lru_cache(maxsize=4)
def _network(config: MplugOwl2Config, seed: int) -> MplugOwl2ForCausalLM:
    return lively(MplugOwl2ForCausalLM(config), seed).requires_grad_(False)


def network(config: MplugOwl2Config = CONFIG, seed: int = 0) -> MplugOwl2ForCausalLM:
    return copy.deepcopy(_network(config, seed))


def tiny(seed: int = 0, config: MplugOwl2Config = CONFIG, **facts):
    facts = {"before": "The horse", "prefix": " A picture of", **facts}
    facts = MplugOwl2Facts(name="tiny", vocabulary=len(tiny_tokenizer()), **facts)
    return build_mplug_owl2(facts, network(config, seed), tiny_tokenizer())


def as_llama(model: MplugOwl2ForCausalLM) -> LlamaForCausalLM:
    """Build transformers' LLaMA with the weights for text."""
    config = model.config
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=False,
        )
    )
    state = {}
    for name, tensor in model.state_dict().items():
        if "vision_model" not in name and "abstractor" not in name and ".multiway.1" not in name:
            state[name.replace(".multiway.0", "")] = tensor
    llama.load_state_dict(state)
    return llama.eval().requires_grad_(False)


def with_equal_branches(model: MplugOwl2ForCausalLM) -> MplugOwl2ForCausalLM:
    state = model.state_dict()
    text = {name: state[name.replace(".multiway.1", ".multiway.0")] for name in state}
    model.load_state_dict({name: tensor.clone() for name, tensor in text.items()})
    return model


def embeddings(rows: int = 2, tokens: int = 14, seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, tokens, CONFIG.hidden_size, generator=generator)


@pytest.fixture(scope="module")
def model():
    return tiny()


# --- the contract -----------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, FULL_HEADS], ids=["grouped", "full"])
def test_the_doctor_passes(config):
    report = doctor(tiny(config=config), tiny_images(3))
    assert report["check"].tolist() == list(CHECKS)
    assert report["passed"].all(), report.to_string()


def test_the_doctor_passes_half_precision():
    report = doctor(tiny().twin(torch.bfloat16), tiny_images(2), ["own forward", "completeness"])
    assert report["passed"].all(), report.to_string()


def test_sizes_and_image_tokens(model):
    start = len(tiny_tokenizer().encode("The horse")) + 1
    assert model.sizes == Sizes(layers=3, units=48, width=32, vocabulary=len(tiny_tokenizer()))
    assert model.image_tokens == ImageTokens(start=start, count=6, grid=None, pixels=28)
    assert model.language_model.image_span == (start, start + 6)
    model.require_editable()
    with pytest.raises(ValueError, match="6 image tokens of tiny have no place in the picture"):
        model.require_grid()


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer that cuts the template's text as LLaMA's does."""
    pieces = "<unk> <s> </s> ▁US ER : ▁ ▁Desc ribe ▁the ▁image ▁in ▁few ▁words . ▁A SS IST ANT"
    pieces = [*pieces.split(), "▁An", "▁of", "▁a", "a"]
    unigram = models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0)
    tokenizer = Tokenizer(unigram)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@torch.no_grad()
def test_the_published_prompt_has_its_image_tokens_at_5_to_69():
    abstractor = changed(ABSTRACTOR, num_learnable_queries=64)
    system = build_mplug_owl2(
        MplugOwl2Facts(), network(changed(CONFIG, abstractor=abstractor)), llama_tokenizer()
    )
    assert system.image_tokens == ImageTokens(start=5, count=65, grid=None, pixels=28)
    prompt = system.prompt(tiny_images(2))
    assert prompt.embeds.shape == (2, 86, 32)
    words = system.tokenizer.convert_ids_to_tokens
    table = system.language_model.model.embed_tokens.weight
    ids = [int((table == row).all(1).nonzero()[0, 0]) for row in prompt.embeds[1, :5]]
    assert words(ids) == ["<s>", "▁US", "ER", ":", "▁"]
    ids = [int((table == row).all(1).nonzero()[0, 0]) for row in prompt.embeds[1, 70:]]
    assert "".join(words(ids)).replace("▁", " ") == (
        " Describe the image in few words. ASSISTANT: An image of"
    )
    assert torch.equal(prompt.embeds[:, 5:70], system.soft_prompt(tiny_images(2)))
    assert system.prompt(tiny_images(2), "a").embeds.shape[1] == 71


@torch.no_grad()
def test_soft_prompt_is_projected_queries_and_a_learned_end(model):
    parts = model.language_model.model
    images = tiny_images(2)
    features, soft = model.image_features(images), model.soft_prompt(images)
    assert features.shape == (2, 5, 24)
    fc = parts.visual_abstractor.visual_fc
    torch.testing.assert_close(soft[:, :5], features @ fc.weight.T + fc.bias)
    assert torch.equal(soft[:, 5], parts.visual_abstractor.vit_eos[0].expand(2, -1))
    assert not torch.allclose(soft[0, :5], soft[1, :5])


def test_vision_computes_in_float32_beside_a_rounded_language_model():
    system = build_mplug_owl2(MplugOwl2Facts(bos=False), network().half(), tiny_tokenizer())
    assert system.dtype == system.soft_prompt(tiny_images(1)).dtype == torch.float16
    assert system.image_features(tiny_images(1)).dtype == torch.float32
    assert system.image_tokens.start == len(tiny_tokenizer().encode("USER: "))
    twin = tiny().twin(torch.bfloat16)
    assert torch.equal(
        twin.soft_prompt(tiny_images(1)), tiny().soft_prompt(tiny_images(1)).bfloat16()
    )


def test_a_template_with_a_beginning_needs_its_token():
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="no token for the beginning of text; set bos=False"):
        build_mplug_owl2(MplugOwl2Facts(), network(), tokenizer)


# --- pictures ---------------------------------------------------------------------------


def clip_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, resample=3
    )


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sides = [(50, 31), (31, 50), (20, 20), (28, 28), (97, 30)]
    return [
        Image.fromarray(rng.integers(0, 256, (high, wide, 3), dtype=np.uint8))
        for wide, high in sides
    ]


def test_pictures_are_stretched_to_their_longer_side_first(model):
    squares = []
    for image in pictures():
        edge = max(image.size)
        squares.append(image.resize((edge, edge)))  # Pillow's default, as its authors call it
    expected = clip_processor()(squares, return_tensors="pt")["pixel_values"]
    found = model.preprocess(pictures())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_or_their_middle_is_cut_out():
    expected = clip_processor()(pictures(), return_tensors="pt")["pixel_values"]
    found = tiny(fit="crop").preprocess(pictures())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, tiny().preprocess(pictures()), atol=0.1)


def test_pictures_of_other_modes_and_bad_input(model):
    grey = Image.new("L", (9, 5), 128)
    rgba = Image.new("RGBA", (4, 4), (128, 128, 128, 255))
    flat = model.preprocess([grey, rgba])
    torch.testing.assert_close(flat[0], flat[1])
    with pytest.raises(ValueError, match="give a list of pictures"):
        model.preprocess(grey)
    with pytest.raises(ValueError, match="no pictures"):
        model.preprocess([])


# --- the vision tower -------------------------------------------------------------------


@torch.no_grad()
def test_vision_attention_is_interleaved_per_head():
    attention = network().model.vision_model.encoder["layers"][0].self_attn
    tokens = torch.randn(2, 5, 24)
    weight, bias = attention.query_key_value.weight, attention.query_key_value.bias
    heads = []
    for head in range(3):  # rows of a head: 8 of the query, 8 of the key, 8 of the value
        query, key, value = (
            tokens @ weight[first : first + 8].T + bias[first : first + 8]
            for first in (24 * head, 24 * head + 8, 24 * head + 16)
        )
        shares = (query @ key.transpose(1, 2) / math.sqrt(8)).softmax(-1)
        heads.append(shares @ value)
    expected = torch.cat(heads, dim=-1) @ attention.dense.weight.T + attention.dense.bias
    torch.testing.assert_close(attention(tokens), expected, atol=1e-5, rtol=1e-5)


def clip_vision(tower: nn.Module) -> CLIPVisionModel:
    """Build transformers' CLIP with the tower's weights, query, key and value taken apart."""
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=28,
            patch_size=7,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-6,
        )
    )
    renamed = {
        "embeddings.patch_embed.": "embeddings.patch_embedding.",
        "embeddings.pre_layernorm.": "pre_layrnorm.",
        "input_layernorm": "layer_norm1",
        "post_attention_layernorm": "layer_norm2",
        "self_attn.dense": "self_attn.out_proj",
    }
    state = {}
    for name, tensor in tower.state_dict().items():
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        if name == "embeddings.cls_token":
            state["embeddings.class_embedding"] = tensor[0, 0]
        elif name == "embeddings.position_embedding":
            state["embeddings.position_embedding.weight"] = tensor[0]
        elif "query_key_value" in name:
            for part, rows in zip("qkv", tensor.view(3, 3, 8, -1).transpose(0, 1), strict=True):
                theirs = name.replace("query_key_value", f"{part}_proj")
                state[theirs] = rows.reshape(24, *tensor.shape[1:])
        else:
            state[name] = tensor
    clip.load_state_dict(state)
    return clip.eval()


@torch.no_grad()
def test_the_vision_tower_is_clip_with_its_last_norm_on_all_tokens():
    tower = network().model.vision_model
    pixels = torch.randn(2, 3, 28, 28)
    last = clip_vision(tower)(pixels).last_hidden_state
    expected = nn.functional.layer_norm(
        last, (24,), tower.post_layernorm.weight, tower.post_layernorm.bias, 1e-6
    )
    assert expected.shape == (2, 17, 24)
    torch.testing.assert_close(tower(pixels), expected, atol=1e-5, rtol=1e-5)


# --- the visual abstractor --------------------------------------------------------------


def test_line_embedding_is_sines_then_cosines():
    found = line_embedding(64, 24)
    for place in (0, 1, 17, 63):
        for j in range(12):
            angle = place / 10000 ** (j / 12)
            assert float(found[place, j]) == pytest.approx(math.sin(angle), abs=1e-5)
            assert float(found[place, 12 + j]) == pytest.approx(math.cos(angle), abs=1e-5)


def test_grid_embedding_tells_the_column_then_the_row_and_nothing_for_cls():
    found = grid_embedding(4, 24)
    assert found.shape == (17, 24)
    assert not found[0].any()
    line = line_embedding(4, 12)
    for row in range(4):
        for column in range(4):
            patch = found[1 + 4 * row + column]
            assert torch.equal(patch[:12], line[column])
            assert torch.equal(patch[12:], line[row])


def reference_abstractor(abstractor: VisualAbstractor, vision: torch.Tensor) -> torch.Tensor:
    """The abstractor line by line from its tensors, in float64."""
    w = {name: tensor.double() for name, tensor in abstractor.state_dict().items()}
    vision = vision.double()

    def affine(x, name):
        return torch.einsum("bnd,ed->bne", x, w[f"{name}.weight"]) + w[f"{name}.bias"]

    def norm(x, name, eps):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(x):
        return x.reshape(*x.shape[:2], 4, 6)

    line = line_embedding(5, 24).double()
    places = torch.cat([line, grid_embedding(4, 24).double()])
    x = w["query_embeds"].repeat(len(vision), 1, 1)
    for layer in range(2):
        at = f"encoder.layers.{layer}.crossattention"
        normed = norm(x, f"{at}.norm1", 1e-5)
        kv = torch.cat([normed, norm(vision, f"{at}.normk", 1e-5)], dim=1)
        q = heads(affine(normed + line, f"{at}.attention.query"))
        k = heads(affine(kv + places, f"{at}.attention.key"))
        v = heads(affine(kv, f"{at}.attention.value"))
        shares = torch.einsum("bnhe,bmhe->bhnm", q, k).div(math.sqrt(6)).softmax(-1)
        mixed = torch.einsum("bhnm,bmhe->bnhe", shares, v).reshape(normed.shape)
        x = normed + affine(mixed, f"{at}.output.out_proj")
        y = norm(x, f"{at}.output.norm2", 1e-5)
        gate = affine(y, f"{at}.output.mlp.w1")
        hidden = gate / (1 + (-gate).exp()) * affine(y, f"{at}.output.mlp.w3")
        x = x + affine(norm(hidden, f"{at}.output.mlp.ffn_ln", 1e-6), f"{at}.output.mlp.w2")
    end = w["vit_eos"].repeat(len(vision), 1, 1)
    return torch.cat([affine(x, "visual_fc"), end], dim=1)


@settings(max_examples=3)
@given(seed=st.integers(0, 1000))
@torch.no_grad()
def test_the_abstractor_line_by_line(seed):
    abstractor = lively(VisualAbstractor(ABSTRACTOR, side=4, language_width=32), seed)
    vision = torch.randn(3, 17, 24, generator=torch.Generator().manual_seed(seed))
    found = abstractor(vision)
    assert found.shape == (3, 6, 32)
    expected = reference_abstractor(abstractor, vision).float()
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


# --- the language model -----------------------------------------------------------------


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


# --- with the analyses ------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["all", "image", "generated"])
def test_a_sweep_is_each_ablation_by_itself(model, positions):
    """Rows are repeated behind the prompt's cache, and targets cropped off it again."""
    prompt = model.prompt(tiny_images(1))
    caption = generate(model, prompt, 4)[0]
    neurons = [Neuron(layer, unit) for layer in range(3) for unit in range(20)]
    target = Target("a", "horse", caption.ids[2], caption.ids[:2])
    result = sweep(model, prompt, target, [[], neurons], 4, positions=positions)
    assert result.unablated == caption
    longer = prompt.extend(model.embed(torch.tensor([caption.ids[:2]])))
    ablation = Ablation(tuple(neurons), positions)
    with torch.no_grad(), ablate(model, ablation, prompt_length=prompt.embeds.shape[1]):
        logits, _ = model.forward(longer)
    expected = float(logits[0, caption.ids[2]])
    assert float(result.logit[1]) == pytest.approx(expected, abs=1e-4)
    assert abs(result.logit[1] - result.logit[0]) > 1e-3


# --- the full size ----------------------------------------------------------------------


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the published 7B model: name and shape."""
    shapes: dict[str, tuple[int, ...]] = {}

    def affine(name, outputs, inputs):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name, width):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    shapes["model.embed_tokens.weight"] = shapes["lm_head.weight"] = (32000, 4096)
    shapes["model.norm.weight"] = (4096,)
    for layer in range(32):
        at = f"model.layers.{layer}"
        for branch in (0, 1):
            for part in ("input_layernorm", "post_attention_layernorm"):
                shapes[f"{at}.{part}.multiway.{branch}.weight"] = (4096,)
            for part in ("k_proj", "v_proj"):
                shapes[f"{at}.self_attn.{part}.multiway.{branch}.weight"] = (4096, 4096)
        for part in ("q_proj", "o_proj"):
            shapes[f"{at}.self_attn.{part}.weight"] = (4096, 4096)
        for part in ("gate_proj", "up_proj"):
            shapes[f"{at}.mlp.{part}.weight"] = (11008, 4096)
        shapes[f"{at}.mlp.down_proj.weight"] = (4096, 11008)
    at = "model.vision_model"
    shapes[f"{at}.embeddings.cls_token"] = (1, 1, 1024)
    shapes[f"{at}.embeddings.patch_embed.weight"] = (1024, 3, 14, 14)
    shapes[f"{at}.embeddings.position_embedding"] = (1, 1025, 1024)
    norm(f"{at}.embeddings.pre_layernorm", 1024)
    norm(f"{at}.post_layernorm", 1024)
    for layer in range(24):
        at = f"model.vision_model.encoder.layers.{layer}"
        norm(f"{at}.input_layernorm", 1024)
        norm(f"{at}.post_attention_layernorm", 1024)
        affine(f"{at}.self_attn.query_key_value", 3072, 1024)
        affine(f"{at}.self_attn.dense", 1024, 1024)
        affine(f"{at}.mlp.fc1", 4096, 1024)
        affine(f"{at}.mlp.fc2", 1024, 4096)
    at = "model.visual_abstractor"
    shapes[f"{at}.query_embeds"], shapes[f"{at}.vit_eos"] = (1, 64, 1024), (1, 1, 4096)
    affine(f"{at}.visual_fc", 4096, 1024)
    for layer in range(6):
        at = f"model.visual_abstractor.encoder.layers.{layer}.crossattention"
        for part in ("query", "key", "value"):
            affine(f"{at}.attention.{part}", 1024, 1024)
        affine(f"{at}.output.out_proj", 1024, 1024)
        for part in ("norm1", "normk", "output.norm2"):
            norm(f"{at}.{part}", 1024)
        affine(f"{at}.output.mlp.w1", 2816, 1024)
        affine(f"{at}.output.mlp.w2", 1024, 2816)
        affine(f"{at}.output.mlp.w3", 2816, 1024)
        norm(f"{at}.output.mlp.ffn_ln", 2816)
    return shapes


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return MplugOwl2ForCausalLM(MplugOwl2Config())


def test_every_tensor_of_the_full_size_has_its_published_name_and_shape(full_size):
    found = {name: tuple(tensor.shape) for name, tensor in full_size.state_dict().items()}
    expected = published_shapes()
    assert len(expected) == 419 + 295 + 136  # language model, vision tower, abstractor
    assert found == expected
    # Known as a 7B model with 8.2 billion parameters, vision and second branches included.
    assert sum(p.numel() for p in full_size.parameters()) == 8_197_859_328
    decoder = sum(math.prod(shape) for name, shape in expected.items() if "vis" not in name)
    second = sum(math.prod(shape) for name, shape in expected.items() if ".multiway.1." in name)
    assert decoder - second == 6_738_415_616  # LLaMA-2 7B


def test_shapes_of_the_real_system(full_size):
    system = build_mplug_owl2(MplugOwl2Facts(), full_size, llama_tokenizer())
    assert system.sizes == Sizes(layers=32, units=11008, width=4096, vocabulary=32000)
    assert system.image_tokens == ImageTokens(start=5, count=65, grid=None, pixels=448)
    first = system.language_model.model.vision_model.encoder["layers"][0]
    assert first.input_layernorm.eps == 1e-6
    abstractor = system.language_model.model.visual_abstractor.encoder["layers"][0]
    assert abstractor["crossattention"].normk.eps == 1e-5
    assert abstractor["crossattention"].output.mlp.ffn_ln.eps == 1e-6


# --- configuration ----------------------------------------------------------------------


def hub_config(**more) -> dict:
    return {
        "architectures": ["MPLUGOwl2LlamaForCausalLM"],
        "model_type": "mplug_owl2",
        "hidden_act": "silu",
        "rms_norm_eps": 3e-5,
        "torch_dtype": "float16",
        "visual_config": {
            "visual_model": {"layer_norm_eps": 1e-6, "hidden_act": "quick_gelu"},
            "visual_abstractor": {"encoder_hidden_size": 1024, "grid_size": 32},
        },
        **more,
    }


def test_the_hubs_configuration_is_read():
    config = MplugOwl2Config.from_dict(hub_config(num_key_value_heads=8, rope_theta=5e5))
    expected = MplugOwl2Config(rms_norm_eps=3e-5, num_key_value_heads=8, rope_theta=5e5)
    assert config == expected
    assert MplugOwl2Config().num_key_value_heads == 32
    assert MplugOwl2Config.from_dict(hub_config(visual_config=None)).vision == VisionConfig()
    layers = {"visual_config": {"visual_model": {"num_hidden_layers": 3}}}
    assert MplugOwl2Config.from_dict(hub_config(**layers)).vision.num_hidden_layers == 3


def test_a_configuration_survives_its_file():
    assert MplugOwl2Config.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


def test_the_norms_epsilon_is_the_configurations():
    ours = network(changed(CONFIG, rms_norm_eps=0.5))
    norms = [part for part in ours.modules() if hasattr(part, "variance_epsilon")]
    assert len(norms) == 4 * 3 + 1
    assert {norm.variance_epsilon for norm in norms} == {0.5}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model_type": "mplug_owl2_1"}, "only 'mplug_owl2' is supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling=.*only None"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"visual_config": {"visual_model": {"hidden_act": "gelu"}}}, "only 'quick_gelu'"),
        ({"visual_config": {"visual_abstractor": {"grid_size": 16}}}, "grid_size=16.*only 32"),
        ({"visual_config": {"visual_abstractor": {"hidden_size": 512}}}, "hidden_size=512 must be"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size=4096"),
        ({"num_key_value_heads": 5}, "num_key_value_heads=5 does not divide num_attention_heads"),
    ],
)
def test_what_is_not_supported_is_refused(content, says):
    with pytest.raises(ValueError, match=says):
        MplugOwl2Config.from_dict(hub_config(**content))


def test_the_epsilon_must_be_given():
    content = hub_config()
    del content["rms_norm_eps"]
    with pytest.raises(ValueError, match="no rms_norm_eps; add that of the weights"):
        MplugOwl2Config.from_dict(content)


# --- files ------------------------------------------------------------------------------


def same_system(one, other) -> bool:
    return state_hash(one.language_model) == state_hash(other.language_model)


def test_a_saved_system_comes_back(tmp_path):
    system = tiny(seed=3, fit="crop")
    assert save_mplug_owl2(system, tmp_path / "owl") == tmp_path / "owl"
    loaded = load_mplug_owl2(tmp_path / "owl")
    assert same_system(loaded, system)
    assert changed(loaded.facts, revision=None) == system.facts
    assert loaded.language_model.config == CONFIG
    assert (loaded.image_tokens, loaded.sizes) == (system.image_tokens, system.sizes)
    images = tiny_images(2)
    expected = system.forward(system.prompt(images))[0]
    assert torch.equal(loaded.forward(loaded.prompt(images))[0], expected)
    assert load_mplug_owl2(tmp_path / "owl", fit="square").facts.fit == "square"
    half = load_mplug_owl2(tmp_path / "owl", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.image_features(images), system.image_features(images))


def test_transformers_does_not_warn_of_a_class_that_it_lacks(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("transformers.configuration_utils.logger.warning", said.append)
    save_mplug_owl2(tiny(), tmp_path / "owl")
    load_mplug_owl2(tmp_path / "owl")
    assert said == []


def test_text_weights_may_lie_in_another_folder(tmp_path):
    system = tiny(seed=4)
    as_llama(system.language_model).save_pretrained(tmp_path / "llama")
    save_mplug_owl2(system, tmp_path / "owl", shared=tmp_path / "llama")
    record = json.loads((tmp_path / "owl" / "facts.json").read_text())
    assert record["language_model"] == "../llama"
    stored = load_file(tmp_path / "owl" / "model.safetensors")
    text = [name for name in stored if "vis" not in name]
    assert len(text) == 4 * 3
    assert all(".multiway.1." in name for name in text)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "owl").rename(moved / "owl")
    with pytest.raises(MissingParts, match=r"llama.*model\.safetensors"):
        load_mplug_owl2(moved / "owl")
    (tmp_path / "llama").rename(moved / "llama")
    assert same_system(load_mplug_owl2(moved / "owl"), system)


def test_what_differs_from_the_shared_folder_is_stored(tmp_path):
    system = tiny(seed=4)
    llama = as_llama(system.language_model)
    llama.half().save_pretrained(tmp_path / "llama")
    system.language_model.lm_head.weight.data = llama.lm_head.weight.float()
    save_mplug_owl2(system, tmp_path / "owl", shared=tmp_path / "llama", dtype=torch.bfloat16)
    stored = load_file(tmp_path / "owl" / "model.safetensors")
    assert "lm_head.weight" not in stored  # the same after rounding to float16
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16
    loaded = load_mplug_owl2(tmp_path / "owl").language_model
    assert torch.equal(loaded.lm_head.weight, system.language_model.lm_head.weight)
    as_llama(network(seed=9)).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="no tensor in common"):
        save_mplug_owl2(system, tmp_path / "owl", shared=tmp_path / "other")


def test_text_weights_of_a_tied_llama_have_an_unembedding():
    table = torch.randn(5, 4)
    state = text_weights({"model.embed_tokens.weight": table, "model.layers.0.x.weight": table})
    assert torch.equal(state["lm_head.weight"], table)
    assert state["lm_head.weight"].data_ptr() != table.data_ptr()
    assert set(text_weights({"model.layers.7.self_attn.v_proj.weight": table})) == {
        "model.layers.7.self_attn.v_proj.multiway.0.weight"
    }


def hub_folder(folder, ours, stray: bool = True):
    """Lay a system out as the hub has it: shards of PyTorch's own, strays among them."""
    folder.mkdir()
    state = {name: tensor.half() for name, tensor in ours.state_dict().items()}
    if stray:
        for layer in range(3):
            state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        for layer in range(2):
            at = f"model.visual_abstractor.encoder.layers.{layer}.crossattention.attention"
            state[f"{at}.q_pos_embed"] = line_embedding(5, 24).half()
            state[f"{at}.k_pos_embed"] = grid_embedding(4, 24).half()
    names = sorted(state)
    for shard, part in enumerate((names[::2], names[1::2]), 1):
        file = folder / f"pytorch_model-{shard}-of-2.bin"
        torch.save({name: state[name] for name in part}, file)
    (folder / "config.json").write_text(json.dumps(ours.config.to_dict()))
    llama_tokenizer().save_pretrained(folder)
    return state


def test_the_published_layout_is_read_in_float16(tmp_path):
    state = hub_folder(tmp_path / "hub", network(seed=5))
    system = load_mplug_owl2(tmp_path / "hub")
    assert system.dtype == torch.float16
    assert system.facts.fit == "square"
    assert system.sizes.vocabulary == system.tokenizer.vocab_size
    assert system.image_tokens == ImageTokens(start=5, count=6, grid=None, pixels=28)
    loaded = system.language_model.state_dict()
    assert all(torch.equal(loaded[name], state[name].to(loaded[name])) for name in loaded)
    assert loaded["model.visual_abstractor.vit_eos"].dtype == torch.float32
    logits, _ = system.forward(system.prompt(tiny_images(2)))
    wide = load_mplug_owl2(tmp_path / "hub", dtype=torch.float32)
    expected, _ = wide.forward(wide.prompt(tiny_images(2)))
    torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0.02)
    assert wide.revision == system.revision


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda state: state.pop("model.norm.weight"), r"1 missing: model\.norm\.weight"),
        (
            lambda state: state.pop("model.layers.2.self_attn.k_proj.multiway.1.weight"),
            r"1 missing: model\.layers\.2\.self_attn\.k_proj\.multiway\.1\.weight",
        ),
        (
            lambda state: state.update({"model.layers.0.self_attn.k_proj.weight": torch.ones(1)}),
            r"1 not known: model\.layers\.0\.self_attn\.k_proj\.weight",
        ),
        (
            lambda state: state.update({"lm_head.weight": torch.ones(2, 2)}),
            r"1 of another shape: lm_head\.weight",
        ),
        (
            lambda state: state.update({"x.attention.q_pos_embed": torch.ones(5, 24)}),
            r"1 not what they are computed to: x\.attention\.q_pos_embed",
        ),
        (
            lambda state: state.update({"x.attention.k_pos_embed": grid_embedding(5, 24)}),
            r"computed to: x\.attention\.k_pos_embed",
        ),
        (lambda state: [state.pop(name) for name in list(state)[:20]], r"20 missing.*and 8 more"),
    ],
    ids=["missing", "branch", "not known", "shape", "places", "grid", "many"],
)
def test_weights_that_do_not_fit_are_named(break_it, says):
    state = network().state_dict()
    break_it(state)
    with pytest.raises(ValueError, match=says):
        load_weights(network(seed=1), state)


def test_both_faults_are_named_at_once():
    state = network().state_dict()
    state["stray"] = state.pop("lm_head.weight")
    with pytest.raises(ValueError, match=r"missing: lm_head.weight; 1 not known: stray"):
        load_weights(network(seed=1), state)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["mplug_owl2", module.HUB])
def test_offline_the_missing_checkpoint_is_named_with_its_source(name):
    with pytest.raises(MissingParts, match=re.escape(f"hf download {module.HUB} --include")):
        load_mplug_owl2(name)


def test_a_folder_in_part_says_what_it_lacks(tmp_path):
    hub_folder(tmp_path / "hub", network())
    (tmp_path / "hub" / "tokenizer.json").unlink()
    with pytest.raises(MissingParts, match=r"tokenizer .*hub: the folder is there, but not"):
        load_mplug_owl2(tmp_path / "hub")
    llama_tokenizer().save_pretrained(tmp_path / "words")
    assert load_mplug_owl2(tmp_path / "hub", tokenizer=tmp_path / "words").image_tokens.start == 5
    (tmp_path / "hub" / "config.json").unlink()
    with pytest.raises(MissingParts, match=r"checkpoint .*hub: the folder is there, but not"):
        load_mplug_owl2(tmp_path / "hub")


def test_a_miniature_in_part_says_which_files(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "data_path", lambda *parts: tmp_path.joinpath(*parts))
    with pytest.raises(MissingParts, match=r"miniature/mplug_owl2 lacks .*facts\.json.*make mini"):
        load_mplug_owl2("miniature/mplug_owl2")
    save_mplug_owl2(tiny(), tmp_path / "miniature" / "mplug_owl2")
    assert load_mplug_owl2("miniature/mplug_owl2").facts.name == "tiny"
    (tmp_path / "miniature" / "mplug_owl2" / "model.safetensors").unlink()
    with pytest.raises(MissingParts, match=r"model\.safetensors"):
        load_mplug_owl2("miniature/mplug_owl2")


def test_revisions_tell_weights_apart(tmp_path):
    save_mplug_owl2(tiny(seed=1), tmp_path / "a")
    save_mplug_owl2(tiny(seed=2), tmp_path / "b")
    first, second = (load_mplug_owl2(tmp_path / name) for name in "ab")
    assert first.revision != second.revision
    state = load_file(tmp_path / "b" / "model.safetensors")
    save_file(state, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    assert load_mplug_owl2(tmp_path / "a").revision == second.revision
