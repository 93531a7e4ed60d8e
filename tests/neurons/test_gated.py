"""Gated MLPs: the exact activation is silu(gate) * up, and the gate alone is not enough."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.models.capture import capture
from mmn_utils.models.doctor import doctor
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_gated import TinyGated


@pytest.fixture(scope="module")
def model():
    return TinyGated()


def test_doctor_passes(model):
    found = doctor(model, tiny_images(3))
    assert found["passed"].all(), found.to_string()


def test_activation_is_gate_times_up(model):
    prompt = model.prompt(tiny_images(2))
    with capture(model) as act, capture(model, "gate") as gate, capture(model, "pre") as pre:
        model.forward(prompt)
    for layer in range(model.sizes.layers):
        torch.testing.assert_close(gate.values[layer], torch.nn.functional.silu(pre.values[layer]))
        assert not torch.allclose(gate.values[layer], act.values[layer])


def test_no_gate_is_said():
    with pytest.raises(ValueError, match="no gate"), capture(tiny_limber(), "gate"):
        pass
