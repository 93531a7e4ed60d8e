"""Neurons by their layers."""

from __future__ import annotations

import pytest

from mmn_utils.neurons.table import neuron_table
from mmn_utils.studies import layers


@pytest.fixture
def counted():
    rows = [
        ("a", "x", 0, 1),
        ("a", "x", 3, 1),
        ("a", "y", 3, 1),
        ("b", "x", 2, 5),
        ("b", "x", 3, 1),
    ]
    return neuron_table(
        [
            {"image": image, "target": target, "token": 1, "layer": layer, "unit": unit,
             "patch": -1, "score": 9.0 - i}
            for i, (image, target, layer, unit) in enumerate(rows)
        ]
    )  # fmt: skip


def test_layers_count_neurons_once_and_entries_each_time(counted):
    found = layers.layer_counts({"contribution": counted}, 4, [1, 2])
    both = found[found["k"] == 2]
    assert both["neurons"].tolist() == [1, 0, 1, 1]
    assert both["entries"].tolist() == [1, 0, 1, 3]
    assert both["depth"].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert found[found["k"] == 1]["entries"].sum() == 3


def test_upper_share_is_of_an_images_different_neurons(counted):
    assert layers.upper_share(counted, 4, 2).to_dict() == {"a": 0.5, "b": 1.0}
