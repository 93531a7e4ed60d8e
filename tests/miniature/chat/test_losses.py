"""The chat systems' losses: transformers' own, of what a step draws alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from transformers.loss.loss_utils import ForCausalLMLoss

from mmn_utils.miniature import captioning, instructblip, language, llava, mplug_owl2
from mmn_utils.miniature.captioning import Batches
from mmn_utils.miniature.chat import TEMPLATES
from mmn_utils.miniature.vision.encoder import to_input
from mmn_utils.models.mplug_owl2.system import build_mplug_owl2
from mmn_utils.training.features import fold
from tests.miniature.chat.trained import SYSTEMS, pictures, trainer, whole_loss


def test_the_text_among_the_pictures_is_a_function_of_seed_and_step_alone(data, scenes, world):
    one, again = (trainer("llava", data, scenes, world)[1] for _ in range(2))
    again.rows.batch(0)
    assert torch.equal(one.rows.batch(2), again.rows.batch(2))
    assert not torch.equal(one.rows.batch(2), one.rows.batch(3))
    other = trainer("llava", data, scenes, world, seed=1)[1]
    assert not torch.equal(one.rows.batch(2), other.rows.batch(2))
    assert torch.equal(whole_loss(one.tuning_losses(2)), whole_loss(again.tuning_losses(2)))
    without = trainer("llava", data, scenes, world, text_weight=0.0)[1].tuning_losses(2)
    text = language.text_losses(partial(llava.next_logits, one.language), one.rows, 2)
    expected = whole_loss(without) + 0.5 * whole_loss(text)
    torch.testing.assert_close(whole_loss(one.tuning_losses(2)), expected)


# --- against transformers ----------------------------------------------------------------


def with_captions(tokenizer, name, count, labels, placeholder):
    """Spell out a batch as transformers takes it: ids with placeholders, labels with -100."""
    before, behind = TEMPLATES[name].ids(tokenizer)
    head = [*before, *[placeholder] * count, *behind]
    ids = torch.cat([torch.tensor(head).expand(len(labels), -1), labels.clamp(min=0)], dim=1)
    return ids, torch.cat([torch.full((len(labels), len(head)), -100), labels], dim=1)


def unused(tokenizer):
    return tokenizer.convert_tokens_to_ids("#")


@torch.no_grad()
def test_llavas_loss_is_transformers_own(data, scenes, world, parts):
    whole, ours = trainer("llava", data, scenes, world)
    found = whole_loss(ours.picture_losses(1, 2))
    drawn = Batches(ours.captions, 2, (0, 1)).at(2)
    tokenizer = parts[1]
    ids, labels = with_captions(tokenizer, "llava", 16, drawn.labels, unused(tokenizer))
    projector = whole.model.multi_modal_projector
    projector.linear_1.load_state_dict(fold(projector.linear_1, ours.store))
    whole.config.image_token_index = whole.model.config.image_token_index = unused(tokenizer)
    pixels = to_input(scenes.images[drawn.rows])
    expected = whole(
        input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), labels=labels
    ).loss
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)  # features kept in 16 bits


@torch.no_grad()
def test_instructblips_loss_is_transformers_own(data, scenes, world, parts):
    whole, ours = trainer("instructblip", data, scenes, world)
    found, drawn = whole_loss(ours.speaking_losses(2)), ours.batches.at(2)
    tokenizer = parts[1]
    ids, labels = with_captions(tokenizer, "instructblip", 3, drawn.labels, unused(tokenizer))
    whole.config.image_token_index = unused(tokenizer)
    instruction = ours.words("Describe the image in few words. An image of")["input_ids"]
    expected = whole(
        pixel_values=to_input(scenes.images[drawn.rows]),
        qformer_input_ids=torch.tensor(instruction).expand(2, -1),
        input_ids=ids,
        labels=labels,
    ).loss
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_mplug_owl2s_loss_is_transformers_own_of_its_logits(data, scenes, world, parts):
    whole, ours = trainer("mplug_owl2", data, scenes, world)
    found, drawn = whole_loss(ours.losses(2)), ours.batches.at(2)
    tokenizer = parts[1]
    system = build_mplug_owl2(mplug_owl2.FACTS, whole, tokenizer)
    prompt = system.prompt(pictures(scenes, drawn.rows))
    longer = prompt.extend(system.embed(drawn.labels.clamp(min=0)))
    logits, _ = system.forward(longer, last_only=False)
    _, labels = with_captions(tokenizer, "mplug_owl2", 4, drawn.labels, 0)
    expected = ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", SYSTEMS)
def test_bfloat16_changes_the_loss_little(name, data, scenes, world, monkeypatch):
    _, ours = trainer(name, data, scenes, world)
    losses = {
        "llava": ("tuning_losses",),
        "instructblip": ("contrast_loss", "speaking_losses"),
        "mplug_owl2": ("losses",),
    }
    for loss in losses[name]:
        exact = float(whole_loss(getattr(ours, loss)(1)))
        with monkeypatch.context() as patch:
            for module in (captioning, language, llava, instructblip, mplug_owl2):
                cast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
                patch.setattr(module, "fast_autocast", cast)
            rounded = float(whole_loss(getattr(ours, loss)(1)))
        assert rounded == pytest.approx(exact, rel=0.03)
        assert rounded != exact
