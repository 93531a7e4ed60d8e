"""Where top neurons look: the maps are the neurons' own, and an absence has its reason."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.datasets import Instance, Photograph
from mmn_utils.measures.estimates import share_of
from mmn_utils.models.capture import capture
from mmn_utils.models.pixels import seen_box
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.receptive_fields import activation_maps, mask, seen_picture, upsample
from mmn_utils.neurons.table import Neuron, best_of
from mmn_utils.neurons.targets import caption_targets
from mmn_utils.studies.concepts import scoring
from mmn_utils.studies.concepts import views as where
from mmn_utils.studies.concepts.views import views
from mmn_utils.studies.subjects import Subjects
from tests.studies.scenes import subjects_of_texts
from tests.tiny import tiny_images, tiny_tokenizer
from tests.tiny_gated import TinyGated

TEXTS = ("a red horse near the house", "a horse and a cat")
BOX = [[8.0, 8.0, 24.0, 8.0, 24.0, 30.0, 8.0, 30.0]]
KS = [1, 4]


@pytest.fixture(scope="module")
def model():
    return TinyGated()


@pytest.fixture(scope="module")
def some(model, tmp_path_factory):
    """Return concepts of two photographs, each with a horse on it."""
    photographs, captions = [], []
    for i, image in enumerate(tiny_images(2)):
        path = tmp_path_factory.mktemp("views") / f"{i}.png"
        image.save(path)
        size = (image.height, image.width)
        horse = Instance("horse", "animal", 352.0, False, size, BOX)
        photographs.append(Photograph(f"scene-{i}", path, instances=(horse,), size=size))
        captions.append(Caption(TEXTS[i], tuple(tiny_tokenizer().encode(f" {TEXTS[i]}"))))
    pairs = zip(photographs, captions, strict=True)
    targets = [caption_targets(model, photograph.id, caption) for photograph, caption in pairs]
    return Subjects(photographs, captions, targets)


@pytest.fixture(scope="module")
def table(model, some):
    pictures, targets = some.select(some.ids[:2]).opened()
    return contribution(model, pictures, targets, k=4)


def test_views_are_the_mean_signed_maps_of_the_top_neurons(model, some, table):
    found = views(model, some, some.select(["scene-1"]), table, KS, quantile=0.9)
    assert [view.concept for view in found.shown] == ["horse", "cat"]
    horse, cat = found.shown
    picture, goal = some.photographs[1].open(), some.every[1][1]
    best = where.signed_at_steps(model, picture, [goal], [best_of(table, 4)["scene-1", "cat"]])
    smooth = upsample(where.focus(model, picture, best, KS), model.image_tokens.pixels)[0]
    np.testing.assert_allclose(cat.maps, smooth, rtol=1e-5, atol=1e-6)
    assert (cat.masks == mask(smooth, 0.9).numpy()).mean() > 0.999  # but for a pixel at the cut
    assert cat.picture.size == seen_picture(model, picture).size
    assert cat.truth is None  # no cat is annotated
    assert (horse.truth == where.object_mask(model, some.photographs[1], "horse").numpy()).all()


def test_overlaps_are_those_of_named_objects(model, some, table):
    found = views(model, some, some.select(["scene-0"]), table, KS, seed=3)
    looks = where.focus_table(model, some, table, KS, seed=3)
    conditions = ("multimodal", "random", "printed")
    assert list(found.overlap) == [(c, k) for c in conditions for k in KS]
    assert found.overlap.index.tolist() == ["scene-0", "scene-1"]
    some_rows = looks.query("condition == 'random' and k == 4")
    np.testing.assert_allclose(found.overlap["random", 4], some_rows["iou"])
    assert found.levels(3)["random", 4] == share_of(some_rows["iou"], 3)
    rows = found.rows
    assert list(rows) == ["image", "k", "top", "random", "printed"]
    assert rows.query("k == 4")["random"].tolist() == some_rows["iou"].tolist()
    summary = found.summary(3)
    assert list(summary) == ["condition", "k", "IoU", "low", "high", "n"]
    assert summary["n"].tolist() == [2] * 6


def test_a_system_without_a_grid_gives_its_reason(some, table):
    found = views(TinyGated(grid=None), some, some, table, KS)
    assert "no place in the picture" in found.no_grid
    assert (found.shown, found.overlap, found.levels()) == ((), None, {})
    assert found.rows.empty
    assert list(found.rows) == ["image", "k", "top", "random", "printed"]
    assert found.summary()["left out"].tolist() == [found.no_grid]


def test_signs_are_those_of_the_activations_that_predict_the_concept(model, some):
    picture, targets = some.photographs[0].open(), some.every[0]
    neurons = [Neuron(layer, unit) for layer in range(3) for unit in range(8)]
    found = where.signed_at_steps(model, picture, targets, [neurons] * len(targets))
    for target, pairs in zip(targets, found, strict=True):
        ids = torch.tensor([target.prefix], dtype=torch.long)
        prompt = model.prompt([picture])
        embeds = torch.cat([prompt.embeds, model.embed(ids)], dim=1)
        with capture(model) as seen, torch.no_grad():
            model.language_model(inputs_embeds=embeds)
        for neuron, sign in pairs:
            assert sign == torch.sign(seen.values[neuron.layer][0, -1, neuron.unit])
    assert {sign for pairs in found for _, sign in pairs} == {1, -1}


def test_photographs_without_named_objects_have_maps_alone(model, some, table):
    bare = [Photograph(p.id, p.path, size=p.size) for p in some.photographs]
    nameless = Subjects(bare, some.captions, some.every)
    found = views(model, nameless, nameless, table, KS)
    assert len(found.shown) == len(nameless.all_targets)
    assert all(view.truth is None for view in found.shown)
    assert (found.overlap, found.no_grid, found.levels(), len(found.rows)) == (None, None, {}, 0)
    assert found.summary()["left out"].tolist() == ["no concept names an object with a mask"]


def test_focus_is_the_mean_of_the_first_signed_maps(model):
    lists = [
        [(Neuron(0, 3), 1), (Neuron(2, 5), -1), (Neuron(1, 7), 1)],
        [(Neuron(2, 5), -1), (Neuron(0, 0), 1), (Neuron(1, 1), -1)],
    ]
    picture = tiny_images(1)[0]
    found = where.focus(model, picture, lists, [1, 3])
    for row, pairs in zip(found, lists, strict=True):
        maps = activation_maps(model, [picture], [neuron for neuron, _ in pairs])[0]
        signed = torch.stack([sign * one for one, (_, sign) in zip(maps, pairs, strict=True)])
        torch.testing.assert_close(row, torch.stack([signed[0], signed.mean(0)]))
    with pytest.raises(ValueError, match="3 neurons are scored, 4 are asked"):
        where.focus(model, picture, lists, [4])


def test_focus_is_compared_with_the_objects_that_concepts_name(model, tmp_path):
    some = subjects_of_texts(model, tmp_path)
    table = scoring.top_neurons(model, some, k=4, progress=False)["contribution"]
    found = where.focus_table(model, some, table, [1, 4])
    assert set(found["image"]) == {"scene-0"}
    assert set(found["target"]) == {"horse"}
    conditions = [c for c in ("multimodal", "random", "printed") for _ in range(2)]
    assert found["condition"].tolist() == conditions
    assert found["iou"].between(0, 1).all()


def test_no_grid_is_the_adapters_own_reason(model, tmp_path):
    some = subjects_of_texts(model, tmp_path)
    assert model.no_grid is None
    blind = TinyGated(grid=None)
    assert blind.no_grid.endswith("have no place in the picture (they are queries)")
    with pytest.raises(ValueError, match=r"no place in the picture .* use scores without"):
        where.focus_table(blind, some, pd.DataFrame(), [1])


def test_a_cut_out_square_is_what_maps_lie_over(model, monkeypatch):
    picture = tiny_images(1, side=40)[0]  # 48 x 40
    assert seen_picture(model, picture).size == (48, 40)
    monkeypatch.setattr(model, "seen", lambda size: seen_box(size, "crop"))
    square = seen_picture(model, picture)
    assert square.size == (40, 40)
    assert square.getpixel((0, 0)) == picture.getpixel((4, 0))
