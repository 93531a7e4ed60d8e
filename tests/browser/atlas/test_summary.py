"""The numbers of all neurons, and what is drawn of one, against direct computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.browser import portraits
from mmn_utils.browser.atlas import summary
from mmn_utils.neurons.receptive_fields import activation_maps
from mmn_utils.neurons.table import Neuron


def test_every_neuron_is_counted_once_and_by_its_layer(made):
    neurons = summary.every_neuron(made.atlas)
    facts = made.atlas.facts
    assert len(neurons) == facts.layers * facts.units
    numbers = summary.by_layer(neurons)
    assert numbers["layer"].tolist() == [*map(str, range(facts.layers)), "all"]
    *layers, every = numbers.to_dict("records")
    for name in ("neurons", "top", "generic"):
        assert sum(row[name] for row in layers) == every[name]
    scores = pd.concat([made.atlas.image(one.id).scores for one in made.photographs])
    assert every["top"] == scores["address"].nunique()
    first = neurons[(neurons["layer"] == 0) & ~neurons["top"]]
    assert layers[0]["negative, others"] == pytest.approx(first["negative"].mean())


def test_a_layer_without_others_has_no_share_of_them(made):
    neurons = summary.every_neuron(made.atlas).assign(top=True)
    numbers = summary.by_layer(neurons)
    assert numbers["interpretable, others"].isna().all()
    assert (summary.table_of(numbers, 10)["interpretable, others"] == "").all()
    compared = summary.by_picture(made.atlas, neurons, [one.id for one in made.photographs])
    assert (compared["top"] == 0).all()
    assert compared[["interpretable", "interpretable_others"]].isna().all(None)


def test_pictures_are_compared_within_layers(made):
    neurons = summary.every_neuron(made.atlas)
    images = [one.id for one in made.photographs]
    found = summary.by_picture(made.atlas, neurons, images)
    assert found["image"].tolist() == images
    for image, row in zip(images, found.itertuples(), strict=True):
        own, beside = [], []
        for address in set(made.atlas.image(image).scores["address"]):
            one = neurons[neurons["address"] == address].iloc[0]
            others = neurons[(neurons["layer"] == one["layer"]) & (neurons["nouns"] == 0)]
            if len(others):
                own.append(one["negative"])
                beside.append(others["negative"].mean())
        assert row.top == len(own)
        if own:
            assert row.negative == pytest.approx(np.mean(own))
            assert row.negative_others == pytest.approx(np.mean(beside))


def test_a_constant_over_a_layer_is_no_difference(made):
    neurons = summary.every_neuron(made.atlas)
    neurons["flat"] = neurons["layer"] * 1.5
    images = [one.id for one in made.photographs]
    found = summary.by_picture(made.atlas, neurons, images, ["flat"])
    assert found["flat"].tolist() == found["flat_others"].tolist()


# --- what is drawn of one -----------------------------------------------------------------


def test_the_top_neuron_is_the_first_of_the_table_of_the_first_noun(made):
    image = portraits.first_shown(made.atlas, made.photographs).id
    picture = made.atlas.image(image)
    neuron, noun, score = portraits.top_neuron(made.atlas, image, "contribution")
    assert noun == picture.nouns[0].noun
    rows = picture.scores.query("method == 'contribution' and target == @noun")
    assert score == rows["score"].max()
    assert str(neuron) == rows.loc[rows["score"].idxmax(), "address"]


def test_the_first_picture_is_one_that_shows_its_noun(made, monkeypatch):
    usual = portraits.first_shown(made.atlas, made.photographs)
    with_noun = [one for one in made.photographs if made.atlas.image(one.id).nouns]
    shown = with_noun[-1]
    noun = made.atlas.image(shown.id).nouns[0].noun
    assert noun.casefold() not in {i.category for i in usual.instances} or usual is with_noun[0]
    there = tuple(replace(one, category=noun.casefold()) for one in shown.instances)
    others = [replace(one, instances=()) for one in made.photographs if one is not shown]
    found = portraits.first_shown(made.atlas, [*others, replace(shown, instances=there)])
    assert found.id == shown.id
    assert portraits.first_shown(made.atlas, others).id == with_noun[0].id
    known = made.atlas.image
    monkeypatch.setattr(made.atlas, "image", lambda image: replace(known(image), nouns=()))
    with pytest.raises(ValueError, match=f"none of {len(others)} captions has a noun"):
        portraits.first_shown(made.atlas, others)
    with pytest.raises(ValueError, match="has no noun"):
        portraits.top_neuron(made.atlas, others[0].id)


def test_a_portrait_is_the_card_with_its_map(made):
    neuron, image = Neuron(1, 7), made.photographs[0].id
    one = portraits.portrait(made.model, made.atlas, made.photographs, image, neuron, "title")
    card = made.atlas.neuron(neuron)
    assert one.title == "L1.u7 title"
    expected = activation_maps(made.model, [made.photographs[0].open()], [neuron])[0, 0]
    torch.testing.assert_close(torch.from_numpy(one.field), expected.cpu())
    assert one.writes == [(token.text, token.logit) for token in card.writes]
    assert one.histogram == card.histogram
    rows, columns = made.atlas.facts.grid
    sights = card.sights["strongest"][: len(one.strongest)]
    for (name, _, value, (x, y)), sight in zip(one.strongest, sights, strict=True):
        assert (name, value) == (sight.image, sight.value)
        assert int(y * rows) * columns + int(x * columns) == sight.patch
