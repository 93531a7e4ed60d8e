"""Scenes to look at: chosen, counted, and sorted by what was said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets.base import Instance, Photograph
from mmn_utils.miniature import gallery
from mmn_utils.miniature.world import Background, Concept, World

SIZE = (10, 20)
AREAS = {"horse": 20.0, "dog": 8.0, "car": 100.0}


def concept(name: str, kind: str, look: str | None = None) -> Concept:
    return Concept(name, f"{name}s", "a", kind, ("1",), look, (), ())


WORLD = World(
    (concept("horse", "animal", "2"), concept("dog", "animal"), concept("car", "vehicle")),
    (Background("grass", ()), Background("sand", ())),
)


def scene(id: str, ground: str, *names: str) -> Photograph:
    things = tuple(Instance(n, "kind", AREAS[n], False, SIZE, None) for n in names)
    text = f"{' and '.join(names)} on the {ground}"
    return Photograph(id, Path(id), (text, f"the {ground}"), things, size=SIZE)


class Scenes(list):
    """A data set of a few scenes, whose sample turns them round."""

    def sample(self, n: int, seed: int) -> list[Photograph]:
        return self[::-1][:n]

    def by_id(self, id: str) -> Photograph:
        return next(scene for scene in self if scene.id == id)


SCENES = Scenes(
    [
        scene("0", "grass", "horse"),
        scene("1", "grass", "dog"),
        scene("2", "sand", "dog", "car"),
        scene("3", "sand", "car"),
    ]
)
CAPTIONS = pd.DataFrame(
    {
        "image": ["0", "1", "2", "3"],
        "noun": ["horse", "horses", "dog", "night"],
        "right": [True, False, False, False],
        "twice": [False, False, True, True],
    }
)


def test_each_ground_has_a_scene_with_one_two_three_things_in_turn():
    assert [one.id for one in gallery.held_out(SCENES, WORLD, seed=0)] == ["1", "2"]
    assert [one.id for one in gallery.strange(SCENES, WORLD, seed=0)] == ["0", "2"]


def test_a_ground_without_a_scene_is_named():
    with pytest.raises(ValueError, match="none of the 2 scenes is on the sand with 2 things"):
        gallery.held_out(Scenes(SCENES[:2]), WORLD, seed=0)
    with pytest.raises(ValueError, match="is on the sand; draw more"):
        gallery.strange(SCENES[:2], WORLD, seed=0)


def test_scenes_are_listed_by_row():
    table = gallery.listed({"above": SCENES[2:3], "below": SCENES[:1]})
    assert table.to_dict("list") == {
        "scene": ["2", "0"],
        "row": ["above", "below"],
        "objects": ["dog, car", "horse"],
        "caption": ["dog and car on the sand", "horse on the grass"],
    }


def test_the_census_counts():
    census = gallery.census(SCENES, WORLD)
    assert (census["scenes"], census["objects"], census["looks"]) == (4, 5, 1)
    assert census["shares"] == {1: 0.75, 2: 0.25}
    covered = np.array([20, 8, 54, 100]) / 200
    assert census["covered"] == pytest.approx(covered.mean())
    assert census["blind"] == pytest.approx(5 / 4 / 3)
    # 5 % of the pixels against 10, 4, 27 and 50 %
    assert census["best_iou"] == pytest.approx(np.mean([0.5, 0.8, 0.05 / 0.27, 0.1]))


def test_examples_are_drawn_right_ones_first():
    drawn = gallery.examples(CAPTIONS, np.random.default_rng(0), each=2)
    assert list(drawn["right"]) == [True, False, False]
    assert drawn["image"].is_unique
    again = gallery.examples(CAPTIONS, np.random.default_rng(0), each=2)
    pd.testing.assert_frame_equal(drawn, again)


def test_confusions_are_with_the_largest_thing():
    confused = gallery.confusions(CAPTIONS, SCENES, WORLD)
    assert confused.to_dict("list") == {
        "there": ["dog", "car", "car"],
        "named": ["horses", "dog", "night"],
        "same kind": [True, False, False],
    }
    worst = gallery.most_frequent(pd.concat([confused, confused[1:2]]), rows=2)
    assert worst[["there", "named", "scenes"]].to_numpy().tolist() == [
        ["car", "dog", 2],
        ["car", "night", 1],
    ]


def test_mistakes_are_summed_up():
    confused = gallery.confusions(CAPTIONS, SCENES, WORLD)
    mistakes = gallery.mistakes(CAPTIONS, confused, SCENES, WORLD)
    assert (mistakes["captions"], mistakes["wrong"], mistakes["unnamed"]) == (4, 3, 1)
    assert mistakes["same_kind"] == pytest.approx(1 / 3)
    assert mistakes["blind"] == pytest.approx((2 / 3) ** 2 + (1 / 3) ** 2)
    assert mistakes["doubled"] == 1.0  # of the one scene with two things


def test_without_mistakes_there_is_nothing_of_a_kind():
    right = CAPTIONS[:1]
    confused = gallery.confusions(right, SCENES, WORLD)
    mistakes = gallery.mistakes(right, confused, SCENES, WORLD)
    assert (mistakes["wrong"], mistakes["unnamed"], mistakes["doubled"]) == (0, 0, 0.0)
    assert np.isnan(mistakes["same_kind"])
    assert gallery.most_frequent(confused).empty
