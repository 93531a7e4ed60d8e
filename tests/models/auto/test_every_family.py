"""Every family: its modules found, its logits and captions its own model's.

The reference is always the model's own: its forward on ids and pixels, and its ``generate``.
"""

from __future__ import annotations

import pytest
import torch

from mmn_utils.models.architectures import Architecture
from mmn_utils.models.auto.modules import find_architecture
from mmn_utils.models.auto.sums import accepted
from mmn_utils.models.base import ImageTokens
from mmn_utils.models.doctor import CHECKS, doctor
from tests.models.auto.families import FAMILIES, system, untouched
from tests.models.auto.families.checks import sweep_cuts_the_cache
from tests.tiny import tiny_images


def gated(part: str, **changes) -> Architecture:
    """Name the modules of a decoder like LLaMA's that lies at ``part``."""
    names = {
        "layers": f"{part}.layers",
        "pre": "mlp.gate_proj",
        "act": "mlp.down_proj",
        "attention": "self_attn.o_proj",
        "norm": f"{part}.norm",
        "unembed": "lm_head",
        "gate": "mlp.act_fn",
    }
    return Architecture(**{**names, **changes})


INSIDE = dict.fromkeys(FAMILIES, "model.language_model")
INSIDE |= dict.fromkeys(("idefics3", "smolvlm"), "model.text_model")
TOKENS = {  # tokens before the picture, image tokens, grid
    "llava": (6, 16, (4, 4)),
    "onevision": (6, 36, None),  # the whole, one tile, and the ends of its rows
    "qwen2_vl": (7, 16, (4, 4)),
    "paligemma": (0, 16, (4, 4)),
    "idefics3": (8, 4, (2, 2)),
    "smolvlm": (8, 4, (2, 2)),
    "gemma3": (9, 4, (2, 2)),
}
every = pytest.mark.parametrize("family", list(FAMILIES))


@every
def test_modules_are_found_where_they_are(family):
    assert find_architecture(untouched(family)) == gated(INSIDE[family])
    start, count, grid = TOKENS[family]
    assert system(family).image_tokens == ImageTokens(start, count, grid, 32)


@every
def test_the_doctor_passes(family):
    report = doctor(system(family), tiny_images(2))
    assert report["check"].tolist() == list(CHECKS)
    assert report["passed"].all(), report.to_string()
    assert not report["passed"].isna().any()


@every
@torch.no_grad()
def test_logits_are_those_of_the_own_forward_on_ids_and_pixels(family):
    """The reference never sees the adapter's embeddings, positions or token types."""
    whole, model, images = untouched(family), system(family), tiny_images(3)
    own = whole(**accepted(whole.forward, model.reader(images))).logits
    mine, _ = model.forward(model.prompt(images), last_only=False)
    torch.testing.assert_close(mine, own, atol=2e-5, rtol=1e-4)
    assert (own[0] - own[1]).abs().max() > 0.01  # the pictures matter


@every
@torch.no_grad()
def test_captions_are_those_of_the_own_generate(family):
    reference, model, images = untouched(family), system(family), tiny_images(2)
    inputs = accepted(reference.forward, model.reader(images))
    own = reference.generate(
        **inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    ids, prompt = own.sequences[:, -6:], model.prompt(images)
    forced = prompt.extend(model.embed(ids[:, :-1]))
    whole, _ = model.forward(forced, last_only=False)  # in one pass, no cache
    expected = torch.stack(own.logits, dim=1)
    torch.testing.assert_close(whole[:, -6:], expected, atol=2e-5, rtol=1e-4)
    _, past = model.forward(prompt, use_cache=True)
    for step in range(5):  # and token by token
        prompt = prompt.extend(model.embed(ids[:, step : step + 1]))
        logits, past = model.forward(prompt.tail(1), past=past, use_cache=True)
        torch.testing.assert_close(logits, expected[:, step + 1], atol=2e-5, rtol=1e-4)


@every
def test_a_picture_of_any_size_has_the_same_tokens(family):
    model = system(family)
    sizes = [(64, 16), (5, 90), (32, 32), (1, 1)]
    images = [tiny_images(1)[0].resize(size) for size in sizes]
    soft = model.soft_prompt(images)
    assert soft.shape == (4, model.image_tokens.count, 32)
    alone = torch.cat([model.soft_prompt([image]) for image in images])
    torch.testing.assert_close(soft, alone, atol=1e-5, rtol=1e-4)
    features = model.image_features(images)
    assert features.shape[0] == 4
    assert model.preprocess(images).dtype == torch.float32


@every
def test_the_prefix_is_what_follows_the_picture(family):
    model, images = system(family), tiny_images(1)
    prompt = model.prompt(images)
    assert prompt.given == prompt.embeds.shape[1] == model.language_model.given
    same = model.prompt(images, model.prefix)
    torch.testing.assert_close(same.embeds, prompt.embeds, atol=0, rtol=0)
    longer = model.prompt(images, model.prefix + " a horse")
    assert longer.embeds.shape[1] > prompt.embeds.shape[1]
    start, count = model.image_tokens.start, model.image_tokens.count
    torch.testing.assert_close(
        prompt.embeds[0, start : start + count], model.soft_prompt(images)[0], atol=0, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma3", "paligemma", "qwen2_vl"])
def test_sweeps_cut_and_repeat_the_cache(family):
    """Gemma 3 has a window of 8 tokens, and the cache is cut far behind it."""
    sweep_cuts_the_cache(system(family), 0)
