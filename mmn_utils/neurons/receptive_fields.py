"""Where a neuron looks: activations at image patches to heat map, mask and IoU.

Paper A, section 3.2: a neuron's activations on the image tokens, in the shape of their
grid, scaled to the picture's size by bilinear interpolation, cut above the 0.95
percentile, and compared with the data set's instance masks.

Maps lie over what the encoder sees of a picture, which is not all of it where its middle is cut
out, and more where it is padded (``models.pixels``). Masks and pictures are brought there by
``seen_truth`` and ``seen_picture``, maps back over the whole picture by ``over_picture``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import capture, stop_after
from mmn_utils.models.finite import require_finite
from mmn_utils.models.pixels import cut_box
from mmn_utils.neurons.table import Neuron, by_layer, check_neurons
from mmn_utils.neurons.targets import embedded

QUANTILE = 0.95


@torch.no_grad()
def activation_maps(
    model,
    images: Sequence | Prompt,
    neurons: Sequence[Neuron],
    names: Sequence[str] = (),
) -> torch.Tensor:
    """Read the activations of neurons on the image tokens: (images, neurons, h, w) float32.

    On the model's device; only the layers asked for are read, and none after them is
    computed. A prompt of the images will do as well. ``ValueError`` for a model whose
    image tokens have no place in the picture, and ``NotFinite`` for activations that are not
    finite, which names the picture as ``names`` or the prompt do.
    """
    height, width = model.require_grid()
    check_neurons(neurons, model.sizes.layers, model.sizes.units)
    places = model.image_tokens.places
    if not neurons:
        return torch.empty(len(images), 0, height, width, device=model.device)
    layers, prompt = list(by_layer(neurons)), embedded(model, images)
    with capture(model, "activation", layers=layers) as seen, stop_after(model, max(layers)):
        model.forward(prompt)
    columns = [seen.values[n.layer][:, places, n.unit].float() for n in neurons]
    found = torch.stack(columns, dim=1).unflatten(-1, (height, width))
    require_finite(model, found, names or prompt.names, "activations")
    return found


def upsample(maps: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Scale maps (..., h, w) to (..., H, W) float32, bilinear with ``align_corners=False``.

    ``size`` is (H, W), or the side of a square. Pixel centres of both grids cover the
    same picture, so a patch stays over the pixels that it was made from.
    """
    size = (size, size) if isinstance(size, int) else tuple(size)
    _require_finite(maps)
    flat = maps.float().reshape(-1, 1, *maps.shape[-2:])
    up = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    return up.reshape(*maps.shape[:-2], *size)


def map_quantile(values: torch.Tensor, quantile: float = QUANTILE) -> torch.Tensor:
    """Take a quantile of (..., n) over the last dimension, linear between neighbours: (...).

    As ``torch.quantile``, without its limit of 16 million values; only what lies above is
    looked for, never a full sort.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile={quantile}: give a fraction from 0 to 1, such as {QUANTILE}")
    count = values.shape[-1]
    place = round(quantile * (count - 1), 9)  # 0.95 * 20 is the 19th, not a hair below
    below = math.floor(place)
    highest = values.topk(count - below, dim=-1, sorted=False).values
    if place == below:
        return highest.amin(-1)
    low, high = highest.topk(2, dim=-1, largest=False).values.unbind(-1)
    return low + (high - low) * (place - below)


def mask(
    maps: torch.Tensor,
    quantile: float = QUANTILE,
    thresholds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cut maps (..., H, W) strictly above a quantile: bool (..., H, W).

    Each map's own quantile, or ``thresholds`` that broadcast over (...) and come from
    ``dataset_thresholds``. Nothing of a constant map lies strictly above its quantile,
    so its mask is empty, as is that of a map which has its maximum on more pixels than
    the quantile leaves. ``ValueError`` for NaN or infinite values.
    """
    _require_finite(maps)
    if thresholds is None:
        thresholds = map_quantile(maps.flatten(-2), quantile)
    return maps > thresholds.to(maps)[..., None, None]


