"""Edits through the whole model: the word is reached, and other captions are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmn_utils.interventions.edit import EmptyEdit, apply
from mmn_utils.interventions.joint import JointSettings, _Free, _Text, joint_edit
from mmn_utils.models.base import state_hash
from mmn_utils.neurons.captions import caption_images
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from tests.interventions.planted import made_up, neuron, picture, target
from tests.tiny import tiny_images
from tests.tiny_gated import TinyGated

SOME = tuple(Neuron(layer, unit) for layer in (1, 2) for unit in range(0, 48, 4))


@pytest.fixture(scope="module")
def spoken():
    """Return a random system, two images and what it says of them; the second token is edited."""
    model, images = TinyGated(seed=3), tiny_images(3, seed=2)
    model.language_model.lm_head.weight.data.mul_(4)  # or no token could be probable
    captions = caption_images(model, images, 5)
    targets = [Target(str(i), "noun", c.ids[1], c.ids[:1]) for i, c in enumerate(captions)]
    return model, images, captions, targets


@pytest.mark.parametrize("tokens", [(301,), (301, 77)])
def test_a_joint_edit_makes_the_word_be_said(spoken, tokens):
    model, images, captions, targets = spoken
    before = state_hash(model.language_model)
    edit = joint_edit(model, images[:1], targets[:1], "new", SOME, tokens=tokens)
    assert edit.settings["probability"] >= 0.9
    assert 0 < edit.settings["steps"] < 100
    assert all(p.grad is None and not p.requires_grad for p in model.language_model.parameters())
    assert state_hash(model.language_model) == before
    with apply(model, edit):
        said = caption_images(model, images[:1], 5)[0]
    assert said.ids[: 1 + len(tokens)] == (*captions[0].ids[:1], *tokens)


def test_several_images_are_all_reached(spoken):
    model, images, _, targets = spoken
    same = [replace(t, token=targets[0].token) for t in targets]
    edit = joint_edit(model, images[:2], same[:2], "new", SOME, tokens=(301,))
    with apply(model, edit):
        prompts = [_Text.of(model, i, (*t.prefix, 301), len(t.prefix))
                   for i, t in zip(images[:2], targets[:2], strict=True)]  # fmt: skip
        reached = [float((-text.look(model)[0]).exp()) for text in prompts]
    assert min(reached) == pytest.approx(edit.settings["probability"], rel=1e-3)
    assert min(reached) >= 0.9


def test_the_free_dw_act_as_weights_do(spoken):
    model, images, _, _ = spoken
    free = _Free(model, SOME)
    with torch.no_grad():
        free.moved.copy_(torch.randn_like(free.moved))
        prompt = model.prompt(images)
        with free.added():
            hooked, _ = model.forward(prompt)
        edit = replace(made_up(model, 0, len(SOME)), neurons=SOME, deltas=free.deltas().clone())
        with apply(model, edit):
            written, _ = model.forward(prompt)
        whole, _ = model.forward(prompt)
    torch.testing.assert_close(hooked, written, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(hooked, whole, atol=0.1)
    assert not any(len(m._forward_hooks) for m in model.language_model.modules())


def test_the_gradient_is_that_of_differences(spoken):
    model, images, _, targets = spoken
    free = _Free(model, SOME)
    text = _Text.of(model, images[0], (*targets[0].prefix, 301), 1)

    def loss() -> torch.Tensor:
        with free.added():
            reached, strayed = text.look(model)
        return reached + 3 * strayed.sum()

    direction = torch.randn(free.moved.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        free.moved.copy_(0.1 * direction.roll(1, 0))
    loss().backward()
    slope = float((free.moved.grad * direction).sum())
    values = []
    with torch.no_grad():
        for step in (2e-3, -4e-3):
            free.moved.add_(step * direction)
            values.append(float(loss()))
    assert slope == pytest.approx((values[0] - values[1]) / 4e-3, rel=0.02, abs=0.02)


def test_keeping_other_captions_holds_them(spoken):
    model, images, captions, targets = spoken
    other = (images[2], captions[2].ids)
    strayed = {}
    for weight in (0.0, 5.0):
        how = JointSettings(keep=weight, stop=0.6)
        edit = joint_edit(
            model, images[:1], targets[:1], "new", SOME, how, keep=[other], tokens=(301,)
        )
        text = _Text.of(model, *other, len(other[1]))
        with apply(model, edit):
            strayed[weight] = float(text.look(model)[1].sum())
        assert edit.settings["probability"] >= 0.6
    assert strayed[5.0] < 0.5 * strayed[0.0]


def test_a_limit_holds(spoken):
    model, images, _, targets = spoken
    how = JointSettings(limit=0.2, epochs=15)
    edit = joint_edit(model, images[:1], targets[:1], "new", SOME[:2], how, tokens=(301,))
    unit = _Free(model, SOME[:2]).unit
    assert edit.norms.max() <= 0.2 * unit * 32**0.5 * (1 + 1e-5)
    assert edit.norms.max() > 0.1 * unit * 32**0.5


def test_a_joint_edit_of_what_is_said_already_is_empty(system):
    asked = (system, [picture("horse")], [target("boat")], "horse", [neuron("boat")])
    how = JointSettings(stop=1e-6)
    with pytest.raises(EmptyEdit, match="already has the probability"):
        joint_edit(*asked, how)
    assert not joint_edit(*asked, how, allow_empty=True).deltas.any()


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"stop": 1.0}, {"epochs": 0}, {"keep": -1.0}, {"limit": 0.0}]
)
def test_wrong_joint_settings_are_said(wrong):
    with pytest.raises(ValueError, match="must"):
        JointSettings(**wrong)
