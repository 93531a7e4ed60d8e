"""Figures of the miniature: legible, and each draws the data that it was given."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from pycocotools import mask as mask_tools

from mmn_utils.datasets.base import Instance, Photograph
from mmn_utils.exhibits import plots
from mmn_utils.exhibits.figures import miniature as figures
from tests.exhibits.legible import assert_legible

SIDE = 40
BOXES = [(0, 0, 16, 16), (20, 20, 40, 40), (0, 20, 16, 40), (20, 0, 40, 16)]


@pytest.fixture(autouse=True)
def _style():
    plots.use_style()
    yield
    plt.close("all")


def thing(category: str, box: tuple[int, int, int, int]) -> Instance:
    left, top, right, bottom = box
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    pixels[top:bottom, left:right] = 1
    runs = mask_tools.encode(pixels)
    return Instance(category, "animal", float(pixels.sum()), False, (SIDE, SIDE), runs)


def scene(folder: Path, name: str, *categories: str) -> Photograph:
    path = folder / f"{name}.png"
    Image.new("RGB", (SIDE, SIDE), (120, 200, 40)).save(path)
    things = tuple(thing(*pair) for pair in zip(categories, BOXES, strict=False))
    text = f"a {' and a '.join(categories)} on the grass"
    return Photograph(name, path, (text,), things, size=(SIDE, SIDE))


@pytest.fixture
def scenes(tmp_path) -> list[Photograph]:
    return [
        scene(tmp_path, "0", "horse"),
        scene(tmp_path, "1", "dog", "umbrella", "cake"),
        scene(tmp_path, "2", "boat", "bus"),
    ]


def drawn_image(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


# --- scenes -----------------------------------------------------------------------------


def test_scenes_stand_over_their_masks_and_over_strange_ones(scenes):
    fig = figures.scenes(scenes, scenes[::-1])
    assert_legible(fig)
    axes = np.reshape(fig.axes, (3, 3))
    assert axes[1, 0].get_ylabel() == "its masks"
    assert axes[0, 0].get_title() == "a horse on the grass"
    assert [text.get_text() for text in axes[1, 1].texts] == ["dog", "umbrella", "cake"]
    assert (drawn_image(axes[0, 2]) == np.asarray(scenes[2].open())).all()
    assert axes[2, 0].get_xlabel() == "(boat, bus)"


def test_each_thing_has_the_tint_of_its_place(scenes):
    pixels = figures._tinted(scenes[1])
    grey = np.asarray(scenes[1].open().convert("L"))[0, 0] / 400 + 0.36
    for one, name in zip(scenes[1].instances, figures.THINGS, strict=True):
        expected = 0.35 * grey + 0.65 * np.array(to_rgb(plots.palette(name)))
        np.testing.assert_allclose(pixels[one.mask], np.tile(expected, (one.mask.sum(), 1)))
    outside = ~np.logical_or.reduce([one.mask for one in scenes[1].instances])
    np.testing.assert_allclose(pixels[outside], grey)


def test_a_fourth_thing_has_no_colour(tmp_path):
    crowded = scene(tmp_path, "4", "dog", "cat", "bus", "cake")
    with pytest.raises(ValueError, match="scene 4 has 4 things; there are 3 colours"):
        figures.scenes([crowded], [crowded])


def test_captions_that_are_right_stand_above_those_that_are_not(scenes):
    drawn = pd.DataFrame(
        {"image": ["0", "2", "1"], "caption": ["a horse.", "", "a cow, " * 30],
         "right": [True, False, False]}
    )  # fmt: skip
    fig = figures.captions(drawn, {one.id: one for one in scenes}.__getitem__, columns=3)
    assert_legible(fig)
    axes = np.reshape(fig.axes, (2, 3))
    titles = [[ax.get_title().count("\n") + 1 for ax in row if ax.images] for row in axes]
    assert titles == [[1], [1, 4]]
    assert axes[1, 0].get_title() == "(nothing)"
    assert axes[1, 0].get_xlabel() == "(boat, bus)"
    assert axes[0, 0].title.get_color() == plots.INK
    assert axes[1, 1].title.get_color() == plots.palette("prompts")
    assert not axes[0, 1].images


def test_systems_speak_beneath_each_scene_and_errors_are_coloured(scenes):
    said = pd.DataFrame(
        [(image, system, f"a {system} caption", system != "B" or image == "2")
         for system in ("B", "A") for image in "012"],
        columns=["image", "system", "caption", "right"],
    )  # fmt: skip
    fig = figures.systems([scenes[2], scenes[0]], said)
    assert_legible(fig)
    axes = np.reshape(fig.axes, (2, 3))
    assert [ax.get_title() for ax in axes[0]] == ["", "boat, bus", "horse"]
    words = [[text.get_text() for text in ax.texts] for ax in axes[1]]
    assert words == [["B", "A"], *[["a B caption", "a A caption"]] * 2]
    colours = [[text.get_color() for text in ax.texts] for ax in axes[1, 1:]]
    assert colours == [[plots.INK] * 2, [plots.palette("prompts"), plots.INK]]


# --- training ---------------------------------------------------------------------------


def curve(panel: str, line: str, measure: str, seen: list, values: list) -> pd.DataFrame:
    columns = {"panel": panel, "line": line, "unit": "pictures", "measure": measure}
    return pd.DataFrame({**columns, "items": seen, "value": values})[[*columns, "items", "value"]]


PARTS = pd.concat(
    [
        curve("text", "", "loss", [1000.0, 2000.0, 3000.0], [9.0, 2.0, 1.5]),
        curve("probe", "object", figures.SHARE, [10.0, 50.0], [0.5, 0.75]),
        curve("join", "one", "loss", [10.0, 20.0], [2.0, 1.0]),
        curve("join", "one, smooth", "loss", [25.0, 30.0], [3.0, 2.5]),
        curve("join", "other", "loss", list(range(1, 21)), [1.5] * 20),
        curve("nothing", "", "loss", [np.nan], [np.nan]),
    ]
)


def test_curves_are_drawn_from_zero_with_their_ends_and_with_chance():
    fig = figures.training(PARTS, chance=0.25)
    assert_legible(fig)
    text, probe, join, nothing = fig.axes
    np.testing.assert_array_equal(text.lines[0].get_xydata(), [[1000, 9], [2000, 2], [3000, 1.5]])
    assert (text.get_xlabel(), text.get_ylabel()) == ("pictures", "loss")
    assert [note.get_text() for note in text.texts] == ["1.50"]
    assert text.get_legend() is None
    assert all(ax.get_ylim()[0] == 0 for ax in (text, probe, join))
    assert text.get_xlim() == probe.get_xlim()  # what was seen is of one unit
    assert list(probe.lines[1].get_ydata()) == [0.25, 0.25]
    assert probe.get_ylim() == (0, 1)
    assert [note.get_text() for note in nothing.texts] == ["no curve stored"]
    assert not nothing.lines


def test_a_line_that_goes_on_in_another_kind_is_dashed_and_of_its_colour():
    *_, join, _ = figures.training(PARTS, chance=0.25).axes
    one, smooth, other, _ = join.lines
    assert one.get_color() == smooth.get_color() != other.get_color()
    assert [line.get_linestyle() for line in join.lines] == ["-", "--", "-", "--"]
    names = [text.get_text() for text in join.get_legend().get_texts()]
    assert names == ["one", "other", "smooth"]
    assert [line.get_marker() for line in (one, other)] == [".", ""]
    assert [note.get_text() for note in join.texts] == ["1.00", "2.50", "1.50"]
    below, behind = (note.xyann for note in join.texts[:2])
    assert below[1] < 0 == behind[1]  # where others of the panel go on there is no room behind


def test_panels_beyond_the_curves_are_hidden():
    fig = figures.systems_training(pd.concat([PARTS, PARTS[:3].assign(panel="more")]))
    assert_legible(fig)
    assert [ax.get_visible() for ax in fig.axes] == [True] * 5 + [False] * 3
    assert fig.axes[3].get_title(loc="left") == "nothing"
    assert fig.axes[0].lines[0].get_marker() == "."
    assert list(fig.axes[1].lines[0].get_ydata()) == [0.5, 0.75]


# --- layers -----------------------------------------------------------------------------


def test_layers_have_their_shares_and_pictures_their_colour():
    shares = pd.DataFrame(
        np.array([[0.75, 0.25, 0.0], [0.125, 0.5, 0.375]]), index=["text: shipped", "pictures: sum"]
    )
    fig = figures.layers(shares, top=5)
    assert_legible(fig)
    text, pictures = fig.axes[:2]
    assert [bar.get_height() for bar in text.patches] == [0.75, 0.25, 0.0]
    assert [bar.get_height() for bar in pictures.patches] == [0.125, 0.5, 0.375]
    assert text.patches[0].get_facecolor()[:3] == to_rgb(plots.palette("captions"))
    assert pictures.patches[0].get_facecolor()[:3] == to_rgb(plots.palette("multimodal"))
    assert fig.get_supylabel() == "share of the top 5 units"
