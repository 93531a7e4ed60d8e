"""The quality table: its words, its statistics by hand, and all of it on a tiny system."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools import mask as mask_tools

from mmn_utils.datasets.base import Instance, Photograph
from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.miniature import quality
from mmn_utils.miniature.quality import REQUIRED
from mmn_utils.miniature.world import Background, Concept, World
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.table import Neuron, neuron_table, unique_neurons
from mmn_utils.neurons.targets import Target
from mmn_utils.neurons.text import Noun
from mmn_utils.studies.subjects import Subjects
from tests.tiny import tiny_images, tiny_limber

SIDE = 40


def concept(name: str, plural: str, words: tuple[str, ...]) -> Concept:
    return Concept(name, plural, "a", "animal", ("1f40e",), None, words, ("red field",))


WORLD = World(
    (concept("horse", "horses", ("barn", "rides")), concept("dog", "dogs", ("water",))),
    (Background("grass", ("the field",)), Background("water", ("by water",))),
)
HORSE, DOG = WORLD.concepts


def instance(category: str, box: tuple[int, int, int, int]) -> Instance:
    """Annotate a box: left, top, right, bottom."""
    left, top, right, bottom = box
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    pixels[top:bottom, left:right] = 1
    area = float(pixels.sum())
    return Instance(category, "animal", area, False, (SIDE, SIDE), mask_tools.encode(pixels))


@pytest.fixture
def scenes(tmp_path: Path) -> list[Photograph]:
    """Write four square pictures with their annotations."""
    things = [("horse",), ("dog",), ("horse", "dog"), ("horse",)]
    found = []
    for i, (image, names) in enumerate(zip(tiny_images(4), things, strict=True)):
        path = tmp_path / f"{i}.png"
        image.crop((0, 0, SIDE, SIDE)).save(path)
        places = [(0, 0, 20, 20), (20, 20, 40, 40)]
        instances = tuple(map(instance, names, places))
        texts = tuple(f"{form} {' and '.join(names)} on the grass" for form in ("a", "one"))
        found.append(Photograph(str(i), path, texts, instances, size=(SIDE, SIDE)))
    return found


@pytest.fixture(scope="module")
def model():
    return tiny_limber()


@pytest.fixture
def found(model, scenes) -> Subjects:
    """Give each scene a caption by hand: the first thing that is in it."""
    captions, named = [], []
    for scene in scenes:
        word = scene.instances[0].category
        ids = tuple(model.tokenizer.encode(f" a {word}"))
        captions.append(Caption(f"a {word}", ids))
        named.append(Noun(word, len(ids) - 1, ids[-1]))
    targets = [
        Target.of(s.id, n, c) for s, n, c in zip(scenes, named, captions, strict=True)
    ]  # fmt: skip
    return Subjects(scenes, captions, named, targets)


# --- words --------------------------------------------------------------------------------


def test_words_name_their_concept_in_both_numbers():
    assert quality.concept_of("horses", WORLD) is HORSE
    assert quality.concept_of("Dog", WORLD) is DOG
    assert quality.concept_of("barn", WORLD) is None


def test_only_whole_words_are_on_a_card():
    assert quality.on_card([" x", " barn"], HORSE)
    assert quality.on_card(["horses"], HORSE)
    assert not quality.on_card([" barns", " hor", "dog", ""], HORSE)


def test_the_background_is_what_all_captions_name(scenes):
    assert quality.background_of(scenes[0], WORLD) == "grass"
    assert (
        quality.background_of(Photograph("x", Path("x"), ("a horse", "on the grass")), WORLD)
        is None
    )


@pytest.mark.parametrize(
    ("text", "noun", "expected"),
    [
        ("a horse and a dog on the grass.", "horse", (True, 1.0, 1.0, True)),
        ("a dog on the water.", "dog", (True, 0.5, 1.0, False)),
        ("a barn on the grass.", "barn", (False, 0.0, np.nan, True)),
        ("", "", (False, 0.0, np.nan, False)),
    ],
)
def test_a_caption_against_its_scene(scenes, text, noun, expected):
    row = quality._caption_row(text, noun, scenes[2], WORLD)
    got = row["right"], row["recall"], row["precision"], row["background"]
    np.testing.assert_equal(got, expected)


def test_naming_what_is_not_there_costs_precision(scenes):
    row = quality._caption_row("a dog and a horse on the grass", "dog", scenes[0], WORLD)
    assert (row["right"], row["precision"], row["twice"]) == (False, 0.5, False)
    assert quality._caption_row("a dog and a dog on the grass", "dog", scenes[2], WORLD)["twice"]


# --- statistics ---------------------------------------------------------------------------


def test_mean_leaves_out_what_could_not_be_measured():
    value, low, high, n = quality.mean(pd.Series([0.0, 1.0, np.nan, 1.0, 0.0]))
    assert (value, n) == (0.5, 4)
    assert 0 <= low < 0.5 < high <= 1


def test_ratio_is_of_means_over_the_same_scenes():
    above, below = pd.Series([2.0, 4.0, np.nan]), pd.Series([1.0, 1.0, 5.0])
    value, low, high, n = quality.ratio(above, below)
    assert (value, low, high, n) == (3.0, 2.0, 4.0, 2)


def test_a_ratio_to_nothing_has_no_value():
    value, low, high, n = quality.ratio(pd.Series([1.0, 2.0]), pd.Series([0.0, 0.0]))
    assert np.isnan([value, low, high]).all()
    assert n == 2
    assert quality.mean(pd.Series([np.nan]))[3] == 0


def tops(units: dict[str, tuple[str, list[tuple[int, int]]]]) -> pd.DataFrame:
    rows = [
        {"image": image, "target": noun, "token": 1, "layer": layer, "unit": unit, "patch": 0,
         "score": float(9 - i)}
        for image, (noun, pairs) in units.items() for i, (layer, unit) in enumerate(pairs)
    ]  # fmt: skip
    return neuron_table(rows)


TOPS = {
    "a": ("horse", [(0, 1), (1, 2)]),
    "b": ("horse", [(0, 1), (1, 3)]),
    "c": ("dog", [(2, 2), (1, 2)]),
    "d": ("dog", [(2, 2), (1, 2)]),
}


def test_overlap_of_same_and_different_concepts_by_hand():
    shared, same = quality.overlaps(tops(TOPS))
    np.testing.assert_allclose(shared[0], [1, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(same, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    found = quality._overlap(tops(TOPS))
    assert found["top-20 overlap, same concept"][0] == pytest.approx((0.5 + 1) / 2)
    assert found["top-20 overlap, different concepts"][0] == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)
    assert found["top-20 overlap, same over different"][0] == pytest.approx(3)


def test_resampled_pairs_equal_a_loop_over_pairs():
    table = tops({f"{i}": (("horse", "dog")[i % 2], [(0, i % 3), (1, i % 5)]) for i in range(9)})
    shared, same = quality.overlaps(table)
    value = quality._overlap(table)["top-20 overlap, same concept"][0]
    pairs = [shared[i, j] for i, j in itertools.combinations(range(9), 2) if same[i, j]]
    assert value == pytest.approx(np.mean(pairs))


def test_layers_are_counted_and_their_peak_found():
    counts = quality.layer_counts(tops(TOPS), layers=4)
    assert counts.loc["a"].tolist() == [1, 1, 0, 0]
    assert counts.columns.tolist() == [0, 1, 2, 3]
    assert quality._peak(tops(TOPS), 4)[0] == 1


@pytest.mark.parametrize(
    ("value", "required", "meets"),
    [(0.8, ">= 0.75", "yes"), (0.2, "<= 0.20", "yes"), (0.21, "<= 0.20", "no"), (0.8, "", ""),
     (np.nan, ">= 5", "")],
)  # fmt: skip
def test_verdicts_are_computed(value, required, meets):
    assert quality._verdict(value, required) == meets


# --- units --------------------------------------------------------------------------------


def test_units_of_a_tiny_system(model, found):
    units, best = quality.unit_quality(model, found, WORLD)
    again, _ = quality.unit_quality(model, found, WORLD)
    pd.testing.assert_frame_equal(units, again)
    assert units["noun"].tolist() == ["horse", "dog", "horse", "horse"]
    measured = units.drop(columns=["image", "noun"])
    assert ((measured >= 0) & (measured <= 1)).all(axis=None)
    for table in best.values():
        assert (table.groupby("image").size() == quality.TOP).all()
    assert (best["sum"]["patch"] == -1).all()


@pytest.mark.parametrize(("rank", "column"), [("max", "without_top"), ("sum", "without_top_sum")])
def test_the_papers_share_of_units_is_ablated(model, found, rank, column):
    assert quality.ablated_count(model) == round(6400 / 458_752 * 3 * 128)
    units, best = quality.unit_quality(model, found, WORLD)
    table = best[rank]
    first = unique_neurons(table[table["image"] == "1"])[: quality.ablated_count(model)]
    target = found.targets[1]
    prompt = model.prompt([found.photographs[1].open()]).extend(
        model.embed(torch.tensor([target.prefix]))
    )
    with torch.no_grad(), ablate(model, Ablation(tuple(first))):
        logits, _ = model.forward(prompt)
    expected = float(logits[0].softmax(-1)[target.token])
    assert units.loc[1, column] == pytest.approx(expected, rel=1e-3)


def test_a_noun_that_is_not_there_has_no_overlap_with_its_mask(model, found):
    rng, units = np.random.default_rng(0), [Neuron(0, 1), Neuron(2, 5)]
    scene = found.photographs[0]
    prompt = model.prompt([scene.open()])
    row = quality._fields(model, scene, prompt, DOG, units, rng)
    assert np.isnan([row["iou_top"], row["iou_random"]]).all()
    assert not np.isnan(quality._fields(model, scene, prompt, HORSE, units, rng)["iou_top"])


def test_a_planted_unit_names_its_concept():
    system, rng = tiny_limber(), np.random.default_rng(0)
    token = system.tokenizer.encode(" dog")[0]
    with torch.no_grad():
        system.write_vectors(1)[7] = 50 * system.unembedding[0][token]
    row = quality._named(system, DOG, [Neuron(1, 7)], "card", rng)
    assert row["card"] == 1
    assert quality._named(system, None, [Neuron(1, 7)], "card", rng)["card"] is np.nan


# --- patches ------------------------------------------------------------------------------


def test_patches_that_lie_on_a_word_of_their_card_are_counted(model, scenes, monkeypatch):
    token = model.tokenizer.encode(" dogs")[0]
    word = model.embed(torch.tensor([[token]]))[0, 0]

    def soft_prompt(images):
        return word.expand(len(images), model.image_tokens.count, -1)

    monkeypatch.setattr(model, "soft_prompt", soft_prompt)
    table = quality.patch_quality(model, scenes, WORLD).set_index("image")
    assert table["patches"].tolist() == [4, 4, 8, 4]  # a quarter of 4 x 4 patches each
    assert table["named"].tolist() == [0, 4, 4, 0]


def test_an_object_must_cover_most_of_a_patch(model, scenes):
    thin = Photograph("x", scenes[0].path, (), (instance("dog", (0, 0, 5, 40)),), size=(SIDE, SIDE))
    assert quality._owners(model, thin, WORLD) == []
    assert len(quality._owners(model, scenes[2], WORLD)) == 8


# --- all of it ----------------------------------------------------------------------------


@pytest.fixture
def measured(model, scenes, found, monkeypatch):
    """Measure a tiny system; its targets are given, as its captions are noise."""
    monkeypatch.setattr(quality, "subjects", lambda model, few: found.select([s.id for s in few]))
    others = {"untrained encoder": (tiny_limber(1), scenes), quality.LOOKS: (model, scenes[:2])}
    return quality.measure(model, scenes, WORLD, others=others, n_analyses=3)


def test_the_table_has_every_measure_in_order(measured):
    table = quality.quality_table(measured)
    assert table["measure"].tolist() == list(REQUIRED)
    assert list(table.columns) == [
        "measure", "value", "ci_low", "ci_high", "n", "required", "meets",
    ]  # fmt: skip
    rows = table.set_index("measure")
    assert rows.loc["first noun is in the scene", "n"] == 4
    assert rows.loc["first noun, looks never seen", "n"] == 2
    assert rows.loc["first noun, untrained projection", "n"] == 0
    assert rows.loc["IoU of top units", "n"] == 3
    inside = table.dropna(subset=["ci_low"])
    assert (inside["ci_low"] <= inside["ci_high"]).all()


def test_measures_that_were_not_made_have_no_verdict(measured):
    rows = quality.quality_table(measured).set_index("measure")
    assert rows.loc["first noun, untrained projection", "meets"] == ""
    assert set(rows.loc[rows["required"] == "", "meets"]) == {""}


def test_no_scenes_are_refused(model):
    with pytest.raises(ValueError, match="no photographs"):
        quality.measure(model, [], WORLD)


# --- curves -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "step,items,loss\n1,10,3.5\n2,20,2.5\n",
        "stage,images,loss,patch\na,10,3.5,\na,15,,0.4\nb,20,2.5,0.5\n",
        "10,3.5,80.0\n20,2.5,81.0\n",
    ],
)
def test_training_curves_of_every_kind_are_read(tmp_path, text):
    (tmp_path / "curve.csv").write_text(text)
    curve = quality.training_curve(tmp_path / "curve.csv")
    assert curve["items"].tolist() == [10, 20]
    assert curve["loss"].tolist() == [3.5, 2.5]


def test_a_missing_curve_is_empty(tmp_path):
    assert quality.training_curve(tmp_path / "none.csv").empty
