"""timm's BEiT and transformers' are one encoder, and neither has a final norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmn_utils.models.encoders import HubBeit, TimmBeit, timm_weights
from tests.tiny import PIXELS, WIDTH, tiny_hub_beit, tiny_timm_beit


def pixels(n=2, seed=0):
    return torch.randn(n, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("hub_facts", "timm_facts"),
    [
        ({}, {}),
        (
            {"use_shared_relative_position_bias": False, "use_relative_position_bias": True},
            {"use_shared_rel_pos_bias": False, "use_rel_pos_bias": True},
        ),
        ({"use_absolute_position_embeddings": True}, {"use_abs_pos_emb": True}),
    ],
    ids=["shared bias", "bias per layer", "absolute positions"],
)
@torch.no_grad()
def test_both_classes_agree_on_the_same_weights(hub_facts, timm_facts):
    hub = tiny_hub_beit(seed=3, **hub_facts)
    timm = tiny_timm_beit(hub, **timm_facts)
    for module in timm.modules():  # timm's own default is 1e-6, transformers' 1e-12
        if isinstance(module, nn.LayerNorm):
            module.eps = hub.config.layer_norm_eps
    torch.testing.assert_close(
        TimmBeit(timm).features(pixels()), HubBeit(hub).features(pixels()), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_both_encoders_leave_out_cls_and_final_norm():
    hub = tiny_hub_beit()
    states = []
    hub.layers[-1].register_forward_hook(lambda _m, _in, out: states.append(out))
    timm = TimmBeit(tiny_timm_beit(hub))
    timm.beit.norm = nn.LayerNorm(WIDTH)
    encoder = HubBeit(hub)
    found = encoder.features(pixels())
    assert found.shape == (2, 16, WIDTH)
    torch.testing.assert_close(found, states[0][:, 1:], atol=0, rtol=0)
    torch.testing.assert_close(timm.features(pixels()), found, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_final_norm_of_the_configuration_is_switched_off():
    plain = HubBeit(tiny_hub_beit(seed=1)).features(pixels())
    normed = tiny_hub_beit(seed=1, use_mean_pooling=False)
    normed.load_state_dict(tiny_hub_beit(seed=1).state_dict(), strict=False)
    assert not torch.allclose(normed(pixels()).last_hidden_state[:, 1:], plain)
    torch.testing.assert_close(HubBeit(normed).features(pixels()), plain)


@pytest.mark.parametrize("kind", [HubBeit, lambda hub: TimmBeit(tiny_timm_beit(hub))])
def test_facts_of_an_encoder(kind):
    encoder = kind(tiny_hub_beit())
    assert (encoder.width, encoder.grid, encoder.pixels) == (WIDTH, (4, 4), PIXELS)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    with pytest.raises(ValueError, match=r"give \(batch, 3, 32, 32\)"):
        encoder.features(torch.zeros(1, 3, 16, 16))


def test_patches_are_in_reading_order():
    """A mark in one patch moves the features of that patch most."""
    hub = tiny_hub_beit()
    for layer in hub.layers:
        layer.lambda_1.data.zero_()  # no attention: each patch sees itself
    encoder = HubBeit(hub)
    plain = torch.zeros(1, 3, PIXELS, PIXELS)
    marked = plain.clone()
    marked[:, :, 8:16, 24:32] = 1  # second row, last column
    moved = (encoder.features(marked) - encoder.features(plain)).abs().sum(-1)[0]
    assert moved.nonzero().flatten().tolist() == [7]


def test_an_unknown_weight_is_refused():
    with pytest.raises(ValueError, match=r"'classifier\.weight' is no weight of BeitModel"):
        timm_weights({"classifier.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="no weight of BeitModel"):
        timm_weights({"layers.0.attention.k_proj.bias": torch.zeros(1)})
