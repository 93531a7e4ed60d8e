"""Activation as a score against the whole field, and plain sorting."""

from __future__ import annotations

import pytest

from mmn_utils.models.capture import capture
from mmn_utils.neurons.activation import activation_baseline, last_activation
from tests.neurons import every_noun
from tests.neurons.one_each import IMAGES, TARGETS, brute


def test_the_activation_baseline_is_the_highest_activation(model, prompt):
    table = activation_baseline(model, IMAGES, TARGETS, k=20)
    with capture(model, "activation") as seen:
        model.forward(prompt)
    span = slice(model.image_tokens.start, model.image_tokens.start + model.image_tokens.count)
    field = {layer: values[:, span].detach() for layer, values in seen.values.items()}
    for row, target in enumerate(TARGETS):
        mine = table[table.image == target.image]
        expected = brute(field, row, "max")[:20]
        assert list(zip(mine.layer, mine.unit, mine.patch, strict=True)) == [
            e[1:] for e in expected
        ]


@pytest.mark.parametrize("mode", ["gated", "gate"])
def test_the_base_is_the_activation_at_the_last_token(gated, mode):
    table = last_activation(gated, every_noun.IMAGES, every_noun.TARGETS, k=15, activation=mode)
    for target in every_noun.TARGETS:
        every_noun.check(
            table,
            target,
            every_noun.last(gated, target, {"gated": "activation", "gate": "gate"}[mode]),
            15,
        )
