"""Neurons by their layers."""

from __future__ import annotations

import pandas as pd

from mmn_utils.studies import layers


def test_units_are_counted_once_per_layer():
    table = pd.DataFrame({"layer": [0, 2, 2, 0], "unit": [1, 1, 5, 1]}).astype("int32")
    numbers = layers.unit_numbers(table, 16)
    assert numbers.tolist() == [1, 33, 37, 1]
    assert layers.units_per_layer(numbers, 16, 4).tolist() == [1, 0, 2, 0]
    assert layers.units_per_layer(numbers[:0], 16, 2).tolist() == [0, 0]
    assert layers.units_per_layer(numbers.reshape(2, 2), 16, 4).tolist() == [1, 0, 2, 0]
