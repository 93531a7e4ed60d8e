"""Noise on write vectors, over many photographs (paper B, section 3.5 and Table 5).

Every noun of a caption has its own top neurons and its own perturbation. The claims average
what is counted over a photograph's nouns first, so that a photograph counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mmn_utils.datasets import Photograph
from mmn_utils.interventions.drafts import Drafts
from mmn_utils.interventions.perturbation import PAPER_SIGMA, perturb, perturbation_table
from mmn_utils.interventions.weights import WeightReceipt
from mmn_utils.neurons.table import RANDOM, TOP
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.edits.findings import Finding, top_neurons


def table(
    model,
    drafts: Drafts,
    photographs: Sequence[Photograph],
    said: Sequence[Sequence[Target]],
    n_neurons: int,
    *,
    n_images: int,
    sigma: float = PAPER_SIGMA,
    relative: bool = False,
    seed: int = 0,
    batch_size: int = 16,
    **switches,
) -> pd.DataFrame:
    """Perturb the top neurons of each noun on the first ``n_images`` photographs with one.

    ``drafts`` are the captions before. Rows as ``perturbation_table``; ``switches`` as
    ``contribution``. ``ValueError`` where no caption has a noun.
    """
    places = [i for i, nouns in enumerate(said) if nouns][:n_images]
    some = [photographs[i] for i in places for _ in said[i]]
    targets = [noun for i in places for noun in said[i]]
    if not targets:
        raise ValueError(
            f"no noun in {len(said)} captions, so there is nothing to perturb on {n_images} "
            "photographs; give more of them"
        )
    tops = top_neurons(model, some, targets, n_neurons, batch_size=batch_size, **switches)
    tops = [[neuron for neuron, _ in top] for top in tops]
    how = {"sigma": sigma, "seed": seed, "relative": relative, "batch_size": batch_size}
    return perturbation_table(model, drafts, targets, tops, **how)


def receipt(
    model,
    finding: Finding,
    *,
    sigma: float = PAPER_SIGMA,
    relative: bool = False,
    seed: int = 0,
    max_new_tokens: int = 20,
) -> WeightReceipt:
    """Perturb a finding's neurons, caption its photograph, and take the noise off again."""
    prompt = model.prompt([finding.photograph.open()]).named([finding.photograph.id])
    options = {"prompt": prompt, "max_new_tokens": max_new_tokens}
    with perturb(model, finding.neurons, sigma, seed, relative, **options) as receipt:
        pass
    return receipt


def extent(table: pd.DataFrame) -> dict[str, Any]:
    """Say how much was perturbed: images, nouns, and noise over write vector by condition."""
    return {
        "images": table["image"].nunique(),
        "nouns": len(table.drop_duplicates(["image", "target"])),
        "relative": table.groupby("condition")["relative"].mean().to_dict(),
    }


def exhibit(table: pd.DataFrame, n: int = 4) -> pd.DataFrame:
    """Lay the perturbation of the first ``n`` images out as paper B's Table 5 does.

    A row for each noun, with what is said under noise on its top neurons and under the same
    noise on random ones.
    """
    some = table[table["image"].isin(table["image"].unique()[:n])]
    key = ["image", "before", "target"]
    sides = {name: rows.set_index(key) for name, rows in some.groupby("condition", sort=False)}
    shown = pd.DataFrame(
        {
            f"noise on {name} neurons": sides[condition]["after"]
            for condition, name in ((TOP, "top"), (RANDOM, "random"))
        }
    )
    shown["word kept, top"] = sides[TOP]["kept"]
    shown["noise / write vector, top"] = sides[TOP]["relative"].round(1)
    shown["noise / write vector, random"] = sides[RANDOM]["relative"].round(1)
    names = {"before": "original output", "target": "concept"}
    return shown.reset_index().rename(columns=names)
