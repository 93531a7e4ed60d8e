"""Whether the paper's effects show in the top units of scenes, against random units."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mmn_utils.datasets.base import Photograph
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.miniature.quality.cards import concept_of, on_card, things_in
from mmn_utils.miniature.world import Concept, World
from mmn_utils.models.base import Prompt
from mmn_utils.neurons.decoding import decoded_words
from mmn_utils.neurons.receptive_fields import activation_maps, iou, mask, resize_truth, upsample
from mmn_utils.neurons.table import Neuron, random_like, top_k, unique_neurons
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.signs import signed_controls
from mmn_utils.studies.subjects import Subjects, top_neurons

TOP = 20  # units looked at in each scene, as in paper A's Table S.1
ABLATED = 6400 / 458_752  # paper A's largest ablation, as a share of GPT-J's units


def ablated_count(model) -> int:
    """Return how many of the model's units are the paper's largest share, 1.4 %."""
    return max(1, round(ABLATED * model.sizes.layers * model.sizes.units))


def unit_quality(
    model, found: Subjects, world: World, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Test the top units of each scene against random units of the same layers.

    Columns of the first table: image, noun; probability of the noun, and without units (the
    paper's largest share): without_top, by their maximum over patches, without_top_sum, by
    their sum, without_random; iou_top and iou_random of the masks of ``TOP`` units, NaN where
    the noun is not in the scene; card_max, card_max_random, card_sum, card_sum_random: share
    of the ``TOP`` units with a word of the noun's card among the ten tokens that they write where
    they scored, by the sign of their activation (random ones: of their own at the same place),
    NaN where the noun has no card. The second holds the neuron table of the ``TOP`` units by
    ``rank_by``.
    """
    count = ablated_count(model)
    k = max(100, count, TOP)  # 100 is what the other notebooks ask for: computed once
    ranked = {rank: top_neurons(model, found, k=k, rank_by=rank) for rank in ("max", "sum")}
    lists = {rank: _by_image(table) for rank, table in ranked.items()}
    named = {rank: naming(model, found, table, world, seed) for rank, table in ranked.items()}
    rows = []
    for i, (photograph, target) in enumerate(zip(found.photographs, found.targets, strict=True)):
        rng = np.random.default_rng([seed, i])
        best = lists["max"][photograph.id]
        row = {"image": photograph.id, "noun": target.noun}
        prompt = model.prompt([photograph.open()])
        row |= _ablation(
            model, prompt, target, [lists[rank][photograph.id][:count] for rank in ranked], rng
        )
        row |= _fields(model, photograph, prompt, concept_of(target.noun, world), best[:TOP], rng)
        for rank in ranked:
            top, random = named[rank][photograph.id]
            row |= {f"card_{rank}": top, f"card_{rank}_random": random}
        rows.append(row)
    return pd.DataFrame(rows), {rank: top_k(table, TOP) for rank, table in ranked.items()}


def _by_image(table: pd.DataFrame) -> dict[str, list[Neuron]]:
    """List each image's units, best first."""
    return {image: unique_neurons(part) for image, part in table.groupby("image")}


def _ablation(model, prompt: Prompt, target: Target, units: list[list[Neuron]], rng) -> dict:
    """Read the noun's probability without the top units, by maximum and by sum, and at random.

    The random ones are as many as the first list has, in the same layers.
    """
    others = random_like(units[0], model.sizes.units, rng)
    kept = sweep(model, prompt, target, [[], *units, others], max_new_tokens=0).probability
    names = ("probability", "without_top", "without_top_sum", "without_random")
    return dict(zip(names, kept.tolist(), strict=True))


def _fields(
    model,
    photograph: Photograph,
    prompt: Prompt,
    concept: Concept | None,
    units: list[Neuron],
    rng,
) -> dict:
    """Compare the masks of top and of random units with the noun's own mask."""
    if concept is None or concept.name not in things_in(photograph):
        return {"iou_top": np.nan, "iou_random": np.nan}
    side = model.image_tokens.pixels
    both = [*units, *random_like(units, model.sizes.units, rng)]
    maps = upsample(activation_maps(model, prompt, both)[0], side)
    scores = iou(mask(maps), resize_truth(photograph.mask(concept.name), side))
    halves = scores[: len(units)].mean(), scores[len(units) :].mean()
    return {"iou_top": float(halves[0]), "iou_random": float(halves[1])}


def naming(
    model, found: Subjects, table: pd.DataFrame, world: World, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return by image the share of top and of random units that write a word of the noun's card.

    Of the ``TOP`` units of the subjects' neuron table and as many random ones of the same layers,
    both with the sign of their activation at the same place (``studies.signs``). NaN where the
    noun has no card.
    """
    sets = signed_controls(model, found, table, seed=seed, k=TOP)
    every = [one for pair in sets.values() for part in pair.values() for one in part]
    words = decoded_words(model, every)
    nouns = {target.image: concept_of(target.noun, world) for target in found.targets}
    return {
        image: tuple(_share([words[one] for one in part], nouns[image]) for part in pair.values())
        for image, pair in sets.items()
    }


def _share(words: list[list[str]], concept: Concept | None) -> float:
    """Return the share of units that write a word of a concept's card; NaN without a card."""
    return np.nan if concept is None else float(np.mean([on_card(one, concept) for one in words]))


# --- where they lie, and whose they are -------------------------------------------------


def layer_counts(table: pd.DataFrame, layers: int) -> pd.DataFrame:
    """Count each image's units by layer: images as rows, layers 0 to ``layers`` - 1 as columns."""
    counts = pd.crosstab(table["image"], table["layer"])
    return counts.reindex(columns=range(layers), fill_value=0)


def overlaps(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Compare all pairs of images: share of top units in common (N, N), and same target (N, N)."""
    groups = list(table.groupby("image"))
    units = [set(unique_neurons(part)) for _, part in groups]
    nouns = np.array([part["target"].iloc[0] for _, part in groups])
    shared = [[len(a & b) / max(1, min(len(a), len(b))) for b in units] for a in units]
    return np.array(shared, dtype=float).reshape(len(units), len(units)), nouns[:, None] == nouns
