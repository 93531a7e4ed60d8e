"""How active units are, and which tell photographs apart, against plain references."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.datasets import Photograph
from mmn_utils.neurons.receptive_fields import activation_maps
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies import activity
from tests.studies.boxes import boxed
from tests.tiny import tiny_limber


@pytest.fixture(scope="module")
def system():
    return tiny_limber()


@pytest.fixture
def photographs(tmp_path) -> list[Photograph]:
    return boxed(tmp_path)


def test_activities_are_those_of_the_maps(system, photographs):
    units = [Neuron(2, 5), Neuron(0, 7), Neuron(2, 1)]
    table = activity.unit_activations(system, photographs, units, batch_size=2, progress=False)
    for value, reduced in (("peak", torch.amax), ("mean", torch.mean)):
        grid = activity.activation_grid(table, ["4", "0"], units, value)
        maps = [activation_maps(system, [photographs[i].open()], units)[0] for i in (4, 0)]
        expected = torch.stack([reduced(m.flatten(1), 1) for m in maps], dim=1)
        np.testing.assert_allclose(grid, expected.numpy(), atol=1e-5)
    order = activity.strongest(table, units[0], 3)
    peaks = dict(
        zip(
            map(str, range(5)),
            activity.activation_grid(table, list("01234"), units, "peak")[0],
            strict=True,
        )
    )
    assert order == sorted(peaks, key=lambda image: -peaks[image])[:3]


def test_telling_units_are_in_many_of_a_label_and_few_of_the_others():
    seen = {"a": (1, 2), "b": (1, 3), "c": (1, 4), "d": (1, 4)}  # unit 1 is everywhere
    table = pd.DataFrame(
        [
            {"image": i, "layer": 2, "unit": u, "score": 1.0}
            for i, some in seen.items()
            for u in some
        ]
    )
    labels = {"a": "cat", "b": "cat", "c": "dog", "d": "dog", "e": "dog"}  # e has no rows
    found = activity.telling_units(table, labels)
    assert found == {"cat": Neuron(2, 2), "dog": Neuron(2, 4)}
