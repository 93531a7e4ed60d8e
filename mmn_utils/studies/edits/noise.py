"""Noise on write vectors, over many photographs (paper B, section 3.5 and Table 5).

Every noun of a caption has its own top neurons and its own perturbation. What is counted is
averaged over a photograph's nouns first, so that a photograph counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mmn_utils.datasets import Photograph
from mmn_utils.interventions.perturbation import PAPER_SIGMA, perturb, perturbation_table
from mmn_utils.interventions.weights import WeightReceipt
from mmn_utils.measures.estimates import Estimate, difference_of, mean_of
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.edits.findings import Finding, opened, top_neurons


@dataclass(frozen=True)
class Effects:
    """What noise does, over ``images`` photographs and ``nouns`` of their captions.

    ``changed``: how much more often the caption changes for top neurons than for random ones;
    ``calm``: how often it does not change for random ones; ``removed``: how much more often
    the noun is gone for top neurons. ``shares`` has the means of changed and kept, and how
    long the noise is over the write vector (relative), by condition.
    """

    changed: Estimate
    calm: Estimate
    removed: Estimate
    shares: dict[str, dict[str, float]]
    images: int
    nouns: int


def table(
    model,
    photographs: Sequence[Photograph],
    captions: Sequence[Caption],
    said: Sequence[Sequence[Target]],
    n_neurons: int,
    *,
    n_images: int,
    sigma: float = PAPER_SIGMA,
    relative: bool = False,
    seed: int = 0,
    max_new_tokens: int = 20,
    **switches,
) -> pd.DataFrame:
    """Perturb the top neurons of each noun on the first ``n_images`` photographs with one.

    Rows as ``perturbation_table``; ``switches`` as ``contribution``. ``ValueError``
    where no caption has a noun.
    """
    places = [i for i, nouns in enumerate(said) if nouns][:n_images]
    rows = [i for i in places for _ in said[i]]
    if not rows:
        raise ValueError(
            f"no noun in {len(said)} captions, so there is nothing to perturb on {n_images} "
            "photographs; give more of them"
        )
    some, targets = [photographs[i] for i in rows], [noun for i in places for noun in said[i]]
    return perturbation_table(
        model,
        opened(some),
        targets,
        top_neurons(model, some, targets, n_neurons, **switches),
        sigma=sigma,
        seed=seed,
        relative=relative,
        captions=[captions[i] for i in rows],
        max_new_tokens=max_new_tokens,
    )


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
    prompt = model.prompt([finding.photograph.open()])
    options = {"prompt": prompt, "max_new_tokens": max_new_tokens}
    with perturb(model, finding.neurons, sigma, seed, relative, **options) as receipt:
        pass
    return receipt


def by_image(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Average a column of a perturbation table over each image's nouns: images by condition."""
    values = table.assign(value=table[column].astype(float))
    return values.pivot_table(index="image", columns="condition", values="value", sort=False)


def effects(table: pd.DataFrame, seed: int = 0) -> Effects:
    """Average a perturbation table over its photographs, with intervals."""
    changed, kept = by_image(table, "changed"), by_image(table, "kept")
    shares = {"changed": changed.mean(), "kept": kept.mean()}
    shares["relative"] = table.groupby("condition")["relative"].mean()
    return Effects(
        changed=difference_of(changed["multimodal"], changed["random"], seed),
        calm=mean_of(1 - changed["random"], seed),
        removed=difference_of(kept["random"], kept["multimodal"], seed),
        shares={name: share.to_dict() for name, share in shares.items()},
        images=len(changed),
        nouns=len(table.drop_duplicates(["image", "target"])),
    )


def exhibit(table: pd.DataFrame, n: int = 4) -> pd.DataFrame:
    """Lay the perturbation of the first ``n`` photographs out as paper B's Table 5 does."""
    some = table[table["image"].isin(table["image"].unique()[:n])]
    return pd.DataFrame(
        {
            "image": some["image"],
            "original output": some["before"],
            "concept": some["target"],
            "neurons": some["condition"].map({"multimodal": "top", "random": "random"}),
            "noise / write vector": some["relative"].round(1),
            "perturbed output": some["after"],
            "changed": some["changed"],
            "word kept": some["kept"],
        }
    )
