"""Paper B's analyses over photographs: all nouns, in batches, cached, and undisturbed by it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.datasets import Instance, Photograph
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.methods import METHODS, by_methods
from mmn_utils.neurons.receptive_fields import activation_maps
from mmn_utils.neurons.table import Neuron, neuron_table, top_k
from mmn_utils.neurons.targets import caption_targets
from mmn_utils.studies import concepts
from mmn_utils.studies.invariance import region_invariance
from mmn_utils.studies.specificity import best_neurons, heat_maps, specificity
from tests.tiny import tiny_images, tiny_limber, tiny_tokenizer
from tests.tiny_gated import TinyGated

QUIET = {"progress": False}
TEXTS = ("a red horse near the house", "of the and", "two dogs and a cat", "a boat on the water")
BOX = [[8.0, 8.0, 24.0, 8.0, 24.0, 30.0, 8.0, 30.0]]


@pytest.fixture(scope="module")
def model():
    return TinyGated()


@pytest.fixture
def photographs(tmp_path):
    """Return four photographs in files, the first with a horse on it."""
    found = []
    for i, image in enumerate(tiny_images(4)):
        path = tmp_path / f"{i}.png"
        image.save(path)
        size = (image.height, image.width)
        horse = Instance("horse", "animal", 352.0, False, size, BOX)
        found.append(
            Photograph(f"scene-{i}", path, instances=(horse,) if i == 0 else (), size=size)
        )
    return found


@pytest.fixture
def some(model, photographs, monkeypatch):
    """Return concepts of captions of the test's own."""
    coded = [tuple(tiny_tokenizer().encode(f" {text}")) for text in TEXTS]
    captions = [Caption(text, ids) for text, ids in zip(TEXTS, coded, strict=True)]
    monkeypatch.setattr(concepts, "captions_of", lambda *arguments, **named: captions)
    return concepts.concepts(model, photographs)


def refuse(*arguments, **named):
    raise AssertionError("computed again what was cached")


def test_concepts_are_all_nouns_of_all_captions(model, some):
    assert some.ids == ["scene-0", "scene-2", "scene-3"]
    assert [[t.noun for t in targets] for targets in some.targets] == [
        ["horse", "house"], ["dogs", "cat"], ["boat", "water"],
    ]  # fmt: skip
    assert some.skipped == {"scene-1": "no noun in the caption 'of the and'"}
    assert some.texts["scene-2"] == TEXTS[2]
    for image, caption, targets in zip(some.ids, some.captions, some.targets, strict=True):
        assert targets == caption_targets(model, image, caption)
    assert some.select(["scene-3"]).all_targets == some.targets[2]
    with pytest.raises(ValueError, match="'scene-1' is not among the 3"):
        some.select(["scene-1"])
    with pytest.raises(ValueError, match="batch_size = 0"):
        next(some.batches(0))


def test_captions_without_nouns_are_an_error(model, photographs, monkeypatch):
    bare = Caption("of the", tuple(tiny_tokenizer().encode(" of the")))
    monkeypatch.setattr(concepts, "captions_of", lambda *some, **named: [bare] * 4)
    with pytest.raises(ValueError, match="none of the 4 captions has a noun"):
        concepts.concepts(model, photographs)


def test_batches_open_each_picture_once_and_hand_out_each_target(some):
    found = list(some.batches(2))
    assert [len(targets) for _, targets in found] == [4, 2]
    assert [t for _, targets in found for t in targets] == some.all_targets
    pictures, targets = found[0]
    assert len({id(p) for p in pictures}) == 2
    assert pictures[0] is pictures[1]
    assert targets[0].image == "scene-0"


@pytest.mark.parametrize("norm", ["none", "final"])
def test_top_neurons_are_those_of_each_method_whatever_the_batch(model, some, monkeypatch, norm):
    pictures, targets = next(some.batches(10))
    methods = concepts.switched("gate", norm)
    expected = by_methods(model, pictures, targets, k=12, methods=methods)
    options = {"k": 12, "activation": "gate", "contribution_norm": norm, **QUIET}
    found = concepts.top_neurons(model, some, batch_size=2, **options)
    assert list(found) == list(METHODS)
    for name, table in found.items():
        np.testing.assert_allclose(table["score"], expected[name]["score"], rtol=1e-3, atol=1e-5)
        assert table[["image", "target"]].equals(expected[name][["image", "target"]])
    monkeypatch.setattr(concepts, "by_methods", refuse)
    again = concepts.top_neurons(model, some, **options)
    assert all(again[name].equals(found[name]) for name in found)
    with pytest.raises(AssertionError, match="computed again"):
        concepts.top_neurons(model, some, **{**options, "activation": "gated"})


