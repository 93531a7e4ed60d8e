"""Receptive fields against masks: a table against one photograph alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.datasets import Photograph
from mmn_utils.neurons.receptive_fields import activation_maps, iou, mask, resize_truth, upsample
from mmn_utils.neurons.table import RANDOM, TOP, Neuron, controls
from mmn_utils.studies import overlap
from mmn_utils.studies import subjects as study
from tests.studies.boxes import boxed, subjects_of
from tests.tiny import PIXELS, tiny_limber

K = 12


@pytest.fixture(scope="module")
def system():
    return tiny_limber()


@pytest.fixture
def photographs(tmp_path) -> list[Photograph]:
    return boxed(tmp_path)


def test_controls_copy_layers_and_depend_on_the_image_alone(system, photographs):
    table = study.top_neurons(system, subjects_of(system, photographs), k=K, progress=False)
    few = controls(table[table["image"] != "2"], system.sizes.units, seed=1, k=6)
    every = controls(table, system.sizes.units, seed=1, k=6)
    assert all(every[image] == sets for image, sets in few.items())
    assert "2" in every
    top, drawn = every["2"][TOP], every["2"][RANDOM]
    assert [n.layer for n in top] == [n.layer for n in drawn]
    assert not set(top) & set(drawn)
    assert drawn != controls(table, system.sizes.units, seed=2, k=6)["2"][RANDOM]


@pytest.mark.parametrize("whole_set", [False, True], ids=["map", "dataset"])
def test_the_iou_table_is_what_one_photograph_alone_gives(system, photographs, whole_set):
    table = study.top_neurons(system, subjects_of(system, photographs), k=K, progress=False)
    chosen = controls(table, system.sizes.units, seed=0, k=4)
    every = [n for sets in chosen.values() for some in sets.values() for n in some]
    levels = (
        overlap.unit_thresholds(system, photographs, every, 0.8, at_once=7) if whole_set else None
    )
    cut = overlap.Cut(0.8, levels)
    objects = {p.id: ["horse"] for p in photographs}
    found = overlap.iou_table(
        system, photographs, objects, chosen, cut=cut, batch_size=3, progress=False
    )
    assert len(found) == 5 * 2 * (4 + 1)
    photograph = photographs[3]
    units = chosen["3"][RANDOM]
    maps = activation_maps(system, [photograph.open()], units)[0]
    truth = resize_truth(photograph.mask("horse"), PIXELS)
    thresholds = torch.tensor([levels[n] for n in units]) if whole_set else None
    singles = mask(upsample(maps, PIXELS), 0.8, thresholds)
    mean = mask(upsample(maps.mean(0), PIXELS), 0.8)
    rows = found[(found["image"] == "3") & (found["condition"] == RANDOM)]
    expected = [*iou(singles, truth).tolist(), iou(mean, truth).item()]
    # batches round otherwise than one photograph: a pixel at the very threshold may fall either way
    np.testing.assert_allclose(rows["iou"], expected, atol=0.002)
    assert rows["rank"].tolist() == [0, 1, 2, 3, overlap.MEAN_MASK]
    assert [Neuron(a, b) for a, b in rows[["layer", "unit"]].to_numpy()[:4]] == units


def test_iou_by_image_averages_units_and_keeps_the_mean_mask_apart():
    values = {TOP: (0.2, 0.4, 0.9), RANDOM: (0, 0.2, 0.5)}
    ranks = (0, 1, overlap.MEAN_MASK)
    rows = [
        ("1", "cat", condition, rank, 0, 0, value)
        for condition, some in values.items()
        for rank, value in zip(ranks, some, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["image", *overlap.IOU_COLUMNS])
    assert overlap.iou_by_image(table).iloc[0].tolist() == ["cat", "1", pytest.approx(0.3), 0.1]
    assert overlap.iou_by_image(table, mean_mask=True).iloc[0].tolist() == ["cat", "1", 0.9, 0.5]
