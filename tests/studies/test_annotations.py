"""What photographs show, by their captions and annotated objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmn_utils.datasets import CocoDataset, Instance, Photograph
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.targets import Target
from mmn_utils.studies import annotations
from mmn_utils.studies.subjects import Subjects
from tests.studies.boxes import boxed
from tests.studies.scenes import subjects_of_texts
from tests.tiny_gated import TinyGated


@pytest.fixture
def photographs(tmp_path) -> list[Photograph]:
    return boxed(tmp_path)


def test_a_photograph_mentions_what_its_captions_or_categories_name(photographs):
    assert annotations.mentions(photographs[0], "boat")  # in the plural in the caption
    assert annotations.mentions(photographs[0], "horses")  # in the singular in the annotation
    assert not annotations.mentions(photographs[0], "cat")


def test_a_caption_is_right_where_all_that_it_names_is_shown_and_named_once(photographs):
    said = ["a horse", "a cat on a horse", "boats", "a horse and a horse", "on it"]
    captions = [Caption(text, ()) for text in said]
    found = annotations.captioned_right(Subjects(photographs, captions, [[]] * 5))
    assert list(found.values()) == [True, False, True, False, True]
    assert list(found) == [photograph.id for photograph in photographs]


def write_coco(folder, boxes: dict[int, list[str]]) -> CocoDataset:
    names = ["horse", "boat", "cat"]
    images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in boxes]
    box = [[1, 1, 5, 1, 5, 5, 1, 5]]
    flat = [(image, name) for image, some in boxes.items() for name in some]
    annotations = [
        {"id": i, "image_id": image, "category_id": names.index(name) + 1, "iscrowd": 0,
         "segmentation": box, "area": 16, "bbox": [1, 1, 4, 4]}
        for i, (image, name) in enumerate(flat)
    ]  # fmt: skip
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    instances, captions = folder / "instances.json", folder / "captions.json"
    base = {"images": images, "categories": categories}
    instances.write_text(json.dumps({**base, "annotations": annotations}))
    captions.write_text(json.dumps({"images": images, "annotations": []}))
    return CocoDataset(folder, instances, captions)


def test_categories_are_those_with_most_single_objects(tmp_path):
    data = write_coco(tmp_path, {1: ["horse"], 2: ["boat", "horse"], 3: ["boat", "boat", "cat"]})
    chosen = annotations.single_objects(data, ["3", "2", "1"], categories=2)
    assert chosen == {"horse": ["2", "1"], "boat": ["2"]}  # of boat, 3 has two
    assert annotations.single_objects(data, ["1"], categories=1) == {"horse": ["1"]}
    with pytest.raises(ValueError, match="1 categories have 2"):
        annotations.single_objects(data, ["1", "2", "3"], categories=2, least=2)


def test_human_nouns_are_different_words_of_the_captions():
    rng, said = np.random.default_rng(0), ("a horse in a field", "the horse, alone")
    photograph = Photograph(id="1", path=Path("1.jpg"), captions=said)
    assert sorted(annotations.human_nouns(photograph, 5, rng)) == ["field", "horse"]
    assert len(annotations.human_nouns(photograph, 1, rng)) == 1
    silent = Photograph(id="4", path=Path("4.jpg"), captions=("so it is",))
    with pytest.raises(ValueError, match="no noun in the human captions of photograph 4"):
        annotations.human_nouns(silent, 5, rng)


def an_image(name, noun, *objects):
    """Return a photograph with (category, supercategory) objects, and its targets."""
    instances = tuple(Instance(c, s, 1.0, False, (2, 2), []) for c, s in objects)
    return Photograph(id=name, path=Path(name), instances=instances), [Target(name, noun, 0, ())]


def test_examples_are_the_first_that_name_an_object_of_the_supercategory():
    rows = [
        an_image("1", "field", ("horse", "animal")),
        an_image("2", "boats", ("boat", "vehicle"), ("horse", "animal")),
        an_image("3", "horse", ("horse", "animal")),
        an_image("4", "horses", ("horse", "animal")),
    ]
    photographs, nouns = map(list, zip(*rows, strict=True))
    subjects = Subjects(photographs, [], nouns)
    assert annotations.example_of_each(subjects, 6) == {"animal": "3", "vehicle": "2"}
    assert annotations.example_of_each(subjects, 1) == {"animal": "3"}


def test_without_a_fitting_noun_the_first_that_shows_an_object_stands_in():
    objects = [("horse", "animal"), ("boat", "vehicle")]
    rows = [an_image("1", "sky", *objects), an_image("2", "sky", *objects), an_image("3", "sky")]
    photographs, nouns = map(list, zip(*rows, strict=True))
    subjects = Subjects(photographs, [], nouns)
    assert annotations.example_of_each(subjects, 6) == {"animal": "1", "vehicle": "2"}
    alone = Subjects(photographs[:1], [], nouns[:1])
    assert annotations.example_of_each(alone, 6) == {"animal": "1"}


def test_without_annotated_objects_the_first_of_each_noun_is_shown():
    rows = [an_image(str(i), noun) for i, noun in enumerate(["sky", "dog", "Dog", "cat", "dog"])]
    photographs, nouns = map(list, zip(*rows, strict=True))
    subjects = Subjects(photographs, [], nouns)
    assert list(annotations.example_of_each(subjects, 2).items()) == [("dog", "1"), ("sky", "0")]


def test_patches_on_an_object_are_covered_by_half():
    shape = np.zeros((8, 8), dtype=bool)
    shape[:4, :6] = True
    expected = [True, True, True, False] * 2 + [False] * 8
    assert annotations.patches_on(shape, (4, 4)).tolist() == expected
    assert annotations.patches_on(shape, (2, 2)).tolist() == [True, True, False, False]


def test_members_of_categories_turn_into_categories_of_images():
    members = {"horse": ["2", "1"], "boat": ["3", "2"]}
    found = annotations.categories_of(members)
    assert list(found.items()) == [("2", ["horse", "boat"]), ("1", ["horse"]), ("3", ["boat"])]


def test_the_first_pair_whose_caption_names_the_object():
    members = {"horse": ["2", "1"], "boat": ["3", "2"]}
    nouns = {"1": "tree", "2": "boats", "3": "boat"}
    assert annotations.first_named(members, nouns) == ("boat", "3")
    assert annotations.first_named(members, {**nouns, "1": "horses"}) == ("horse", "1")
    assert annotations.first_named(members, dict.fromkeys("123", "tree")) == ("horse", "2")


def test_photographs_to_show_are_the_first_whose_nouns_name_an_object(tmp_path):
    some = subjects_of_texts(TinyGated(), tmp_path)
    assert annotations.examples(some, 2).ids == ["scene-0", "scene-2"]
    assert annotations.examples(some.select(["scene-3", "scene-0"]), 1).ids == ["scene-0"]
