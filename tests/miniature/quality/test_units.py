"""The top units of a tiny system: ablated, masked, decoded, counted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.miniature.quality.units import TOP, _fields, ablated_count, naming, unit_quality
from mmn_utils.miniature.world import World
from mmn_utils.neurons.table import Neuron, unique_neurons
from mmn_utils.studies.subjects import top_neurons
from tests.miniature.quality.world import DOG, HORSE, WORLD
from tests.tiny import tiny_limber


def test_units_of_a_tiny_system(model, found):
    units, best = unit_quality(model, found, WORLD)
    again, _ = unit_quality(model, found, WORLD)
    pd.testing.assert_frame_equal(units, again)
    assert units["noun"].tolist() == ["horse", "dog", "horse", "horse"]
    measured = units.drop(columns=["image", "noun"])
    assert ((measured >= 0) & (measured <= 1)).all(axis=None)
    for table in best.values():
        assert (table.groupby("image").size() == TOP).all()
    assert (best["sum"]["patch"] == -1).all()


@pytest.mark.parametrize(("rank", "column"), [("max", "without_top"), ("sum", "without_top_sum")])
def test_the_papers_share_of_units_is_ablated(model, found, rank, column):
    assert ablated_count(model) == round(6400 / 458_752 * 3 * 128)
    units, best = unit_quality(model, found, WORLD)
    table = best[rank]
    first = unique_neurons(table[table["image"] == "1"])[: ablated_count(model)]
    target = found.targets[1]
    prompt = model.prompt([found.photographs[1].open()]).extend(
        model.embed(torch.tensor([target.prefix]))
    )
    with torch.no_grad(), ablate(model, Ablation(tuple(first))):
        logits, _ = model.forward(prompt)
    expected = float(logits[0].softmax(-1)[target.token])
    assert units.loc[1, column] == pytest.approx(expected, rel=1e-3)


def test_a_noun_that_is_not_there_has_no_overlap_with_its_mask(model, found):
    rng, units = np.random.default_rng(0), [Neuron(0, 1), Neuron(2, 5)]
    scene = found.photographs[0]
    prompt = model.prompt([scene.open()])
    row = _fields(model, scene, prompt, DOG, units, rng)
    assert np.isnan([row["iou_top"], row["iou_random"]]).all()
    assert not np.isnan(_fields(model, scene, prompt, HORSE, units, rng)["iou_top"])


@pytest.mark.parametrize("rank", ["max", "sum"])
def test_a_planted_unit_names_its_concept_by_the_sign_of_its_activation(found, rank):
    """Whichever end of a top unit's vector holds the noun: it counts where the unit writes it."""
    system = tiny_limber()
    table = top_neurons(system, found, k=TOP, rank_by=rank)
    best = table[table["image"] == "1"].iloc[0]
    token = system.tokenizer.encode(" dog")[0]
    shares = {}
    for end in (1, -1):
        with torch.no_grad():
            vector = end * np.sign(best["activation"]) * 50 * system.unembedding[0][token]
            system.write_vectors(int(best["layer"]))[int(best["unit"])] = vector
        shares[end] = naming(system, found, table, WORLD)["1"][0]
    assert shares[1] == pytest.approx(shares[-1] + 1 / TOP)


def test_a_noun_without_a_card_names_nothing(model, found):
    table = top_neurons(model, found, k=TOP, rank_by="max")
    other = World(WORLD.concepts[1:], WORLD.backgrounds)
    assert np.isnan(naming(model, found, table, other)["0"]).all()
