"""Receptive fields against masks, activity, steady units, classes: against plain references."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.datasets import CocoDataset, Photograph
from mmn_utils.datasets.base import Instance
from mmn_utils.neurons.receptive_fields import activation_maps, iou, mask, resize_truth, upsample
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies import selectivity as sel
from mmn_utils.studies import subjects as study
from tests.tiny import PIXELS, tiny_images, tiny_limber

K = 12


@pytest.fixture(scope="module")
def system():
    return tiny_limber()


@pytest.fixture
def photographs(tmp_path) -> list[Photograph]:
    """Five pictures, each with one object: a box in COCO's polygon."""
    made = []
    for i, image in enumerate(tiny_images(5, seed=3)):
        path = tmp_path / f"{i}.png"
        image.save(path)
        box = [2 + i, 2, 30, 2, 30, 30, 2 + i, 30]
        size = (image.height, image.width)
        instance = Instance("horse", "animal", 1.0, False, size, [box])
        made.append(
            Photograph(str(i), path, (f"a horse by the boats {i}",), (instance,), size=size)
        )
    return made


def subjects_of(system, photographs) -> study.Subjects:
    """Subjects with a target for each photograph, whatever the random system says."""
    targets = [sel.Target(p.id, "horse", 300 + i, (5,) * i) for i, p in enumerate(photographs)]
    return study.Subjects(
        photographs, [None] * len(photographs), [None] * len(photographs), targets
    )


# --- words and photographs ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("noun", "name", "same"),
    [("Horses", "horse", True), ("buses", "bus", True), ("cherries", "cherry", True),
     ("knives", "knife", True), ("horse", "horse", True), ("cat", "cattle", False),
     ("horse", "horses", False)],
)  # fmt: skip
def test_a_noun_is_its_own_plural(noun, name, same):
    assert sel.same_word(noun, name) == same


def test_a_photograph_mentions_what_its_captions_or_categories_name(photographs):
    assert sel.mentions(photographs[0], "boat")  # in the plural in the caption
    assert sel.mentions(photographs[0], "horses")  # in the singular in the annotation
    assert not sel.mentions(photographs[0], "cat")


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
    chosen = sel.single_objects(data, ["3", "2", "1"], categories=2)
    assert chosen == {"horse": ["2", "1"], "boat": ["2"]}  # of boat, 3 has two
    assert sel.single_objects(data, ["1"], categories=1) == {"horse": ["1"]}
    with pytest.raises(ValueError, match="1 categories have 2"):
        sel.single_objects(data, ["1", "2", "3"], categories=2, least=2)


# --- receptive fields --------------------------------------------------------------------


def test_controls_copy_layers_and_depend_on_the_image_alone(system, photographs):
    table = study.top_neurons(system, subjects_of(system, photographs), k=K, progress=False)
    few = sel.controls(table[table["image"] != "2"], system.sizes.units, seed=1, k=6)
    every = sel.controls(table, system.sizes.units, seed=1, k=6)
    assert all(every[image] == sets for image, sets in few.items())
    assert "2" in every
    top, drawn = every["2"][sel.TOP], every["2"][sel.RANDOM]
    assert [n.layer for n in top] == [n.layer for n in drawn]
    assert not set(top) & set(drawn)
    assert drawn != sel.controls(table, system.sizes.units, seed=2, k=6)["2"][sel.RANDOM]


@pytest.mark.parametrize("whole_set", [False, True], ids=["map", "dataset"])
def test_the_iou_table_is_what_one_photograph_alone_gives(system, photographs, whole_set):
    table = study.top_neurons(system, subjects_of(system, photographs), k=K, progress=False)
    chosen = sel.controls(table, system.sizes.units, seed=0, k=4)
    every = [n for sets in chosen.values() for some in sets.values() for n in some]
    levels = sel.unit_thresholds(system, photographs, every, 0.8, at_once=7) if whole_set else None
    cut = sel.Cut(0.8, levels)
    objects = {p.id: ["horse"] for p in photographs}
    found = sel.iou_table(
        system, photographs, objects, chosen, cut=cut, batch_size=3, progress=False
    )
    assert len(found) == 5 * 2 * (4 + 1)
    photograph = photographs[3]
    units = chosen["3"][sel.RANDOM]
    maps = activation_maps(system, [photograph.open()], units)[0]
    truth = resize_truth(photograph.mask("horse"), PIXELS)
    thresholds = torch.tensor([levels[n] for n in units]) if whole_set else None
    singles = mask(upsample(maps, PIXELS), 0.8, thresholds)
    mean = mask(upsample(maps.mean(0), PIXELS), 0.8)
    rows = found[(found["image"] == "3") & (found["condition"] == sel.RANDOM)]
    expected = [*iou(singles, truth).tolist(), iou(mean, truth).item()]
    # batches round otherwise than one photograph: a pixel at the very threshold may fall either way
    np.testing.assert_allclose(rows["iou"], expected, atol=0.002)
    assert rows["rank"].tolist() == [0, 1, 2, 3, sel.MEAN_MASK]
    assert [Neuron(a, b) for a, b in rows[["layer", "unit"]].to_numpy()[:4]] == units