def dataset_thresholds(maps: torch.Tensor, quantile: float = QUANTILE) -> torch.Tensor:
    """Take each neuron's quantile over a whole data set: (images, neurons, h, w) to (neurons).

    Network dissection's choice: over every patch of every image, before upsampling.
    """
    _require_finite(maps)
    return map_quantile(maps.transpose(0, 1).flatten(1), quantile)


def resize_truth(truth, size: int | tuple[int, int]) -> torch.Tensor:
    """Resize an instance mask (h, w) to bool (H, W), each pixel from the nearest centre.

    The whole mask is squashed to ``size``; see ``seen_truth``. A mask of a few pixels can
    vanish; ``iou`` then says so.
    """
    truth = torch.as_tensor(truth)
    if truth.ndim != 2:
        raise ValueError(f"a mask has two dimensions, not {truth.ndim}; give one instance's (h, w)")
    size = (size, size) if isinstance(size, int) else tuple(size)
    flat = truth.bool().float()[None, None]
    return F.interpolate(flat, size=size, mode="nearest-exact")[0, 0].bool()


def seen_part(model, field: np.ndarray) -> np.ndarray:
    """Cut out of a field (h, w, ...) over a picture what the encoder sees; 0 where it is padded."""
    height, width = field.shape[:2]
    return cut_box(field, model.seen((width, height)))


def seen_picture(model, picture: Image.Image) -> Image.Image:
    """Return the part of a picture that the encoder sees, over which maps lie: RGB."""
    return Image.fromarray(seen_part(model, np.asarray(picture.convert("RGB"))))


def seen_truth(model, truth) -> torch.Tensor:
    """Bring an instance mask (h, w) of a picture to the model's pixels: bool (H, W).

    As the picture gets there; ``resize_truth`` of what the encoder sees of it.
    """
    return resize_truth(seen_part(model, np.asarray(truth)), model.image_tokens.pixels)


def over_picture(model, maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Scale maps (..., h, w) to a picture of (H, W) pixels: float32 (..., H, W), ``upsample``.

    NaN where the encoder sees nothing of the picture.
    """
    height, width = size
    left, top, right, bottom = model.seen((width, height))
    up = upsample(maps, (bottom - top, right - left))
    up = up[..., max(-top, 0) :, max(-left, 0) :][..., :height, :width]
    top, left = max(top, 0), max(left, 0)
    below, beside = height - top - up.shape[-2], width - left - up.shape[-1]
    return F.pad(up, (left, beside, top, below), value=torch.nan)


def iou(masks: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Intersection over union of bool masks (..., H, W) with a truth (H, W): float32 (...).

    An empty mask has IoU 0. ``ValueError`` for shapes that differ and for an empty truth,
    which no mask can agree with.
    """
    masks, truth = torch.as_tensor(masks).bool(), torch.as_tensor(truth).bool()
    if masks.shape[-2:] != truth.shape:
        raise ValueError(
            f"masks of {tuple(masks.shape[-2:])} against a truth of {tuple(truth.shape)}; "
            "bring the truth to the size of the maps with resize_truth"
        )
    if not truth.any():
        raise ValueError("the truth mask is empty; leave this instance out")
    truth = truth.to(masks.device)
    shared = (masks & truth).sum(dim=(-2, -1))
    return shared.float() / (masks | truth).sum(dim=(-2, -1)).float()


def _require_finite(maps: torch.Tensor) -> None:
    """Raise ``ValueError`` where maps hold NaN or infinity, saying which map."""
    bad = ~torch.isfinite(maps).flatten(-2).all(-1)
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist()) if bad.ndim else ()
        raise ValueError(
            f"map {first} holds NaN or infinity; run the model in float32 or bfloat16 "
            "and check the weights"
        )
