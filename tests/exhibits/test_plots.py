"""Plots: one look, fixed colours, and pictures that show what they are given."""

from __future__ import annotations

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmn_utils.exhibits import plots


@pytest.fixture
def ax():
    plots.use_style()
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def render(ax) -> None:
    ax.figure.savefig(io.BytesIO())


def test_every_condition_has_its_own_colour():
    conditions = ["multimodal", "interpretable", "random", "prompts", "captions", "coco"]
    assert len({plots.palette(condition) for condition in conditions}) == 6
    with pytest.raises(ValueError, match="no colour for 'neurons'"):
        plots.palette("neurons")


def test_style_does_not_depend_on_the_users_own():
    mpl.rcParams["font.size"] = 40
    mpl.rcParams["axes.facecolor"] = "red"
    plots.use_style()
    assert mpl.rcParams["font.size"] == 8
    assert mpl.rcParams["axes.facecolor"] == "white"


@pytest.mark.parametrize(
    "field",
    [np.eye(14), np.zeros((14, 14)), np.full((3, 5), np.nan), np.eye(14, dtype=bool),
     np.zeros((14, 14), bool), np.ones((14, 14), bool)],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_overlays_of_any_map_over_any_image(ax, field, mode):
    plots.heatmap_overlay(ax, Image.new(mode, (40, 30)), field)
    render(ax)


def test_a_map_goes_from_its_lowest_value_to_its_highest_over_a_grey_picture(ax):
    plots.heatmap_overlay(ax, Image.new("RGB", (40, 30), "red"), np.array([[-3.0, 5.0]]))
    grey, shade = ax.images
    assert grey.get_array().ndim == 2
    values = shade.get_array()
    assert (shade.cmap.name, values.min(), values.max()) == (plots.MAP, 0, 1)
    assert (np.diff(values, axis=1) >= 0).all()


def test_mask_overlay_keeps_the_inside_and_dims_the_outside(ax):
    image = Image.new("RGB", (20, 20), (200, 100, 50))
    mask = np.zeros((2, 2), bool)
    mask[0, 1] = True
    plots.heatmap_overlay(ax, image, mask, dim=0.5)
    shown = ax.images[0].get_array()
    np.testing.assert_allclose(shown[3, 15], np.array([200, 100, 50]) / 255)
    np.testing.assert_allclose(shown[15, 3], np.array([200, 100, 50]) / 510)


def test_overlay_refuses_what_is_not_a_field(ax):
    with pytest.raises(ValueError, match=r"\(h, w\)"):
        plots.heatmap_overlay(ax, Image.new("RGB", (4, 4)), np.zeros(196))


def test_image_grid_shows_each_image_once():
    images = [Image.new("L", (8, 8), i) for i in range(7)]
    fig, axes = plots.image_grid(images, [f"image {i}" for i in range(7)], columns=3)
    assert [int(ax.images[0].get_array()[0, 0]) for ax in axes] == list(range(7))
    assert fig.get_size_inches()[0] == pytest.approx(plots.WIDTH["page"])
    plt.close(fig)
    for bad in ({"images": []}, {"images": images, "titles": ["one"]}):
        with pytest.raises(ValueError, match="images"):
            plots.image_grid(**bad)


def test_bars_and_lines_are_where_the_numbers_are(ax):
    values = {"multimodal": [0.4, 0.5], "random": [0.1, 0.2]}
    plots.interval_bar(ax, ["cat", "dog"], values,
                       {name: [(v - 0.05, v + 0.05) for v in row] for name, row in values.items()},
                       {"multimodal": "top units"})  # fmt: skip
    assert [bar.get_height() for bar in ax.patches] == [0.4, 0.5, 0.1, 0.2]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["top units", "random"]
    render(ax)
    ax.clear()
    plots.line_with_interval(ax, [0, 50], [1, 0.5], [0.9, 0.4], [1.0, 0.6], "random")
    assert ax.lines[0].get_ydata().tolist() == [1, 0.5]


def test_layer_histogram_has_one_bar_a_layer(ax):
    plots.layer_histogram(ax, {"multimodal": range(28), "interpretable": [1] * 28})
    assert len(ax.patches) == 56
    render(ax)
    with pytest.raises(ValueError, match="differ in their number of layers"):
        plots.layer_histogram(ax, {"multimodal": [1], "random": [1, 2]})


def test_text_table_writes_signs_as_they_are(ax):
    table = pd.DataFrame({"neuron": ["L1.u2"], "tokens": ["$5 ^ _ \\frac"]})
    plots.text_table(ax, table, widths=[1, 3])
    render(ax)
    assert [text.get_text() for text in ax.texts] == ["neuron", "tokens", "L1.u2", "$5 ^ _ \\frac"]
    with pytest.raises(ValueError, match="1 widths for 2 columns"):
        plots.text_table(ax, table, widths=[1])
