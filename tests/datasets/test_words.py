"""What data sets call what they have."""

from __future__ import annotations

import json

import pytest

from mmn_utils.datasets import ClassFolders, Words, load_dataset
from mmn_utils.datasets.words import words_from
from mmn_utils.presets import data_path
from tests.datasets.test_coco import plant as plant_coco
from tests.datasets.test_imagenet import plant as plant_classes

SCENES = {"picture": "scene", "pictures": "scenes"}


def test_a_card_gives_some_words_and_the_others_stay():
    assert words_from(None, "card") == words_from({}, "card") == Words()
    words = words_from(SCENES, "card")
    assert words.facts() == {**Words().facts(), **SCENES}


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"image": "scene"}, "card.json: no word 'image' is known; choose from picture"),
        ({"picture": 3}, "card.json: the word for 'picture' is 3"),
        ({"reference": " "}, "card.json: the word for 'reference' is ' '"),
    ],
)
def test_a_card_with_other_words_is_refused(card, message):
    with pytest.raises(ValueError, match=message):
        words_from(card, "card.json")


def test_coco_has_photographs_unless_its_annotations_say_otherwise(tmp_path):
    assert load_dataset("coco_val2017", root=plant_coco(tmp_path)).words == Words()
    path = tmp_path / "annotations" / "instances_val2017.json"
    content = {**json.loads(path.read_text()), "info": {"words": SCENES}}
    path.write_text(json.dumps(content))
    scenes = load_dataset("coco_val2017", root=tmp_path)
    assert scenes.words.picture == "scene"
    assert "5 scenes" in repr(scenes)


def test_folders_have_photographs_unless_their_card_says_otherwise(tmp_path):
    assert ClassFolders(plant_classes(tmp_path)).words == Words()
    (tmp_path / "words.json").write_text(json.dumps(SCENES))
    assert ClassFolders(tmp_path).words.pictures == "scenes"


@pytest.mark.parametrize("name", ["miniature", "miniature/looks", "classes"])
def test_the_miniature_has_scenes(name):
    if not data_path("miniature", "coco").is_dir():
        pytest.skip("data/miniature is absent; make it with 'make miniature'")
    classes = name == "classes"
    data = ClassFolders(data_path("miniature", name)) if classes else load_dataset(name)
    assert set(data.words.facts().values()) == {
        "scene", "scenes", "reference caption", "reference captions",
    }  # fmt: skip
