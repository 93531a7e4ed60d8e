"""Figures of paper B: every number is where it belongs, and an absence says why."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from mmn_utils.exhibits import plots
from mmn_utils.exhibits.figures import contribution
from mmn_utils.neurons.methods import METHODS
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.concepts import sharing
from mmn_utils.studies.concepts.sharing import Sharing
from mmn_utils.studies.concepts.specificity import HeatMap
from mmn_utils.studies.concepts.views import View
from tests.exhibits.legible import assert_legible

LAYERS, KS = 32, [10, 100]


@pytest.fixture(autouse=True)
def style():
    plots.use_style()


def shares(ax, labels):
    """Return the heights of the lines of an axes, by their label."""
    drawn = {line.get_label(): line for line in ax.lines}
    return {label: np.asarray(drawn[label].get_ydata()) for label in labels}


def test_every_method_has_its_own_colour():
    assert len({contribution.colour(method) for method in (*METHODS, "contribution_gate")}) == 4
    with pytest.raises(ValueError, match="no colour for 'ours'"):
        contribution.colour("ours")


def test_layers_are_shares_of_their_own_sum():
    rng = np.random.default_rng(0)
    rows = [(m, k, layer) for m in METHODS for k in KS for layer in range(LAYERS)]
    counts = pd.DataFrame(rows, columns=["method", "k", "layer"])
    counts["neurons"] = rng.integers(1, 50, len(rows))
    counts["entries"] = rng.integers(1, 900, len(rows))
    fig = contribution.layers(counts, 100)
    assert_legible(fig)
    left, right = fig.axes
    ours = counts.query("method == 'contribution' and k == 10")["neurons"].to_numpy()
    np.testing.assert_allclose(shares(left, ["top 10"])["top 10"], ours / ours.sum())
    name = contribution.NAMES["attribution"]
    theirs = counts.query("method == 'attribution' and k == 100")["entries"].to_numpy()
    np.testing.assert_allclose(shares(right, [name])[name], theirs / theirs.sum())
    assert len(right.lines) == 3
    assert to_hex(right.lines[-1].get_color()) == plots.COLOURS["multimodal"].lower()


def view(concept: str, ks: int, truth: np.ndarray | None = None) -> View:
    maps = np.linspace(2, 5, ks * 400, dtype=np.float32).reshape(ks, 20, 20)
    masks = maps > np.median(maps, axis=(1, 2), keepdims=True)
    return View(Image.new("RGB", (20, 20), "white"), concept, maps, masks, truth)


def test_heat_maps_have_a_map_and_a_mask_for_each_k():
    truth = np.zeros((20, 20), bool)
    truth[5:12, 4:9] = True
    views = [view("cat", 2, truth), view("refrigerator", 2), view("$dog", 2)]
    fig = contribution.heat_maps(views, [1, 10])
    assert_legible(fig)
    *axes, bar = fig.axes
    assert len(axes) == 3 * 5
    assert [ax.get_title(loc="left") for ax in axes[:5]] == [
        "picture", "top 1", "mask", "top 10", "mask",
    ]  # fmt: skip
    assert [axes[5 * i].get_ylabel() for i in range(3)] == ["cat", "refrigerator", "$dog"]
    shade = axes[1].images[1]  # each map from its lowest to its highest
    np.testing.assert_allclose(shade.get_array(), np.linspace(0, 1, 400).reshape(20, 20), atol=1e-6)
    assert shade.get_cmap().name == plots.MAP
    assert [label.get_text() for label in bar.get_xticklabels()] == [
        "lowest", "highest of each map",
    ]  # fmt: skip
    outlines = [len(ax.collections) for ax in axes]
    assert outlines[:5] == [1, 1, 2, 1, 2]  # the cat's everywhere, and the masks'
    assert outlines[5:10] == [0, 0, 1, 0, 1]


def test_a_map_that_is_the_same_everywhere_is_drawn():
    flat = np.ones((1, 20, 20), np.float32)
    one = View(Image.new("RGB", (20, 20), "white"), "cat", flat, flat > 1)
    fig = contribution.heat_maps([one], [1])
    assert_legible(fig)
    assert (fig.axes[1].images[1].get_array() == 0).all()


def test_without_a_grid_the_figure_says_why():
    fig = contribution.heat_maps([], [1, 10], "queries have no place")
    assert_legible(fig)
    assert [text.get_text() for text in fig.axes[0].texts] == [
        "No heat maps: queries have no place.",
    ]


def test_shuffled_has_bars_chance_and_a_table():
    stays = pd.DataFrame(
        [(m, k, 0.9 - i / 4, 0.8 - i / 4, 0.95 - i / 4, k / 1000)
         for i, m in enumerate(("contribution", "attribution")) for k in KS],
        columns=["method", "k", "ratio", "low", "high", "chance"],
    )  # fmt: skip
    neurons = "L31.u9192, L34.u8761, L39.u9669, L21.u1413"
    lines = [("caption", "a dog " * 20, "a cat"), ("skateboard", neurons, neurons)] * 3
    examples = pd.DataFrame(lines, columns=["", "as it is", "shuffled"])
    fig = contribution.shuffled(stays, examples)
    assert_legible(fig)
    bars, table = fig.axes
    assert [bar.get_height() for bar in bars.patches] == stays["ratio"].tolist()
    assert [label.get_text() for label in bars.get_xticklabels()] == ["k = 10", "k = 100"]
    lucks = [c.get_segments()[0][0][1] for c in bars.collections if len(c.get_segments()) == 1]
    assert lucks == [0.01, 0.1]
    texts = [text.get_text() for text in table.texts]
    assert texts[:3] == ["", "as it is", "shuffled"]
    assert texts[4].endswith(" …")
    assert texts[7].replace("\n", " ") == neurons


def shares_of_concepts() -> Sharing:
    """Return what eight concepts share, two of which no annotation names."""
    names = ["banana", "refrigerator", "bicycle", "dog", "apple", "cow", "carpet", "$grass"]
    rows, spread = [], []
    for c, concept in enumerate(names):
        for n in (2, 3, 4, 5):
            for k in KS:
                row = {"concept": concept, "object": c < 6, "images": 30 - c, "n": n, "k": k}
                for i, method in enumerate(sharing.METHODS):
                    row[method] = (0.9 - 0.25 * i) / n + c / 100
                    row[f"{method}_unrelated"] = 0.05 / n
                    ends = {"low": row[method] - 0.03, "high": row[method] + 0.05}
                    spread.append({**row, "method": method, **ends})
                rows.append(row)
    keys = ["concept", "n", "k", "method", "low", "high"]
    return Sharing(pd.DataFrame(rows), pd.DataFrame(spread)[keys], sharing.METHODS, 5, 100)


def test_shared_tells_one_concept_from_unrelated_ones():
    found = shares_of_concepts()
    curves, chance = found.curves(), sharing.by_chance([2, 3, 4, 5], KS, 1000)
    fig = contribution.shared(found, curves, chance)
    assert_legible(fig)
    upper, *lower = fig.axes
    concepts = found.shown()
    heights = [bar.get_height() for bar in upper.patches]
    assert heights == [value for method in sharing.METHODS for value in concepts[method]]
    assert upper.get_xticklabels()[-1].get_text() == "$grass\n(23)"
    assert upper.lines[-1].get_xdata()[0] == 5.5  # between objects and others
    bars = [c.get_segments()[0][:, 1] for c in upper.collections]
    first = concepts.iloc[0]
    ends = [first["contribution_low"], first["contribution_high"]]
    np.testing.assert_allclose(bars[0], ends)
    assert [ax.get_title(loc="left") for ax in lower] == ["k = 10", "k = 100"]
    assert [line.get_linestyle() for line in lower[0].lines] == ["-", "--"] * 3 + [":"]
    mean = found.rows.query("k == 100").groupby("n")["contribution"].mean()
    np.testing.assert_allclose(lower[1].lines[0].get_ydata(), mean)
    assert lower[0].lines[6].get_ydata().tolist() == chance[10].tolist()
    assert len(lower[0].collections) == 6  # a band each


def test_own_concept_writes_the_scores_as_they_are():
    scores = np.array([[2.0, 0], [-1e-9, 1]])
    small = HeatMap("a", ("cat", "$x"), (Neuron(0, 1), Neuron(3, 4)), scores)
    names = ("refrigerator", "skateboard", "umbrella", "giraffe")
    large = HeatMap("b", names, tuple(Neuron(31, i) for i in range(4)), np.eye(4) - 0.5)
    heats = {"gated": [small, large], "gate": [large, small]}
    captions = {"a": "a cat", "b": "a long caption " * 9}
    fig = contribution.own_concept(heats, ["a", "b"], captions)
    assert_legible(fig)
    first, second, third, _ = fig.axes
    assert [text.get_text() for text in first.texts] == ["2.00", "0.00", "0.00", "1.00"]
    assert [label.get_text() for label in first.get_xticklabels()] == ["cat", "$x"]
    assert first.get_yticklabels()[1].get_text() == "$x\nL3.u4"
    np.testing.assert_allclose(first.images[0].get_array(), [[1, 0], [0, 0.5]], atol=1e-8)
    assert second.get_title(loc="left").endswith("…")
    assert second.get_xticklabels()[0].get_rotation() == 30
    assert first.get_ylabel().endswith("(gated)")
    assert third.get_ylabel().endswith("(gate)")
    assert [text.get_text() for text in third.texts] == ["2.00", "0.00", "0.00", "1.00"]
    alone = contribution.own_concept({"gated": [small]}, ["a"], captions)
    assert alone.axes[0].get_ylabel() == "concept and its top neuron"
