"""How active units are on photographs: which drive them hardest, and which tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mmn_utils.datasets import Photograph
from mmn_utils.neurons.receptive_fields import activation_maps
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.store import digest, per_photograph


def unit_activations(
    model,
    photographs: Sequence[Photograph],
    neurons: Sequence[Neuron],
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how active neurons are on photographs, computed or loaded.

    One row per (image, neuron): layer, unit, and over all patches the largest activation
    ``peak`` and the ``mean``, both float32.
    """
    neurons = sorted(set(neurons))

    def compute(rows: list[int]) -> pd.DataFrame:
        chosen = [photographs[row] for row in rows]
        flat = activation_maps(model, [p.open() for p in chosen], neurons).flatten(2)
        return pd.DataFrame(
            {
                "image": np.repeat(np.array([p.id for p in chosen], dtype=object), len(neurons)),
                "layer": [n.layer for n in neurons] * len(chosen),
                "unit": [n.unit for n in neurons] * len(chosen),
                "peak": flat.amax(-1).flatten().cpu().numpy(),
                "mean": flat.mean(-1).flatten().cpu().numpy(),
            }
        )

    return per_photograph(
        "activity", model, photographs, compute, {"neurons": digest(list(map(str, neurons)))},
        batch_size=batch_size, progress=progress,
    )  # fmt: skip


def activation_grid(
    table: pd.DataFrame, images: Sequence[str], neurons: Sequence[Neuron], value: str = "mean"
) -> np.ndarray:
    """Lay a table of ``unit_activations`` out as (neurons, images), in the orders given."""
    wide = table.pivot(index=["layer", "unit"], columns="image", values=value)
    order = pd.MultiIndex.from_tuples([(n.layer, n.unit) for n in neurons])
    return wide.reindex(index=order, columns=list(images)).to_numpy()


def strongest(table: pd.DataFrame, neuron: Neuron, n: int) -> list[str]:
    """Name the ``n`` images that a neuron's peak is largest on, the largest first."""
    rows = table[(table["layer"] == neuron.layer) & (table["unit"] == neuron.unit)]
    return rows.sort_values("peak", ascending=False, kind="stable")["image"].head(n).tolist()


def telling_units(table: pd.DataFrame, label_of: Mapping[str, str]) -> dict[str, Neuron]:
    """Find for each label the unit that tells its images from the others best.

    The largest difference between the share of the label's images and the share of all
    other labelled images that have the unit in the table; of equals, the first address.
    """
    labels = pd.Series(label_of)
    rows = table.assign(label=table["image"].map(label_of)).dropna(subset="label")
    counts = rows.groupby(["layer", "unit", "label"])["image"].nunique().unstack(fill_value=0)
    sizes = labels.value_counts()[counts.columns]
    others = np.maximum(len(labels) - sizes, 1)
    gap = counts / sizes - (-counts.sub(counts.sum(axis=1), axis=0)) / others
    return {str(label): Neuron(*map(int, gap[label].idxmax())) for label in gap.columns}
