"""The system: the contract, its prompt, its pictures, and analyses of it."""

from __future__ import annotations

import copy
from dataclasses import replace as changed

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.models.base import ImageTokens, Sizes
from mmn_utils.models.doctor import CHECKS, doctor
from mmn_utils.models.mplug_owl2.system import MplugOwl2Facts, build_mplug_owl2
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from tests.models.mplug_owl2.tiny import (
    ABSTRACTOR,
    CONFIG,
    FULL_HEADS,
    llama_tokenizer,
    network,
    tiny,
)
from tests.tiny import tiny_images, tiny_tokenizer


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


# --- pictures --------------------------------------------------------------------------


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
