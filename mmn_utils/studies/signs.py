"""Which end of its vector a unit writes where it was found, and random units beside it.

A unit was found with an activation at hand, and writes its sign times its write vector
(``neurons.decoding``). A random unit that stands beside it as a control was not found
anywhere: it is read where its partner was, at the same patch, so that both are decoded by the
sign of their own activation at the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch

from mmn_utils.cache import cached
from mmn_utils.neurons.activation import activations_at
from mmn_utils.neurons.decoding import (
    WORDS,
    Signed,
    decode_vectors,
    extreme_tokens,
    signed,
    signs_of,
)
from mmn_utils.neurons.table import RANDOM, TOP, Neuron, controls, unique_rows
from mmn_utils.neurons.text import WORDS_NEEDED, is_dictionary_word
from mmn_utils.studies.store import model_identity, per_photograph
from mmn_utils.studies.subjects import Subjects

Readable = Mapping[int, np.ndarray]  # by sign, bool (layers, units)


def signed_controls(
    model,
    subjects: Subjects,
    neurons: pd.DataFrame,
    *,
    seed: int = 0,
    k: int | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> dict[str, dict[str, list[Signed]]]:
    """List each image's top ``k`` units and random ones, as ``table.controls``, with signs.

    {image: {"multimodal": [(neuron, sign), ...], "random": [...]}}. ``neurons`` is the subjects'
    neuron table. The activations of the random units are computed or loaded.
    """
    sets = controls(neurons, model.sizes.units, seed, k)
    tops = {image: unique_rows(neurons[neurons["image"] == image])[:k] for image in sets}
    places = {
        image: [
            [unit.layer, unit.unit, int(patch)]
            for unit, patch in zip(sets[image][RANDOM], rows["patch"], strict=True)
        ]
        for image, rows in tops.items()
    }
    random = _activations(model, subjects.select(list(sets)), places, batch_size, progress)
    return {
        image: {
            TOP: signed(rows),
            RANDOM: list(zip(sets[image][RANDOM], signs_of(random[image]).tolist(), strict=True)),
        }
        for image, rows in tops.items()
    }


def _activations(
    model, subjects: Subjects, places: Mapping[str, list], batch_size: int, progress: bool
) -> dict[str, np.ndarray]:
    """Read units of each image, given as [layer, unit, patch]: {image: float32 (units,)}."""
    wanted = [places[image] for image in subjects.ids]

    def compute(rows: list[int]) -> pd.DataFrame:
        images = [subjects.photographs[row].open() for row in rows]
        lists = [[(Neuron(a, b), patch) for a, b, patch in wanted[row]] for row in rows]
        found = activations_at(model, images, lists)
        each = zip(rows, found, strict=True)
        return pd.concat(
            pd.DataFrame({"image": subjects.ids[row], "activation": some}) for row, some in each
        )

    table = per_photograph(
        "controls", model, subjects.photographs, compute, {},
        targets=wanted, batch_size=batch_size, progress=progress,
    )  # fmt: skip
    groups = table.groupby("image", sort=False)["activation"]
    return {str(image): some.to_numpy() for image, some in groups}


def interpretable_ends(model, decode_norm: str = "none", decode_bias: bool = False) -> Readable:
    """Say which units are interpretable by either end of their vectors, as ``text`` defines it.

    {1: along the write vector, -1: along its opposite}, bool (layers, units) each; cached, as it
    takes every unit's product with the whole vocabulary. The options are those of
    ``decode_vectors``.
    """
    asked = {"words": WORDS_NEEDED, "norm": decode_norm, "bias": decode_bias}
    ends = cached(
        "interpretable", {**model_identity(model), **asked},
        partial(_readable, model, decode_norm, decode_bias),
        save=lambda found, file: np.save(file, found), load=np.load, suffix=".npy",
    )  # fmt: skip
    return dict(zip((1, -1), ends, strict=True))


@torch.no_grad()
def _readable(model, norm: str, bias: bool) -> np.ndarray:
    """Return the two ends' bool (2, layers, units)."""
    word = torch.tensor([is_dictionary_word(text) for text in model.token_strings])
    ends = [_ends(model, i, norm, bias) for i in range(model.sizes.layers)]
    readable = [[word[ids].sum(1) >= WORDS_NEEDED for ids in layer] for layer in ends]
    return np.stack([torch.stack(layers).numpy() for layers in zip(*readable, strict=True)])


def _ends(model, layer: int, norm: str, bias: bool) -> tuple[torch.Tensor, ...]:
    """Return the tokens of both ends of a layer's vectors: ids (units, WORDS) long, twice."""
    vectors = model.written_vectors(layer)
    if norm == "none" and not bias:
        return extreme_tokens(model, vectors)
    # a norm's shift and a bias do not turn with the vector
    return tuple(decode_vectors(model, sign * vectors, WORDS, norm, bias)[0] for sign in (1, -1))


def interpretable_rows(readable: Readable, table: pd.DataFrame) -> np.ndarray:
    """Say of each row of a neuron table whether what its unit wrote there is interpretable.

    ``readable`` as from ``interpretable_ends``; bool (rows,).
    """
    negative = signs_of(table["activation"]) < 0
    place = table["layer"].to_numpy(), table["unit"].to_numpy()
    return np.where(negative, readable[-1][place], readable[1][place])


def share_negative(table: pd.DataFrame) -> float:
    """Return the share of a neuron table's rows whose activation is negative."""
    return float((signs_of(table["activation"]) < 0).mean())
