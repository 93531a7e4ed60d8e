"""Scores on trial, where it is known which unit writes the word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmn_utils.datasets.base import TooFew
from mmn_utils.neurons.targets import Target
from mmn_utils.neurons.together import QUESTIONS
from mmn_utils.neurons.truth import exact_losses
from mmn_utils.studies.court import scores
from tests.interventions.planted import LAYER, UNITS, picture, target
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_gated import TinyGated

WORDS = ("horse", "boat", "horses")
# At the step, where the planted units are read. Paper A's look elsewhere.
FINDING = ("gradient", "integrated_5", "integrated_20", "integrated_50", "patching_other",
           "contribution_gated_none", "contribution_gated_final")  # fmt: skip


@pytest.fixture(scope="module")
def planted_cases(system):
    prompts = system.prompt([picture(word) for word in WORDS])
    return scores.cases(system, prompts, [target(word, word) for word in WORDS])


@pytest.mark.parametrize("name", FINDING)
def test_scores_find_the_planted_unit(system, planted_cases, name):
    for word, case in zip(WORDS, planted_cases, strict=True):
        field = scores.scores(system)[name].compute(system, case, "step")
        assert divmod(int(field.argmax()), system.sizes.units) == (LAYER, UNITS[word])


def test_an_effect_is_in_logits(system, planted_cases):
    """Of the last layer's own unit nothing stands between but the final norm."""
    for word, case in zip(WORDS, planted_cases, strict=True):
        losses = exact_losses(system, case.prompt, case.target, positions="step").logit
        gradient = scores.scores(system)["gradient"].compute(system, case, "step")
        near = np.argsort(-np.abs(losses[LAYER]))[1:6]  # weak: the norm hardly moves
        np.testing.assert_allclose(gradient[LAYER][near], losses[LAYER][near], rtol=0.1, atol=1e-3)
        assert losses[LAYER, UNITS[word]] == losses.max()


@pytest.fixture(scope="module", params=[tiny_limber, TinyGated], ids=["plain", "gated"])
def made(request):
    """A random system and its cases."""
    model = request.param()
    targets = [Target(str(i), "horse", 300 + i, (5, 9)[:i]) for i in range(3)]
    return model, scores.cases(model, model.prompt(tiny_images(3)), targets)


def test_every_score_is_a_number_for_each_unit_and_question(made, monkeypatch):
    model, cases = made
    monkeypatch.setattr(scores, "STEPS", (2,))
    found = scores.compute_all(model, cases[1])
    by_name = scores.scores(model)
    assert set(found) == {(question, name) for question in QUESTIONS for name in by_name}
    assert ("contribution_gate_none" in by_name) == (model.architecture.gate is not None)
    for (question, name), values in found.items():
        assert values.shape == (model.sizes.layers, model.sizes.units), name
        assert np.isfinite(values).all()
        assert np.array_equal(values, found["all", name]) == (
            not by_name[name].asks or question == "all"
        ), (question, name)


def test_a_single_position_is_its_own_sum_and_all_is_the_sum_of_its_parts(made):
    """Gradients add up over positions: patches, the step, and the rest."""
    model, cases = made
    gradient = scores.scores(model)["gradient"].compute
    parts = {question: gradient(model, cases[2], question) for question in QUESTIONS}
    image, length = model.image_tokens, cases[2].prompt.embeds.shape[1]
    shown = range(image.start, image.start + image.count)
    rest = [i for i in range(length - 1) if i not in shown]
    more = scores.activation_gradient(model, cases[2].prompt, cases[2].target, positions=rest)
    total = parts["image"] + parts["step"] + more
    torch.testing.assert_close(total, parts["all"], atol=1e-4, rtol=1e-3)


def test_a_random_order_depends_on_seed_picture_and_question_alone(made):
    model, cases = made
    draw = {seed: scores.scores(model, seed)["random"].compute for seed in (0, 1)}
    first = draw[0](model, cases[0], "all")
    assert torch.equal(first, draw[0](model, cases[0], "all"))
    for other in (draw[1](model, cases[0], "all"), draw[0](model, cases[1], "all"),
                  draw[0](model, cases[0], "step")):  # fmt: skip
        assert not torch.equal(first, other)


def test_cases_have_a_mean_picture_and_another_one_before_the_same_words(made):
    model, cases = made
    prompts = model.prompt(tiny_images(3))
    image = model.image_tokens.places
    for row, case in enumerate(cases):
        assert case.target.prefix == ()
        assert case.prompt.embeds.shape == case.mean.embeds.shape == case.other.embeds.shape
        torch.testing.assert_close(case.mean.embeds[0, image], prompts.embeds[:, image].mean(0))
        others = [i for i in range(3) if torch.equal(case.other.embeds[0, image],
                                                     prompts.embeds[i, image])]  # fmt: skip
        assert len(others) == 1
        assert others != [row]
        behind = slice(model.image_tokens.start + model.image_tokens.count, None)
        for one in (case.mean, case.other):
            torch.testing.assert_close(one.embeds[:, behind], case.prompt.embeds[:, behind])


def test_too_few_pictures_and_scores_that_are_not_finite_are_refused(made):
    model, cases = made
    prompts = model.prompt(tiny_images(1))
    with pytest.raises(TooFew):
        scores.cases(model, prompts, [cases[0].target])
    with pytest.raises(ValueError, match="1 prompts for 3 targets"):
        scores.cases(model, prompts, [case.target for case in cases])
    broken = replace(cases[0].prompt, embeds=cases[0].prompt.embeds * torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        scores.compute_all(model, replace(cases[0], prompt=broken))
