"""Direct losses, against a hook before the final norm and against ablation with nothing above."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.models.capture import capture
from mmn_utils.neurons.direct import direct_losses
from mmn_utils.neurons.truth import exact_losses
from tests.neurons.every_noun import FIRST, TARGETS, alone

TARGET = TARGETS[3]


def test_the_stream_lacks_what_the_unit_wrote_and_nothing_else_changes(any_model):
    direct = direct_losses(any_model, any_model.prompt([FIRST]), TARGET)
    prompt = alone(any_model, TARGET)
    with torch.no_grad(), capture(any_model) as seen:
        whole = any_model.forward(prompt)[0][0, TARGET.token]
    for layer, unit in [(0, 4), (1, 31), (2, 8)]:
        vector = any_model.act_module(layer).weight[:, unit]
        wrote = seen.values[layer][0, -1, unit] * vector

        def less(_module, inputs, wrote=wrote):
            stream = inputs[0].clone()
            stream[:, -1] -= wrote
            return (stream,)

        hook = any_model.final_norm.register_forward_pre_hook(less)
        with torch.no_grad():
            without = any_model.forward(prompt)[0][0, TARGET.token]
        hook.remove()
        assert direct[layer, unit].item() == pytest.approx((whole - without).item(), abs=1e-4)


def test_in_the_last_layer_direct_is_all(any_model):
    prompt, last = any_model.prompt([FIRST]), any_model.sizes.layers - 1
    direct = direct_losses(any_model, prompt, TARGET)
    total = exact_losses(any_model, prompt, TARGET, positions="step").logit
    np.testing.assert_allclose(direct[last], total[last], atol=1e-4)
    assert np.abs(direct[0] - total[0]).max() > 1e-2  # below, others answer


def test_one_picture_at_a_time(any_model):
    with pytest.raises(ValueError, match="2 pictures"):
        direct_losses(any_model, any_model.prompt([FIRST]).repeat(2), TARGET)
