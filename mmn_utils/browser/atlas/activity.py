"""How active every unit is at image tokens: one pass over the pictures, reduced as it goes.

Of each picture are kept, for every unit, the maximum over its image tokens, where that lies,
and how many of them fall into each of some fixed bins; of pictures with a single object also
the overlap of the unit's thresholded map with it. No field over patches leaves the device.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from mmn_utils.cache import bar, code_version
from mmn_utils.datasets import Photograph
from mmn_utils.models.finite import require_finite
from mmn_utils.neurons.receptive_fields import iou, mask, seen_truth, upsample
from mmn_utils.neurons.targets import embedded, positions_of, watch
from mmn_utils.studies.store import per_photograph

# Edges of the histogram's bins, [a, b); those outside are open. 0 is one of them, so the
# share of negative activations can be read off.
_POWERS = tuple(2.0**power for power in range(-5, 4))
EDGES = (*(-edge for edge in reversed(_POWERS)), 0.0, *_POWERS)
BINS, BELOW_ZERO = len(EDGES) + 1, EDGES.index(0.0) + 1
PICTURES = 10  # of each kind that show a unit
KINDS = ("strongest", "middle", "random")
AT_ONCE = 32  # pictures whose records are held together
_MAPS_AT_ONCE = 1 << 20  # pixels of upsampled maps, so that a block stays in the CPU's cache


@dataclass(frozen=True, eq=False)
class Activity:
    """What N pictures did to all units.

    ``peaks`` (N, layers, units) float32, the maximum over image tokens, and ``patches`` int16,
    where it lies; ``counts`` (layers, units, bins) int64; ``overlaps`` {category: (layers,
    units)} float32, the mean IoU over the category's pictures.
    """

    peaks: np.ndarray
    patches: np.ndarray
    counts: np.ndarray
    overlaps: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Seen:
    """Places of pictures (units, k) int32, a unit's values on them float32, its patches int16."""

    pictures: np.ndarray
    values: np.ndarray
    patches: np.ndarray


