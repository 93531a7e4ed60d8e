"""Gradients at the activations, against finite differences and against Captum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.models.capture import capture, replace
from mmn_utils.neurons.gradients import activation_gradient, activation_patching
from mmn_utils.neurons.targets import Target, objective
from tests.neurons.every_noun import FIRST, SECOND

TARGET = Target("a", "horse", 300, ())
UNITS = [(0, 3), (0, 40), (1, 17), (2, 5), (2, 44)]
STEP = 2e-2


def y_with(model, prompt, layer: int, change, of: str) -> float:
    with torch.no_grad(), replace(model, {layer: change}):
        return objective(model.forward(prompt)[0], [TARGET], of).item()


def slope_towards(model, prompt, layer: int, unit: int, away: torch.Tensor, places, of: str):
    """Move one unit at some positions a little against ``away`` (P), both ways: the slope of y."""

    def moved(by: float):
        def change(activation):
            activation = activation.clone()
            activation[:, places, unit] -= by * away
            return activation

        return change

    ends = [y_with(model, prompt, layer, moved(by), of) for by in (-STEP, STEP)]
    return (ends[0] - ends[1]) / (2 * STEP)


@pytest.mark.parametrize("of", ["logit", "probability"])
@pytest.mark.parametrize("where", ["all", "image", "step"])
def test_gradients_are_finite_differences(any_model, of, where):
    prompt, other = (any_model.prompt([image]) for image in (FIRST, SECOND))
    image = any_model.image_tokens.places
    places = {"all": slice(None), "image": image, "step": slice(-1, None)}[where]
    held = []
    for one in (prompt, other):
        with torch.no_grad(), capture(any_model) as seen:
            any_model.forward(one)
        held.append(dict(seen.values))
    gradient = activation_gradient(any_model, prompt, TARGET, of=of, positions=places)
    patched = activation_patching(any_model, prompt, other, TARGET, of=of, positions=places)
    assert gradient.shape == patched.shape == (any_model.sizes.layers, any_model.sizes.units)
    tolerance = {"rel": 0.02, "abs": 2e-3 if of == "logit" else 2e-5}
    for layer, unit in UNITS:
        own, their = (values[layer][0, places, unit] for values in held)
        for found, away in ((gradient, own), (patched, own - their)):
            expected = slope_towards(any_model, prompt, layer, unit, away, places, of)
            assert found[layer, unit].item() == pytest.approx(expected, **tolerance)


def test_gradient_times_activation_is_captums(any_model):
    captum = pytest.importorskip("captum.attr")
    prompt = any_model.prompt([FIRST])
    gradient = activation_gradient(any_model, prompt, TARGET, positions=slice(None))

    def logit(embeds):
        return any_model.language_model(inputs_embeds=embeds).logits[:, -1, TARGET.token]

    for layer in range(any_model.sizes.layers):
        method = captum.LayerGradientXActivation(logit, any_model.act_module(layer))
        embeds = prompt.embeds.clone().requires_grad_()
        field = method.attribute(embeds, attribute_to_layer_input=True)
        field = field[0] if isinstance(field, tuple) else field
        expected = field[0].sum(0).detach()
        np.testing.assert_allclose(gradient[layer], expected, atol=2e-4, rtol=1e-3)


def test_patching_with_the_same_picture_changes_nothing(any_model):
    prompt = any_model.prompt([FIRST])
    found = activation_patching(any_model, prompt, any_model.prompt([FIRST]), TARGET)
    assert not found.any()


def test_what_has_no_positions_in_common_is_refused(any_model):
    prompt = any_model.prompt([FIRST])
    longer = prompt.extend(any_model.embed(torch.tensor([[5]])))
    with pytest.raises(ValueError, match="no positions in common"):
        activation_patching(any_model, prompt, longer, TARGET)
    with pytest.raises(ValueError, match="2 pictures"):
        activation_gradient(any_model, prompt.repeat(2), TARGET)