def test_settings_that_a_model_cannot_have_are_refused(model):
    good = {"k": 1, "ks": [1, 144], "ns": [2], "ms": [1], "activation": "gate"}
    concepts.check_settings(model, **good)
    for bad, match in (
        ({"ks": [1, 145]}, "from 1 to 144"), ({"ks": []}, "ks ="), ({"k": 2}, "not among ks"),
        ({"others": [145]}, "from 1 to 144"), ({"ns": [1]}, "from 2"), ({"ms": [10**6]}, "ms ="),
        ({"activation": "up"}, "gated, gate"), ({"compare": "all"}, "tokens, joined"),
        ({"contribution_norm": "first"}, "'none' or 'final'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            concepts.check_settings(model, **{**good, **bad})
    with pytest.raises(ValueError, match="no gate"):
        concepts.check_settings(tiny_limber(), **good)


def test_the_papers_numbers_are_those_of_one_system():
    found = concepts.of_paper("InstructBLIP")
    assert found["B-table-3"].set_index("method").loc["Mmns", "bertscore"] == 0.339
    assert len(found["B-table-4"]) == 2
    with pytest.raises(ValueError, match="the paper has LLaVA, InstructBLIP, mPLUG-Owl2"):
        concepts.of_paper("GPT")


# --- layers -----------------------------------------------------------------------------


@pytest.fixture
def counted():
    rows = [
        ("a", "x", 0, 1),
        ("a", "x", 3, 1),
        ("a", "y", 3, 1),
        ("b", "x", 2, 5),
        ("b", "x", 3, 1),
    ]
    return neuron_table(
        [
            {"image": image, "target": target, "token": 1, "layer": layer, "unit": unit,
             "patch": -1, "score": 9.0 - i}
            for i, (image, target, layer, unit) in enumerate(rows)
        ]
    )  # fmt: skip


def test_layers_count_neurons_once_and_entries_each_time(counted):
    found = concepts.layer_counts({"contribution": counted}, 4, [1, 2])
    both = found[found["k"] == 2]
    assert both["neurons"].tolist() == [1, 0, 1, 1]
    assert both["entries"].tolist() == [1, 0, 1, 3]
    assert both["depth"].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert found[found["k"] == 1]["entries"].sum() == 3


def test_upper_share_is_of_an_images_different_neurons(counted):
    assert concepts.upper_share(counted, 4, 2).to_dict() == {"a": 0.5, "b": 1.0}


# --- where they look --------------------------------------------------------------------


def test_focus_is_the_mean_of_the_first_maps(model):
    lists = [[Neuron(0, 3), Neuron(2, 5), Neuron(1, 7)], [Neuron(2, 5), Neuron(0, 0), Neuron(1, 1)]]
    picture = tiny_images(1)[0]
    found = concepts.focus(model, picture, lists, [1, 3])
    for row, neurons in zip(found, lists, strict=True):
        maps = activation_maps(model, [picture], neurons)[0]
        torch.testing.assert_close(row, torch.stack([maps[0], maps.mean(0)]))
    with pytest.raises(ValueError, match="3 neurons are scored, 4 are asked"):
        concepts.focus(model, picture, lists, [4])


def test_focus_is_compared_with_the_objects_that_concepts_name(model, some):
    table = concepts.top_neurons(model, some, k=4, **QUIET)["contribution"]
    found = concepts.focus_table(model, some, table, [1, 4])
    assert set(found["image"]) == {"scene-0"}
    assert set(found["target"]) == {"horse"}
    assert found["condition"].tolist() == ["multimodal"] * 2 + ["random"] * 2
    assert found["iou"].between(0, 1).all()
    assert concepts.examples(some, 2).ids == ["scene-0", "scene-2"]


def test_no_grid_is_the_adapters_own_reason(model, some):
    assert concepts.why_no_grid(model) is None
    blind = TinyGated(grid=None)
    assert "no place in the picture" in concepts.why_no_grid(blind)
    with pytest.raises(ValueError, match="no place"):
        concepts.focus_table(blind, some, pd.DataFrame(), [1])


def test_a_cut_out_square_is_what_maps_lie_over(model, monkeypatch):
    picture = tiny_images(1, side=40)[0]  # 48 x 40
    assert concepts.seen(model, picture).size == (48, 40)
    monkeypatch.setattr(model, "facts", type("Facts", (), {"fit": "crop"})(), raising=False)
    square = concepts.seen(model, picture)
    assert square.size == (40, 40)
    assert square.getpixel((0, 0)) == picture.getpixel((4, 0))


# --- the same neurons, their own words -----------------------------------------------------


def test_shuffled_regions_are_those_of_one_batch(model, some, monkeypatch):
    tables = concepts.top_neurons(model, some, k=12, **QUIET)
    before = {"contribution": tables["contribution"]}
    pictures, targets = next(some.batches(10))
    methods = {"contribution": concepts.switched()["contribution"]}
    expected = region_invariance(
        model, pictures, targets, ks=[3, 12], methods=methods, max_new_tokens=6
    )
    options = {"max_new_tokens": 6, "batch_size": 2, **QUIET}
    ratios, receipts = concepts.shuffled_regions(model, some, before, [3, 12], **options)
    keys = ["image", "target", "k"]
    both = ratios.merge(expected.ratios, on=keys)
    assert len(both) == len(ratios) == len(expected.ratios)
    np.testing.assert_allclose(both["ratio_x"], both["ratio_y"], atol=0.34)  # near-equal scores
    assert receipts["image"].tolist() == some.ids
    assert receipts["text"].tolist() == expected.captions["text"].tolist()
    assert receipts["moved"].tolist() == [one.moved for one in expected.receipts]
    monkeypatch.setattr(concepts, "region_invariance", refuse)
    assert concepts.shuffled_regions(model, some, before, [3, 12], **options)[0].equals(ratios)


def test_same_neurons_lists_both_sides(model, some):
    pictures, targets = next(some.batches(10))
    methods = {"contribution": METHODS["contribution"]}
    found = region_invariance(model, pictures, targets, ks=[4], methods=methods, captions="same")
    table = concepts.same_neurons(found, top=4)
    assert len(table) == len(targets)
    first = table.iloc[0]
    old, new = (set(first[side].split(", ")) for side in ("before", "after"))
    assert first["shared"] == len(old & new)
    best = top_k(found.before["contribution"], 4).query(
        "image == @first['image'] and target == @first['target']"
    )
    assert first["before"].split(", ")[0] == f"L{best['layer'].iloc[0]}.u{best['unit'].iloc[0]}"


def test_claims_take_the_most_images_that_enough_concepts_have():
    ratios = pd.DataFrame({"concept": [*"abcdef", *"abcde", "a"], "n": [2] * 6 + [3] * 5 + [4]})
    assert concepts.most_images(ratios) == 3
    assert concepts.most_images(ratios, least=1) == 4
    assert concepts.most_images(ratios, least=7) == 2
    with pytest.raises(ValueError, match="take more photographs"):
        concepts.most_images(ratios.iloc[:0])


def test_specificity_and_heat_maps_do_not_depend_on_the_batch(model, some):
    table = concepts.top_neurons(model, some, k=5, **QUIET)["contribution"]
    pictures, targets = next(some.batches(10))
    picture_of = {t.image: p for t, p in zip(targets, pictures, strict=True)}
    chosen, neurons = best_neurons(table, targets)
    expected = specificity(model, [picture_of[t.image] for t in chosen], chosen, neurons, ms=(1, 5))
    found = concepts.specificity_of(model, some, table, batch_size=1, ms=(1, 5))
    order = ["kind", "image", "rank"]
    mine, whole = (f.scores.sort_values(order, ignore_index=True) for f in (found, expected))
    pd.testing.assert_frame_equal(mine, whole, rtol=1e-3, atol=1e-5)
    maps = concepts.heat_maps_of(model, some, table, batch_size=2)
    for mine, whole in zip(maps, heat_maps(model, pictures, targets, table), strict=True):
        assert (mine.image, mine.concepts, mine.neurons) == (
            whole.image, whole.concepts, whole.neurons,
        )  # fmt: skip
        np.testing.assert_allclose(mine.scores, whole.scores, rtol=1e-3, atol=1e-5)
