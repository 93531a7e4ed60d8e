"""What is lost without several neurons at once, against transformers' own forward with hooks."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from mmn_utils.interventions.sweeps import sweep
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target, teacher_forced
from mmn_utils.neurons.together import QUESTIONS, lost_together
from tests.models.auto.scaled import scaled
from tests.neurons.every_noun import FIRST, TARGETS, alone
from tests.neurons.one_each import IMAGES
from tests.neurons.test_truth import FAMILIES
from tests.tiny import tiny_limber

SETS = [
    (Neuron(0, 5), Neuron(2, 11)),
    (Neuron(1, 0), Neuron(1, 47), Neuron(1, 7)),
    (),
    (Neuron(2, 3), Neuron(2, 30)),
    tuple(Neuron(layer, unit) for layer in range(3) for unit in range(0, 48, 2)),
    (Neuron(1, 9), Neuron(2, 9)),
    (Neuron(2, 40), Neuron(0, 5)),
    (Neuron(0, 5),),
    (Neuron(0, 5), Neuron(1, 7), Neuron(2, 11)),
    (Neuron(0, 5), Neuron(1, 7), Neuron(2, 3)),
    (Neuron(0, 5), Neuron(1, 7)),
    (Neuron(0, 5), Neuron(0, 6)),
]
BEHIND = TARGETS[3]  # five tokens into the caption of the first picture


def places_of(model, prompt, question: str) -> slice:
    """Return where a question has units off."""
    image = model.image_tokens
    return {
        "all": slice(None),
        "image": slice(image.start, image.start + image.count),
        "step": slice(prompt.embeds.shape[1] - 1, None),
    }[question]


def off(places: slice, unit: int):
    """Make a hook that sets a unit to zero."""

    def hook(_module, inputs):
        inputs[0][:, places, unit] = 0

    return hook


@torch.no_grad()
def by_hooks(model, target, some, question: str) -> tuple[float, float]:
    """Read logit and probability off a pass whose activations are set to zero by plain hooks."""
    prompt = alone(model, target)
    places = places_of(model, prompt, question)
    with ExitStack() as stack:
        for one in some:
            handle = model.act_module(one.layer).register_forward_pre_hook(off(places, one.unit))
            stack.callback(handle.remove)
        logits = model.language_model(inputs_embeds=prompt.embeds).logits[0, -1]
    logits = logits[: model.sizes.vocabulary].double()
    return logits[target.token].item(), logits.softmax(-1)[target.token].item()


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_each_set_is_a_pass_with_all_of_its_neurons_off(any_model, question, batch_size):
    prompt = any_model.prompt([FIRST])
    options = {"positions": question, "batch_size": batch_size}
    lost = lost_together(any_model, prompt, BEHIND, SETS, **options)
    whole = by_hooks(any_model, BEHIND, (), question)
    assert lost.whole == pytest.approx(whole, abs=1e-5)
    for row, some in enumerate(SETS):
        logit, probability = by_hooks(any_model, BEHIND, some, question)
        assert lost.logit[row] == pytest.approx(whole[0] - logit, abs=1e-5)
        assert lost.probability[row] == pytest.approx(whole[1] - probability, abs=1e-6)
    assert lost.logit[SETS.index(())] == pytest.approx(0, abs=1e-5)
    assert np.abs(lost.logit).max() > 0.01


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_lack_pairs_as_by_plain_hooks(family, question):
    """Whatever stands between an MLP and the stream, or goes from layer to layer beside it."""
    model = scaled(family)
    prompt, goal = model.prompt(IMAGES[:1]), Target("a", "boat", 17, (5, 9, 301))
    sets = [(Neuron(0, 3), Neuron(1, unit)) for unit in (7, 31)] + [(Neuron(0, 3), Neuron(0, 40))]
    lost = lost_together(model, prompt, goal, sets, positions=question)
    forced = teacher_forced(model, prompt, [goal.prefix])
    for mine, some in zip(lost.logit, sets, strict=True):
        with torch.no_grad(), ExitStack() as stack:
            for one in some:
                hook = off(places_of(model, forced, question), one.unit)
                act = model.act_module(one.layer)
                stack.callback(act.register_forward_pre_hook(hook).remove)
            logit = float(model.forward(forced)[0][0, goal.token])
        assert mine == pytest.approx(lost.whole[0] - logit, abs=2e-5, rel=1e-4)


def passes(model) -> list[int]:
    """Count the rows that each layer computes, until somebody reads the list."""
    seen = [0] * model.sizes.layers
    for layer in range(model.sizes.layers):
        norm = next(model.layer(layer).children())  # hooks on layers themselves would be seen

        def count(*some, layer=layer, forward=norm.forward, **more):
            seen[layer] += len(some[0])
            return forward(*some, **more)

        norm.forward = count
    return seen


def test_each_row_begins_at_its_own_layer_and_pairs_share_their_first():
    model = tiny_limber()
    seen = passes(model)
    sets = [(Neuron(0, 5), Neuron(1, unit)) for unit in range(7)]
    sets += [(Neuron(2, 3), Neuron(2, 30)), (Neuron(1, 2), Neuron(2, 4))]
    lost_together(model, model.prompt(IMAGES[:1]), BEHIND, sets)
    # whole; without L0.u5; seven and one without units of layer 1; behind the last layer none
    assert seen == [1, 1 + 1, 1 + 1 + 7 + 1]


@pytest.mark.parametrize("question", ["all", "image"])
def test_probabilities_are_those_of_a_sweep(any_model, question):
    prompt = any_model.prompt([FIRST])
    swept = sweep(any_model, prompt, BEHIND, SETS, 1, positions=question)
    lost = lost_together(any_model, prompt, BEHIND, SETS, positions=question)
    np.testing.assert_allclose(lost.whole[1] - lost.probability, swept.probability, atol=1e-5)


def test_no_sets_are_no_losses(any_model):
    lost = lost_together(any_model, any_model.prompt([FIRST]), BEHIND, [])
    assert lost.logit.shape == lost.probability.shape == (0,)


def test_what_cannot_be_is_refused(any_model):
    prompt = any_model.prompt([FIRST])
    with pytest.raises(ValueError, match="'generated': give one of all, image, step"):
        lost_together(any_model, prompt, BEHIND, SETS, positions="generated")
    with pytest.raises(ValueError, match="2 pictures"):
        lost_together(any_model, prompt.repeat(2), BEHIND, SETS)
    with pytest.raises(ValueError, match=r"L9\.u0"):
        lost_together(any_model, prompt, BEHIND, [(Neuron(9, 0),)])
