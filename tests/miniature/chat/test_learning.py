"""What learns in the chat systems and what does not, and trainings that are resumed."""

from __future__ import annotations

import re

import pytest
import torch

from mmn_utils.miniature import mplug_owl2
from mmn_utils.miniature.captioning import Batches
from mmn_utils.models.base import state_hash
from mmn_utils.training.loop import train
from tests.miniature.chat.trained import LAST, LEARN, SYSTEMS, make, trainer, vision_of, whole_loss


def reached(whole) -> set[str]:
    """Name the parameters that a gradient has reached, and forget it."""
    names = {
        name
        for name, parameter in whole.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.any())
    }
    whole.zero_grad(set_to_none=True)
    return names


def named(whole, *starts: str) -> set[str]:
    return {name for name, _ in whole.named_parameters() if name.startswith(starts)}


def test_llava_teaches_the_projector_then_the_language_model_too(data, scenes, world):
    whole, ours = trainer("llava", data, scenes, world)
    ours.projector.requires_grad_(True)
    whole_loss(ours.picture_losses(0, 0)).backward()
    projector = named(whole, "model.multi_modal_projector.")
    assert reached(whole) == projector
    ours.language.requires_grad_(True)
    whole_loss(ours.tuning_losses(0)).backward()
    language_model = named(whole, "model.language_model.", "lm_head.")
    assert reached(whole) == projector | language_model


def test_instructblip_never_teaches_the_language_model(data, scenes, world):
    whole, ours = trainer("instructblip", data, scenes, world)
    ours.contrast_loss(0).backward()
    first = reached(whole)
    eyes = named(whole, "vision_model.", "query_tokens", "qformer.")
    assert first <= eyes
    for part in ("vision_model.embeddings", "query_tokens", "qformer.encoder.layer.2.crossatt"):
        assert named(whole, part) <= first
    assert named(whole, "qformer.encoder.layer.2.intermediate.") <= first  # that reads text
    assert all(p.grad is not None for p in ours.contrast.parameters())
    whole_loss(ours.speaking_losses(0)).backward()
    second = reached(whole)
    assert second <= eyes | named(whole, "language_projection.")
    for part in ("vision_model.embeddings", "query_tokens", "language_projection."):
        assert named(whole, part) <= second
    assert any("word_embeddings" in name for name in second)  # the instruction is read


def test_mplug_owl2_teaches_nothing_that_text_goes_through(data, scenes, world):
    whole, ours = trainer("mplug_owl2", data, scenes, world)
    names = (mplug_owl2.FRESH, mplug_owl2.TOWER)
    chosen = {id(parameter) for part in names for parameter in mplug_owl2.unfrozen(whole, part)}
    whole_loss(ours.losses(0)).backward()
    found = reached(whole)
    assert {id(p) for name, p in whole.named_parameters() if name in found} <= chosen
    for name, _ in whole.named_parameters():
        for_images = "vision_model" in name or "abstractor" in name or ".multiway.1." in name
        # A key's bias changes nothing; in the last layer only keys and values are looked at.
        idle = name.endswith("attention.key.bias") or name.startswith("model.layers.1.post")
        assert (name in found) == for_images or (idle and for_images), name


# --- training ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    name, made, data, scenes, world, tmp_path, monkeypatch
):
    draw = Batches.at

    def killed(self, step):
        if step == 3 and self.size == 2:
            raise KeyboardInterrupt
        return draw(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "at", killed)
        with pytest.raises(KeyboardInterrupt):
            make(name, data, tmp_path, scenes, world)
    saved = torch.load(tmp_path / f"{LAST[name]}.pt", weights_only=True)
    assert saved["step"] == 2
    again = make(name, data, tmp_path, scenes, world)
    assert state_hash(*again.modules()) == state_hash(*made[name].modules())
    assert (tmp_path / f"{LAST[name]}.csv").read_text().startswith("step,items,loss\n")
    assert not list(tmp_path.glob("*.tmp"))


def changed(before, after) -> set[str]:
    """Name the parameters that differ."""
    state = dict(after.named_parameters())
    return {name for name, old in before.named_parameters() if not torch.equal(old, state[name])}


def test_training_changes_what_learns_and_nothing_else(made, data, scenes, world, parts):
    text = parts[0]
    assert len(changed(text, made["llava"].language_model)) == len(list(text.parameters()))
    assert not changed(vision_of(data), made["llava"].vision)
    assert not changed(text, made["instructblip"].language_model)
    before, _ = trainer("instructblip", data, scenes, world)
    assert "patch_embedding.weight" in str(
        changed(before.vision_model, made["instructblip"].queries.vision_model)
    )
    owl, _ = trainer("mplug_owl2", data, scenes, world)
    moved = changed(owl, made["mplug_owl2"].language_model)
    assert {name for name in moved if name.startswith("model.layers.0")} == {
        f"model.layers.0.{part}.multiway.1.weight"
        for part in (
            "self_attn.k_proj",
            "self_attn.v_proj",
            "input_layernorm",
            "post_attention_layernorm",
        )
    }
    assert not moved & {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}


@pytest.mark.parametrize("name", SYSTEMS)
def test_eight_pictures_are_learnt(name, data, scenes, world, tmp_path):
    names, loss, stage, share = LEARN[name]
    whole, ours = trainer(name, data, scenes, world)
    parameters = [p for n, p in whole.named_parameters() if re.search(names, n)]
    parameters += ours.contrast.parameters() if name == "instructblip" else []
    for parameter in parameters:
        parameter.requires_grad_(True)
    loss_at, steps = getattr(ours, loss), range(90, 98)
    before = sum(whole_loss(loss_at(step)).item() for step in steps)
    train("toy", parameters, loss_at, stage, tmp_path, 2)
    assert sum(whole_loss(loss_at(step)).item() for step in steps) < share * before
