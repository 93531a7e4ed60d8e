"""Specificity against whole products and contributions, and what its definitions imply."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.measures.estimates import mean_of
from mmn_utils.neurons.contribution import contribution, contribution_layers_field
from mmn_utils.neurons.table import Neuron, random_like
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.concepts import scoring
from mmn_utils.studies.concepts.specificity import (
    HeatMap,
    Specificity,
    best_neurons,
    heat_maps,
    heat_maps_of,
    score_matrix,
    specificity,
    specificity_of,
)
from tests.studies.scenes import subjects_of_texts
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_gated import TinyGated

FIRST, SECOND = tiny_images(2)
TARGETS = [
    Target("a", "horse", 300, ()),
    Target("b", "dog", 250, (40,)),
    Target("a", "field", 111, (5, 9)),
    Target("a", "boat", 17, (5, 9, 301)),
    Target("b", "cat", 60, (40, 7)),
]
IMAGES = [{"a": FIRST, "b": SECOND}[t.image] for t in TARGETS]
NEURONS = [Neuron(2, 3), Neuron(0, 47), Neuron(2, 0), Neuron(1, 20), Neuron(2, 3)]
SWITCHES = [
    {"activation": activation, "contribution_norm": norm}
    for activation in ("gated", "gate")
    for norm in ("none", "final")
]


@pytest.fixture(scope="module")
def model():
    return TinyGated()


@pytest.fixture(scope="module")
def table(model):
    return contribution(model, IMAGES, TARGETS, k=20)


# --- matrices --------------------------------------------------------------------------


@pytest.mark.parametrize("switches", SWITCHES)
def test_the_matrix_holds_the_contributions_of_the_chosen(model, switches):
    matrix = score_matrix(model, IMAGES, TARGETS, NEURONS, **switches)
    field = contribution_layers_field(model, IMAGES, TARGETS, **switches)
    expected = torch.stack([field[n.layer][:, n.unit] for n in NEURONS])
    assert matrix.shape == (len(NEURONS), len(TARGETS))
    torch.testing.assert_close(matrix, expected, atol=1e-5, rtol=1e-4)


def test_the_matrix_takes_one_pass():
    model = TinyGated()
    rows = []
    model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    score_matrix(model, IMAGES, TARGETS, NEURONS)
    assert rows == [2]


@pytest.mark.parametrize("build", [TinyGated, tiny_limber])
def test_heat_maps_have_each_concepts_neuron_at_all_concepts_of_its_image(build):
    model = build()
    table = contribution(model, IMAGES, TARGETS, k=20)
    maps = heat_maps(model, IMAGES, TARGETS, table)
    field = contribution_layers_field(model, IMAGES, TARGETS)
    assert [(m.image, m.concepts) for m in maps] == [
        ("a", ("horse", "field", "boat")), ("b", ("dog", "cat")),
    ]  # fmt: skip
    for found in maps:
        columns = [i for i, t in enumerate(TARGETS) if t.image == found.image]
        for row, concept in enumerate(found.concepts):
            first = table[(table.image == found.image) & (table.target == concept)].iloc[0]
            assert found.neurons[row] == Neuron(first.layer, first.unit)
            assert found.scores[row, row] == pytest.approx(first.score, rel=1e-4)
            for column, i in enumerate(columns):
                value = field[first.layer][i, first.unit].item()
                assert found.scores[row, column] == pytest.approx(value, rel=1e-3, abs=1e-5)


def test_a_target_without_neurons_is_named(model, table):
    with pytest.raises(ValueError, match="'boat' of image 'a' is not in the table"):
        heat_maps(model, IMAGES, TARGETS, table[table.target != "boat"])
    with pytest.raises(ValueError, match="'boat' of image 'a' is not among the targets"):
        heat_maps(model, IMAGES[:3], TARGETS[:3], table)


def heat(scores) -> HeatMap:
    scores = np.array(scores, np.float32)
    names = tuple("xyz"[: len(scores)])
    return HeatMap("a", names, tuple(Neuron(0, i) for i in range(len(scores))), scores)


def test_normalised_by_row_or_all_together():
    found = heat([[1, 3, 2], [5, 5, 5], [-4, 0, 4]])
    assert found.normalised().tolist() == [[0, 1, 0.5], [0, 0, 0], [0, 0.5, 1]]
    whole = found.normalised("all")
    assert (whole.min(), whole.max()) == (0, 1)
    assert whole[1, 0] == 1
    with pytest.raises(ValueError, match="'column'"):
        found.normalised("column")


def test_own_highest_counts_the_diagonal():
    assert heat([[3, 1, 2], [0, -1, -2], [0, 0, 9]]).own_highest == pytest.approx(2 / 3)
    assert heat([[1, 2], [2, 1]]).own_highest == 0
    frame = heat([[1, 2], [3, 4]]).frame()
    assert frame.score.tolist() == [1, 2, 3, 4]
    assert frame.iloc[1].tolist() == ["a", "x", "L0.u0", "y", 2]


# --- S@m -------------------------------------------------------------------------------


def test_the_best_neuron_of_an_image_is_over_all_its_concepts(table):
    targets, neurons = best_neurons(table, TARGETS)
    assert [t.image for t in targets] == ["a", "b"]
    for target, neuron in zip(targets, neurons, strict=True):
        best = table[table.image == target.image].sort_values("score").iloc[-1]
        assert (target.noun, neuron) == (best.target, Neuron(best.layer, best.unit))
    assert len(best_neurons(table, TARGETS, ("image", "target"))[0]) == len(TARGETS)


@pytest.mark.parametrize("switches", SWITCHES)
def test_scores_are_activation_times_the_whole_product(model, switches):
    images, targets, neurons = IMAGES[:3], TARGETS[:3], NEURONS[:3]
    asked = {"ms": [1, 4], "related_by": "write", **switches}
    found = specificity(model, images, targets, neurons, **asked).scores
    assert found.kind.tolist() == ["related"] * 12 + ["random"] * 12
    weight, _ = model.unembedding
    for i, (target, neuron) in enumerate(zip(targets, neurons, strict=True)):
        mine = found[(found.image == target.image) & (found.target == target.noun)]
        assert mine["rank"].tolist() == [0, 1, 2, 3] * 2
        assert set(zip(mine.layer, mine.unit, strict=True)) == {(neuron.layer, neuron.unit)}
        product = weight @ model.write_vectors(neuron.layer)[neuron.unit]  # all tokens
        assert mine.token.tolist()[:4] == product.argsort(descending=True)[:4].tolist()
        asked = [Target(target.image, "any", token, target.prefix) for token in mine.token]
        whole = contribution_layers_field(model, [images[i]] * 8, asked, **switches)
        expected = whole[neuron.layer][:, neuron.unit]
        np.testing.assert_allclose(mine.score, expected, rtol=1e-3, atol=1e-5)


def test_s_at_m_is_the_mean_over_m_tokens(model):
    found = specificity(model, IMAGES[:2], TARGETS[:2], NEURONS[:2], seed=2)
    for kind in ("related", "random"):
        rows = found.scores[found.scores.kind == kind]
        for m in (1, 5, 10, 50):
            values = found.at(m, kind)
            for image in ("a", "b"):
                mine = rows[rows.image == image].score.to_numpy()
                assert len(mine) == 50
                assert values[image] == pytest.approx(mine[:m].mean(), rel=1e-4)
            assert found.table().loc[kind, f"S@{m}"] == pytest.approx(values.mean())
        # the paper's S@50 is its S@10 / 5: fifty tokens do not say that
        assert found.at(50, kind).mean() != pytest.approx(found.at(10, kind).mean() / 5, rel=0.05)
    assert mean_of(found.at(10)).n == 2
    assert isinstance(found, Specificity)


@settings(max_examples=8)
@given(st.integers(0, 2), st.integers(0, 47))
def test_related_scores_fall_with_m_where_the_neuron_is_active(model, layer, unit):
    asked = (model, [FIRST], TARGETS[:1], [Neuron(layer, unit)])
    found = specificity(*asked, related_by="write")
    active = found.scores.activation.iloc[0]
    falls = np.diff([found.at(m)["a"] for m in (1, 5, 10, 50)]) * np.sign(active)
    assert (falls <= 1e-6).all()
    random = found.at(50, "random")["a"] * np.sign(active)
    assert found.at(50)["a"] * np.sign(active) >= random
    turned = specificity(*asked)
    assert (np.diff([turned.at(m)["a"] for m in (1, 5, 10, 50)]) <= 1e-6).all()
    assert turned.at(1)["a"] > 0


def test_related_tokens_are_those_that_the_final_norm_favours_on_request(model):
    asked = (model, [FIRST], TARGETS[:1], NEURONS[:1])
    usual, normed = specificity(*asked), specificity(*asked, decode_norm="final")
    neuron, sign = NEURONS[0], np.sign(usual.scores["activation"].iloc[0])
    vector = sign * model.act_module(neuron.layer).weight[:, neuron.unit].detach()
    logits = model.unembedding[0].detach() @ model.final_norm(vector)
    best = logits[: model.sizes.vocabulary].topk(10).indices
    along = model.unembedding[0].detach()[best] @ vector * abs(usual.scores["activation"].iloc[0])
    assert normed.at(10)["a"] == pytest.approx(float(along.mean()), rel=1e-4)
    assert normed.at(10)["a"] < usual.at(10)["a"]  # which takes the largest scores there are


def test_random_tokens_are_the_images_own(model):
    both = specificity(model, IMAGES[:2], TARGETS[:2], NEURONS[:2], seed=5).scores
    one = specificity(model, IMAGES[1:2], TARGETS[1:2], NEURONS[1:2], seed=5).scores
    mine = both[both.image == "b"].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, one, rtol=1e-3, atol=1e-5)
    drawn = both[both.kind == "random"]
    assert not drawn.duplicated(["image", "token"]).any()
    assert set(drawn[drawn.image == "a"].token) != set(drawn[drawn.image == "b"].token)
    other = specificity(model, IMAGES[1:2], TARGETS[1:2], NEURONS[1:2], seed=6).scores
    assert one[one.kind == "random"].token.tolist() != other[other.kind == "random"].token.tolist()


def test_random_neurons_answer_less_to_what_they_write(model, table):
    targets, neurons = best_neurons(table, TARGETS, ("image", "target"))
    images = [{"a": FIRST, "b": SECOND}[t.image] for t in targets]
    random = random_like(neurons, model.sizes.units, np.random.default_rng(0))
    mine = specificity(model, images, targets, neurons)
    control = specificity(model, images, targets, random)
    assert mine.at(1).mean() > control.at(1).mean()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"ms": [0]}, r"\[0\]"),
        ({"ms": [10_000]}, "10000"),
        ({"related_by": "sign"}, "'sign'"),
        ({"neurons": [Neuron(9, 0)]}, r"L9\.u0"),
        ({"neurons": []}, "0 neurons for 1 targets"),
    ],
)
def test_bad_arguments_are_named(model, bad, said):
    arguments = {"images": [FIRST], "targets": TARGETS[:1], "neurons": NEURONS[:1], **bad}
    with pytest.raises(ValueError, match=said):
        specificity(model, **arguments)


def test_an_m_that_was_not_asked_is_named(model):
    found = specificity(model, [FIRST], TARGETS[:1], NEURONS[:1], ms=[1, 5])
    with pytest.raises(ValueError, match="m=10"):
        found.at(10)


def test_specificity_and_heat_maps_do_not_depend_on_the_batch(model, tmp_path):
    some = subjects_of_texts(model, tmp_path)
    table = scoring.top_neurons(model, some, k=5, progress=False)["contribution"]
    pictures, targets = some.opened()
    picture_of = {t.image: p for t, p in zip(targets, pictures, strict=True)}
    chosen, neurons = best_neurons(table, targets)
    expected = specificity(model, [picture_of[t.image] for t in chosen], chosen, neurons, ms=(1, 5))
    found = specificity_of(model, some, table, batch_size=1, ms=(1, 5))
    order = ["kind", "image", "rank"]
    mine, whole = (f.scores.sort_values(order, ignore_index=True) for f in (found, expected))
    pd.testing.assert_frame_equal(mine, whole, rtol=1e-3, atol=1e-5)
    maps = heat_maps_of(model, some, table, batch_size=2)
    for mine, whole in zip(maps, heat_maps(model, pictures, targets, table), strict=True):
        assert (mine.image, mine.concepts, mine.neurons) == (
            whole.image, whole.concepts, whole.neurons,
        )  # fmt: skip
        np.testing.assert_allclose(mine.scores, whole.scores, rtol=1e-3, atol=1e-5)
