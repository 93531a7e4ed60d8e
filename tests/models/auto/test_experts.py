"""A mixture of experts as one wide MLP: routed units add up, the others are silent."""

from __future__ import annotations

import pytest
import torch

import mmn_utils as mmn
from mmn_utils.models.architectures import Experts
from mmn_utils.models.capture import capture, spare_last
from mmn_utils.neurons.table import Neuron, address, neuron_at
from tests.models.auto.families.table import made, system_of
from tests.tiny import tiny_images


def routes(whole, inputs) -> list[torch.Tensor]:
    """Ask the own routers which experts each token goes to: (tokens, chosen) per layer."""
    seen, hooks = [], []
    for layer in whole.model.language_model.layers:
        hook = lambda _module, _inputs, output: seen.append(output[2])  # noqa: E731
        hooks.append(layer.mlp.gate.register_forward_hook(hook))
    whole(**inputs)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen3_vl_moe", "glm4v_moe"])
def test_units_of_experts_that_were_not_routed_are_silent(name):
    model, image = system_of(name), tiny_images(1)
    experts = model.architecture.experts
    with capture(model) as seen:
        model.forward(model.prompt(image))
    for layer, chosen in enumerate(routes(made(name)[0], model.reader(image))):
        active = seen.values[layer][0, :, : experts.count * experts.units]
        active = active.unflatten(-1, (experts.count, experts.units)).abs().amax(-1) > 0
        expected = torch.zeros_like(active).scatter(1, chosen, True)
        assert torch.equal(active, expected)
        assert not expected.all()
        if experts.shared:
            assert (seen.values[layer][0, :, experts.count * experts.units :] != 0).all()


@torch.no_grad()
def test_the_routers_weight_is_part_of_an_activation():
    """The experts' own matrices, gathered by hand for one token, write what the units write."""
    model, whole, image = system_of("qwen3_vl_moe"), made("qwen3_vl_moe")[0], tiny_images(1)
    block, read = whole.model.language_model.layers[0].mlp, []
    hook = block.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    whole(**model.reader(image))
    hook.remove()
    x = read[0][0, -1]
    _, weights, chosen = block.gate(x[None])
    with capture(model, layers=[0]) as seen:
        model.forward(model.prompt(image))
    for weight, expert in zip(weights[0], chosen[0].tolist(), strict=True):
        gate, up = (block.experts.gate_up_proj[expert] @ x).chunk(2)
        own = weight * torch.nn.functional.silu(gate) * up
        mine = seen.values[0][0, -1].unflatten(0, (4, 16))[expert]
        torch.testing.assert_close(mine, own, atol=1e-6, rtol=1e-4)


def test_an_address_names_the_expert():
    experts = Experts(4, 16, 8)
    assert [experts.name(unit) for unit in (0, 50, 64, 71)] == [
        "e0.u0", "e3.u2", "shared.u0", "shared.u7",
    ]  # fmt: skip
    model = system_of("qwen3_vl_moe")
    neuron = Neuron(1, 3 * 16 + 2)
    assert address(model, neuron) == "L1.e3.u2"
    assert neuron_at(model, "L1.e3.u2") == neuron_at(model, "L1.u50") == neuron
    for wrong in ("L1.e4.u0", "L1.e0.u16", "L1.shared.u0"):
        with pytest.raises(ValueError, match=r"is not in this model: 4 experts of 16 units"):
            neuron_at(model, wrong)
    assert mmn.decode(model, "L1.e3.u2")["neuron"].tolist() == ["L1.e3.u2"]
    with pytest.raises(ValueError, match="names an expert, and there are none here"):
        neuron_at(system_of("llava"), "L1.e3.u2")


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama4", "aria"])
def test_the_shortcut_past_the_picture_changes_nothing(name):
    """Llama 4's block of experts also returns what its router said."""
    model = system_of(name)
    prompt = model.prompt(tiny_images(1))
    expected = model.forward(prompt)[0]
    with spare_last(model, prompt.embeds.shape[1] - 1):
        torch.testing.assert_close(model.forward(prompt)[0], expected, atol=1e-5, rtol=1e-4)
