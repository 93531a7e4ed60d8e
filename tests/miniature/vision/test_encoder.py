"""The encoder: timm's own function, its features in their order, what is hidden, its files."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.miniature.vision.encoder import (
    build_encoder,
    embed,
    encode_images,
    features,
    layers,
    load_encoder,
    position_bias,
    save_encoder,
    to_input,
)


def test_fused_forward_equals_timm(model):
    pixels = torch.randn(2, 3, 32, 32)
    for ours in layers(model, embed(model, pixels, None, None)):
        last = ours
    torch.testing.assert_close(model.norm(last), model.forward_features(pixels), atol=1e-4, rtol=0)


def test_features_are_the_last_block_without_cls_and_norm(model):
    pixels, seen = torch.randn(2, 3, 32, 32), []
    handle = model.blocks[-1].register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.no_grad():
        model(pixels)
    handle.remove()
    torch.testing.assert_close(features(model, pixels), seen[0][:, 1:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [1, 4, 5, 12])  # an odd and an even number of batches
def test_pictures_are_encoded_in_their_order(model, scenes, batch):
    parts = list(encode_images(model, scenes.images, batch=batch))
    assert [len(part) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    expected = features(model, to_input(scenes.images))
    torch.testing.assert_close(torch.cat(parts), expected, atol=1e-4, rtol=0)


def test_a_window_has_the_same_place_biases_wherever_it_falls(model):
    whole = position_bias(model, 16).detach()
    assert torch.equal(whole, model.rel_pos_bias().detach())
    grid, window = torch.arange(16).view(4, 4), position_bias(model, 9).detach()
    for top, left in ((0, 0), (1, 0), (1, 1)):
        kept = torch.cat((torch.tensor([0]), 1 + grid[top : top + 3, left : left + 3].flatten()))
        assert torch.equal(window, whole[:, kept[:, None], kept])


def test_masked_patches_are_not_seen(model):
    pixels, masked = torch.randn(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.bool)
    masked[0, 0] = True
    other = pixels.clone()
    other[..., :8, :8] = 7.0
    token = torch.zeros(1, 1, 32)
    first, second = (embed(model, p, masked, token) for p in (pixels, other))
    assert torch.equal(first, second)


def test_saved_encoder_loads_into_timm(tmp_path):
    torch.manual_seed(0)
    model = build_encoder().eval()
    save_encoder(model, tmp_path / "vision.safetensors")
    loaded = load_encoder(tmp_path / "vision.safetensors")
    pixels = torch.randn(1, 3, 112, 112)
    assert features(loaded, pixels).shape == (1, 196, 128)
    torch.testing.assert_close(features(loaded, pixels), features(model, pixels), atol=2e-2, rtol=0)
