"""Examples follow from the sample by rule; regions are those of the units shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets import Instance, Photograph
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.receptive_fields import activation_maps, mask, upsample
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from mmn_utils.studies import examples
from mmn_utils.studies.subjects import Subjects
from tests.tiny import PIXELS, tiny_limber, tiny_photographs


@pytest.fixture(scope="module")
def system():
    return tiny_limber()


# --- which -------------------------------------------------------------------------------


def an_image(name, noun, *objects):
    """Return a photograph with (category, supercategory) objects, and its targets."""
    instances = tuple(Instance(c, s, 1.0, False, (2, 2), []) for c, s in objects)
    return Photograph(id=name, path=Path(name), instances=instances), [Target(name, noun, 0, ())]


def test_means_on_objects_leave_out_what_covers_no_patch():
    size = (8, 8)
    left = Instance("horse", "animal", 1.0, False, size, [[0, 0, 4, 0, 4, 8, 0, 8]])
    speck = Instance("boat", "vehicle", 1.0, False, size, [[6, 6, 7, 6, 7, 7, 6, 7]])
    photograph = Photograph(id="1", path=Path("1"), instances=(left, speck), size=size)
    field = np.array([[1.0, 5.0], [3.0, 5.0]])
    assert examples.means_on_objects(tiny_limber(), field, photograph) == {"horse": 2.0}


SECOND, FIRST, NEVER = ["hay", " horses"], [" Horse", "hay"], ["hay", "oats"]
TOP = pd.DataFrame(
    [("1", Neuron(0, 1), True, NEVER, 0.9), ("2", Neuron(0, 2), True, SECOND, 0.8),
     ("1", Neuron(0, 3), False, FIRST, 0.7), ("3", Neuron(0, 2), True, SECOND, 0.6),
     ("3", Neuron(0, 4), True, FIRST, 0.5)],
    columns=["image", "neuron", "interpretable", "tokens", "score"],
).assign(target="horse", writes_noun=[False, True, True, True, True])  # fmt: skip


@pytest.mark.parametrize(
    ("shows", "drop", "expected", "chosen"),
    [
        (["1", "2", "3"], [], 0.5, "loudest"),  # the noun is the first of its words
        (["1", "2", "3"], [4], 0.8, "writes"),
        (["3"], [4], 0.6, "writes"),  # of a photograph that shows it
        (["2"], [], 0.8, "writes"),  # before a louder one that no photograph shows
        ([], [], 0.8, "unseen"),
        ([], [1, 3, 4], 0.9, "readable"),  # none writes the noun: interpretable will do
        ([], [0, 1, 3, 4], 0.7, "first"),  # none is interpretable
    ],
)
def test_the_telling_example_is_chosen_by_rule(shows, drop, expected, chosen):
    rows = [an_image(i, "horse", *([("horse", "animal")] if i in shows else [])) for i in "123"]
    photographs, nouns = map(list, zip(*rows, strict=True))
    row = examples.telling(TOP.drop(index=drop), Subjects(photographs, [], nouns))
    assert (row["score"], row["chosen"]) == (expected, chosen)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_unit_speaks_by_its_logits_above_the_mean_of_all_tokens(system, sign):
    neuron = Neuron(1, 5)
    logits = (system.unembedding[0].detach() @ system.write_vectors(1)[5].detach()).numpy()
    logits = sign * (logits - logits.mean())
    first = int(logits.argmax())
    row = pd.Series({"neuron": neuron, "sign": sign, "target": system.token_strings[first]})
    found = examples.spoken(system, row, k=7)
    assert found.unit == ("L1.u5" if sign > 0 else "L1.u5 (−)")
    np.testing.assert_allclose(found.words["logit"], np.sort(logits)[::-1][:7], atol=1e-5)
    assert found.words["token"].iloc[0] == first
    np.testing.assert_allclose(found.span, np.quantile(logits, [0.005, 0.995]), atol=1e-5)
    assert found.words["is_noun"].dtype == bool


def test_elsewhere_counts_the_nouns_of_other_photographs():
    assert examples.elsewhere(TOP, TOP.iloc[3]).to_dict() == {"horse": 1}
    assert examples.elsewhere(TOP, TOP.iloc[0]).empty


# --- panels ------------------------------------------------------------------------------


@pytest.fixture
def sample(tmp_path) -> Subjects:
    photographs = tiny_photographs(tmp_path, 2)
    captions = [Caption("a horse and a horse.", ()), Caption("a boat.", ())]
    every = [[Target("0", "horse", 0, ())], [Target("1", "boat", 0, ())]]
    return Subjects(photographs, captions, every)


def rows_of(image: str, target: str, *neurons: Neuron) -> pd.DataFrame:
    """Return rows as of ``translation.ranked``: only the last one is not interpretable."""
    count = len(neurons)
    return pd.DataFrame(
        {"image": image, "target": target, "rank": range(count), "neuron": neurons, "patch": 0,
         "score": 1.0, "sign": -1, "interpretable": [True] * (count - 1) + [False],
         "writes_noun": False, "text": "x"}
    )  # fmt: skip


def test_panels_show_the_best_units_and_where_their_mean_is_high(system, sample):
    units = [Neuron(0, 3), Neuron(2, 5), Neuron(1, 1)]
    top = pd.concat([rows_of("0", "horse", *units), rows_of("1", "boat", *units)])
    panels = examples.best_units(system, sample, top, {"vehicle": "1", "animal": "0"}, n=2)
    assert [panel.title for panel in panels] == ["vehicle", "animal"]
    assert panels[1].caption == f"{system.prefix} a HORSE and a horse."
    assert panels[1].units["neuron"].tolist() == units[:2]
    picture = sample.photographs[0].open()
    field = activation_maps(system, [picture], units[:2])[0].mean(0)
    expected = mask(upsample(field, PIXELS)).numpy()
    assert np.array_equal(panels[1].region, expected)
    assert expected.any()
    listed = examples.numbers(panels)
    assert listed["supercategory"].tolist() == ["vehicle"] * 2 + ["animal"] * 2
    assert listed["neuron"].tolist() == units[:2] * 2
    assert set(listed["sign"]) == {"−"}


def test_pairs_are_shown_twice_all_and_the_interpretable_ones(system, sample):
    table = pd.concat(
        [rows_of("0", "horse", Neuron(0, 3), Neuron(1, 1)), rows_of("1", "boat", Neuron(2, 2))]
    )
    panels = examples.pairs(system, sample, table)
    assert [panel.title for panel in panels] == [
        "horse\nall", "horse\ninterpretable", "boat\nall", "boat\ninterpretable",
    ]  # fmt: skip
    one = examples.mean_region(system, sample.photographs[0].open(), [Neuron(0, 3)])
    assert np.array_equal(panels[1].region, one)
    assert not np.array_equal(panels[0].region, one)
    assert not panels[3].region.any()  # its only unit is not interpretable