def test_iou_by_image_averages_units_and_keeps_the_mean_mask_apart():
    values = {sel.TOP: (0.2, 0.4, 0.9), sel.RANDOM: (0, 0.2, 0.5)}
    ranks = (0, 1, sel.MEAN_MASK)
    rows = [
        ("1", "cat", condition, rank, 0, 0, value)
        for condition, some in values.items()
        for rank, value in zip(ranks, some, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["image", *sel.IOU_COLUMNS])
    assert sel.iou_by_image(table).iloc[0].tolist() == ["cat", "1", pytest.approx(0.3), 0.1]
    assert sel.iou_by_image(table, mean_mask=True).iloc[0].tolist() == ["cat", "1", 0.9, 0.5]


# --- activity ----------------------------------------------------------------------------


def test_activities_are_those_of_the_maps(system, photographs):
    units = [Neuron(2, 5), Neuron(0, 7), Neuron(2, 1)]
    table = sel.unit_activations(system, photographs, units, batch_size=2, progress=False)
    for value, reduced in (("peak", torch.amax), ("mean", torch.mean)):
        grid = sel.activation_grid(table, ["4", "0"], units, value)
        maps = [activation_maps(system, [photographs[i].open()], units)[0] for i in (4, 0)]
        expected = torch.stack([reduced(m.flatten(1), 1) for m in maps], dim=1)
        np.testing.assert_allclose(grid, expected.numpy(), atol=1e-5)
    order = sel.strongest(table, units[0], 3)
    peaks = dict(
        zip(
            map(str, range(5)),
            sel.activation_grid(table, list("01234"), units, "peak")[0],
            strict=True,
        )
    )
    assert order == sorted(peaks, key=lambda image: -peaks[image])[:3]


def test_steady_units_are_in_the_table_for_most_images():
    rows = [
        ("a", 1, 1.0),
        ("b", 1, 1.0),
        ("a", 2, 9.0),
        ("b", 2, 9.0),
        ("c", 3, 99.0),
        ("d", 3, 1.0),
    ]
    table = pd.DataFrame([{"image": i, "layer": 0, "unit": u, "score": s} for i, u, s in rows])
    labels = {"a": "cat", "b": "cat", "c": "cat"}  # d has none
    found = sel.steady_units(table, labels, 2)
    assert found == {"cat": [Neuron(0, 2), Neuron(0, 1)]}
    assert sel.steady_units(table, {**labels, "d": "dog"}, 5)["dog"] == [Neuron(0, 3)]


# --- classes -----------------------------------------------------------------------------


class Nouns:
    """Stands in for the tagger: captions of a random system have no nouns to find."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, caption, model):
        from mmn_utils.neurons.text import Noun

        step = self.steps[hash(caption.ids) % len(self.steps)]
        return [] if step is None else [Noun("word", step, caption.ids[step])]


@pytest.mark.parametrize("rank_by", ["max", "sum"])
@pytest.mark.parametrize("target", ["logit", "probability"])
def test_one_pass_scores_as_two_do(system, photographs, monkeypatch, rank_by, target):
    monkeypatch.setattr(sel, "nouns", Nouns([0, 2, 1]))
    monkeypatch.setattr(study, "nouns", Nouns([0, 2, 1]))
    asked = {"k": K, "target": target, "rank_by": rank_by}
    found = sel.class_table(
        system, photographs, max_new_tokens=4, batch_size=5, progress=False, **asked
    )
    subjects = study.subjects(system, photographs, max_new_tokens=4, progress=False)
    assert len({t.prefix for t in subjects.targets}) > 1  # of several lengths in one batch
    expected = study.top_neurons(system, subjects, progress=False, **asked)
    pd.testing.assert_frame_equal(
        found.drop(columns="patch"), expected.drop(columns="patch"), rtol=1e-3, atol=1e-5
    )


def test_a_caption_without_a_noun_has_no_rows(system, photographs, monkeypatch):
    monkeypatch.setattr(sel, "nouns", lambda caption, model: [])
    table = sel.class_table(system, photographs, k=3, max_new_tokens=2, progress=False)
    assert table.empty


def test_class_matrix_of_units_that_know_their_class():
    set_of, class_of = ["a", "a", "b", "c"], list("aabbcc")
    own = np.array([[s == c for c in class_of] for s in set_of], float)
    activations = own + 0.5
    matrix = sel.class_matrix(activations, set_of, class_of, n=50)
    assert matrix.classes == ("a", "b", "c")
    assert matrix.own_share.value == 1
    np.testing.assert_allclose(matrix.mean, np.eye(3) + 0.5)
    np.testing.assert_allclose(matrix.relative, (np.eye(3) + 0.5) / 1.5)
    assert sel.prefers_own(activations, set_of, class_of).all()
    assert not sel.prefers_own(-activations, set_of, class_of).any()


def test_a_set_that_is_never_active_has_no_relative_value():
    matrix = sel.class_matrix(np.full((2, 4), -0.1), ["a", "b"], list("aabb"), n=10)
    assert np.isnan(matrix.relative).all()
    with pytest.raises(ValueError, match="images of"):
        sel.class_matrix(np.ones((1, 2)), ["a"], ["a", "b"])


def test_only_max_and_sum_rank_classes(system, photographs):
    with pytest.raises(ValueError, match="pair"):
        sel.class_table(system, photographs, rank_by="pair")


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
    found = sel.telling_units(table, labels)
    assert found == {"cat": Neuron(2, 2), "dog": Neuron(2, 4)}