def activity(
    model,
    photographs: Sequence[Photograph],
    objects: Mapping[str, Sequence[str]],
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> Activity:
    """Run the pictures once, or load what is kept of them, and add up.

    ``objects`` gives some pictures' categories, by id, to compare maps with. What is held
    together is one number and one patch for each unit and picture, and the records of
    ``AT_ONCE`` pictures.
    """
    layers, units = model.sizes.layers, model.sizes.units
    peaks = np.empty((len(photographs), layers, units), np.float32)
    patches = np.empty(peaks.shape, np.int16)
    counts = np.zeros((layers, units, BINS), np.int64)
    sums = {name: np.zeros((2, layers, units), np.float64) for name in _categories(objects)}
    with bar("atlas", len(photographs), progress) as gone:
        for start in range(0, len(photographs), AT_ONCE):
            some = photographs[start : start + AT_ONCE]
            place = {photograph.id: start + i for i, photograph in enumerate(some)}
            for record in _records(model, some, objects, batch_size).itertuples():
                row, layer = place[record.image], record.layer
                peaks[row, layer] = np.frombuffer(record.peak, np.float32)
                patches[row, layer] = np.frombuffer(record.patch, np.int16)
                counts[layer] += np.frombuffer(record.counts, np.int16).reshape(BINS, units).T
                found = np.frombuffer(record.overlaps, np.float32).reshape(-1, units)
                for name, values in zip(objects.get(record.image, ()), found, strict=True):
                    sums[name][:, layer] += (np.nan_to_num(values), ~np.isnan(values))
            gone.update(len(some))
    return Activity(peaks, patches, counts, {n: _mean(*both) for n, both in sums.items()})


def _categories(objects: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted({name for names in objects.values() for name in names})


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Divide, NaN where nothing was counted: an object too small for the model's pixels."""
    empty = np.full(total.shape, np.nan)
    return np.divide(total, count, out=empty, where=count > 0).astype(np.float32)


def _records(model, photographs, objects, batch_size: int) -> pd.DataFrame:
    """Compute or load a row for each picture and layer, its arrays as bytes."""

    def compute(rows: list[int]) -> pd.DataFrame:
        chosen = [photographs[row] for row in rows]
        return _batch(model, chosen, [objects.get(one.id, ()) for one in chosen])

    # The cache knows a picture by what its maps are compared with, too.
    compared = [
        [[name, one.mask(name).tobytes().hex()] for name in objects.get(one.id, ())]
        for one in photographs
    ]
    return per_photograph(
        "atlas", model, photographs, compute, {"code": code_version([sys.modules[__name__]])},
        targets=compared, batch_size=batch_size, progress=False,
    )  # fmt: skip


@torch.no_grad()
def _batch(model, photographs: Sequence[Photograph], objects: Sequence[Sequence[str]]):
    """Reduce each layer of one forward pass as soon as it is there."""
    prompt = embedded(model, [photograph.open() for photograph in photographs])
    span = positions_of(model, prompt, None)
    truths = [_truths(model, *pair) for pair in zip(photographs, objects, strict=True)]
    rows: list[dict] = []
    names = [photograph.id for photograph in photographs]

    def reduce(layer: int, activation: torch.Tensor) -> None:
        field = activation[:, span].float()
        peak, patch = field.max(1)
        require_finite(model, peak, names, f"activations of layer {layer}")
        counted = counts(field)
        for i, photograph in enumerate(photographs):
            arrays = {
                "peak": peak[i],
                "patch": patch[i].short(),
                "counts": counted[i].short(),
                "overlaps": overlaps(model, field[i], truths[i]),
            }
            kept = {name: array.cpu().numpy().tobytes() for name, array in arrays.items()}
            rows.append({"image": photograph.id, "layer": layer, **kept})

    with watch(model, reduce):
        model.forward(prompt)
    return pd.DataFrame(rows)


def counts(field: torch.Tensor) -> torch.Tensor:
    """Count activations (B, P, units) in bins over P: (B, bins, units) long."""
    reached = [(field >= edge).sum(1) for edge in EDGES]
    whole = torch.full_like(reached[0], field.shape[1])
    steps = torch.stack([whole, *reached, torch.zeros_like(whole)], dim=1)
    return steps[:, :-1] - steps[:, 1:]


def _truths(model, photograph: Photograph, categories: Sequence[str]) -> list[torch.Tensor]:
    return [seen_truth(model, photograph.mask(name)).to(model.device) for name in categories]


def overlaps(model, field: torch.Tensor, truths: Sequence[torch.Tensor]) -> torch.Tensor:
    """Compare the thresholded maps of a field (P, units) with objects: IoU (objects, units).

    As paper A, section 3.2; NaN for an object of which nothing is left on the model's pixels.
    """
    found = torch.full((len(truths), field.shape[1]), torch.nan)
    if not truths:
        return found
    size = model.image_tokens.pixels
    maps = field.T.unflatten(-1, model.require_grid())
    step = max(1, _MAPS_AT_ONCE // size**2)
    for start in range(0, len(maps), step):
        masks = mask(upsample(maps[start : start + step], size))
        for row, truth in enumerate(truths):
            if truth.any():
                found[row, start : start + step] = iou(masks, truth).cpu()
    return found


def shown(found: Activity, seed: int, k: int = PICTURES, device="cpu") -> dict[str, Seen]:
    """Choose the pictures that show each unit: {kind: its pictures, units in one row of all}.

    The ``strongest`` k, highest first; k in the ``middle`` of the order by their maximum, and
    k at ``random``, drawn for each unit by itself from the seed. Equals stay in the order of
    the pictures. All of them where there are fewer than k.
    """
    layers = [_of_layer(found, layer, seed, k, device) for layer in range(found.peaks.shape[1])]
    return {kind: _joined([one[kind] for one in layers]) for kind in KINDS}


def _joined(layers: list[tuple[np.ndarray, ...]]) -> Seen:
    return Seen(*map(np.concatenate, zip(*layers, strict=True)))


def _of_layer(found: Activity, layer: int, seed: int, k: int, device) -> dict[str, tuple]:
    """Choose for the units of one layer: {kind: pictures, values, patches (units, k)}."""
    peaks = torch.from_numpy(np.ascontiguousarray(found.peaks[:, layer])).to(device)
    order = peaks.sort(dim=0, descending=True, stable=True).indices.cpu().numpy()
    count = len(order)
    start = max(0, (count - k) // 2)
    drawn = np.random.default_rng([seed, layer]).random(order.shape).argsort(0)
    chosen = {"strongest": order[:k], "middle": order[start : start + k], "random": drawn[:k]}
    return {kind: _read(found, layer, rows) for kind, rows in chosen.items()}


def _read(found: Activity, layer: int, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Read values and patches at places (k, units): each (units, k)."""
    values, patches = (
        np.take_along_axis(a[:, layer], rows, 0) for a in (found.peaks, found.patches)
    )
    return rows.T.astype(np.int32), values.T, patches.T
