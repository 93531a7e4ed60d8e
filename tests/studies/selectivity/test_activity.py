"""How active units are, and which tell photographs apart, against plain references."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from mmn_utils.datasets import Photograph
from mmn_utils.neurons.decoding import decoded_words
from mmn_utils.neurons.receptive_fields import activation_maps, mask, upsample
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.selectivity import activity
from tests.tiny import PIXELS


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


SEEN = {"a": (1, 2), "b": (1, 2), "c": (1, 4), "d": (3,)}
LABELS = {"a": "cat", "b": "cat", "c": "dog", "d": "cow"}


def seen_table() -> pd.DataFrame:
    rows = [(i, 2, unit, 1.0) for i, some in SEEN.items() for unit in some]
    return pd.DataFrame(rows, columns=["image", "layer", "unit", "score"])


def test_units_of_nouns_are_those_of_the_common_ones():
    assert activity.noun_units(seen_table(), LABELS, 2) == {"cat": Neuron(2, 2)}
    every = activity.noun_units(seen_table(), LABELS, 1)
    assert list(every) == ["cat", "dog", "cow"]  # the commonest first, then as they come
    assert list(activity.noun_units(seen_table(), LABELS, 9)) == ["cat", "dog"]


def active_table() -> pd.DataFrame:
    """Unit 0 peaks on pictures 4, 3, 2 and has its largest means on 0, 1, 2."""
    rows = [(str(i), 0, 0, float(i), float(-i)) for i in range(5)]
    return pd.DataFrame(rows, columns=["image", "layer", "unit", "peak", "mean"])


def horses(photographs) -> list[Photograph]:
    """The boxed photographs, of which only the last two show a horse."""
    bare = [Photograph(p.id, p.path, ("a boat",), (), size=p.size) for p in photographs[:3]]
    return [*bare, *photographs[3:]]


def test_themes_say_of_the_strongest_photographs_whether_they_show_the_noun(photographs):
    viewed, unit_of = horses(photographs), {"horse": Neuron(0, 0)}
    asked = (active_table(), viewed, unit_of, {"x": "horse", "y": "horse", "z": "cat"}, 3)
    rows = activity.themes(*asked)
    assert rows["image"].tolist() == ["4", "3", "2"]
    assert rows["rank"].tolist() == [1, 2, 3]
    assert rows["peak"].tolist() == [4, 3, 2]
    assert rows["shows"].tolist() == [True, True, False]
    same = rows[["noun", "unit", "captions", "everywhere"]].drop_duplicates()
    assert same.to_numpy().tolist() == [["horse", "L0.u0", 2, 2 / 5]]
    by_mean = activity.themes(*asked, by="mean")
    assert by_mean["shows"].tolist() == [False] * 3
    assert by_mean["mean"].tolist() == [0, -1, -2]


def test_units_are_tallied_by_what_their_photographs_show():
    shows = {"cat": [True, True], "dog": [True, False], "cow": [False, False]}
    rows = [(noun, hit) for noun, some in shows.items() for hit in some]
    found = activity.tally(pd.DataFrame(rows, columns=["noun", "shows"]), ["cat", "dog"])
    assert found == {"perfect": 1, "never": 1, "writing": 2, "of_writing": 0.75}


def test_units_that_write_their_noun_have_it_among_their_words(system):
    words = decoded_words(system, [Neuron(0, 0), Neuron(1, 1)])
    said = next(word.strip() for word in words[Neuron(0, 0)] if word.strip())
    unit_of = {said: Neuron(0, 0), "zyx": Neuron(1, 1)}
    assert activity.that_write_their_noun(system, unit_of) == [said]


def test_a_portrait_has_the_strongest_pictures_with_their_masks(system, photographs):
    viewed, unit = horses(photographs), Neuron(0, 0)
    found = activity.portrait(system, active_table(), viewed, "horse", unit, 3, 0.8)
    assert found.shows == [True, True, False]  # of pictures 4, 3 and 2
    assert (found.peaks, found.median) == ([4, 3, 2], 2)
    assert [one.tobytes() for one in found.pictures] == [
        viewed[i].open().tobytes() for i in (4, 3, 2)
    ]
    maps = activation_maps(system, [viewed[3].open()], [unit])[0, 0]
    expected = mask(upsample(maps, PIXELS), 0.8).numpy()
    assert found.masks.shape == (3, PIXELS, PIXELS)
    # batches round otherwise than one picture: a pixel at the threshold may fall either way
    assert (found.masks[1] != expected).mean() < 0.005
    assert found.words == tuple(w.strip() for w in decoded_words(system, [unit])[unit])
