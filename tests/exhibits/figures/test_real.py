"""Figures of notebook 08: legible, and of the numbers that they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mmn_utils.exhibits import plots
from mmn_utils.exhibits.figures import real as figures
from mmn_utils.neurons.table import neuron_table
from tests.exhibits.legible import assert_legible


@pytest.fixture(autouse=True)
def style():
    plots.use_style()
    yield
    plt.close("all")


def curve(column: str, ways: list[str]) -> pd.DataFrame:
    rows = [(100 * i, way, 0.1 * i + 0.05 * j) for j, way in enumerate(ways) for i in range(4)]
    table = pd.DataFrame(rows, columns=["steps", column, "share"])
    return table.assign(low=table["share"] - 0.05, high=table["share"] + 0.05)


@pytest.mark.parametrize("sources", [["caltech101", "imagenette", "coco_val2017"], ["flickr8k"]])
def test_a_line_for_each_set_and_for_units_and_chance(sources):
    captions, units = curve("source", sources), curve("way", ["picture", "picture_random"])
    fig = figures.learning(captions, units)
    assert_legible(fig)
    left, right = fig.axes
    drawn = {line.get_label(): line.get_data() for line in left.lines}
    names = [figures.SETS.get(one, (one,))[0] for one in sources]
    for name, source in zip(names, sources, strict=True):
        own = captions[captions["source"] == source]
        assert np.allclose(drawn[name], [own["steps"], own["share"]])
    named = {line.get_label() for line in right.lines}
    assert {"top units", "random units"} <= named
    assert left.get_ylim() == (0, 1)
    assert right.get_ylim()[0] == 0


def listed(layers: list[int]) -> pd.DataFrame:
    """A list of one photograph with so many units in each layer."""
    places = [(layer, unit) for layer, count in enumerate(layers) for unit in range(count)]
    return neuron_table(
        {"image": "a", "target": "x", "token": 0, "layer": layer, "unit": unit, "patch": 0,
         "score": float(-i), "activation": 1.0}
        for i, (layer, unit) in enumerate(places)
    )  # fmt: skip


def test_shares_of_layers_sum_to_one_and_bars_are_what_can_be_read():
    lists = {"picture": listed([3, 0, 1, 0]), "words": listed([0, 1, 1, 2]),
             "last_active": listed([1, 1, 1, 1])}  # fmt: skip
    readable = pd.DataFrame({"layer": range(4), "share": [0.1, 0.2, 0.3, 0.4]})
    fig = figures.depth(lists, readable, 4)
    assert_legible(fig)
    left, right = fig.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in left.lines}
    assert drawn == {"attribution, at the picture": [0.75, 0, 0.25, 0],
                     "attribution, told in words": [0, 0.25, 0.25, 0.5]}  # fmt: skip
    assert [bar.get_height() for bar in right.patches] == [0.1, 0.2, 0.3, 0.4]


def test_ways_have_one_name_everywhere():
    assert set(figures.COLOURS) <= set(figures.NAMES)
    assert figures.named(["words", "words_random", "else"]) == [
        "attribution, told in words", "attribution, told in words, random units", "else",
    ]  # fmt: skip
