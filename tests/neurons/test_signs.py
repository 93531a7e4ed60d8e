"""What a neuron writes has a sign: activations in the table, and both ends of a write vector."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.neurons.activation import (
    activation_baseline,
    activations_at,
    last_activation,
    last_activation_readings,
)
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.contribution import contribution, contribution_readings
from mmn_utils.neurons.decoding import (
    both_ends,
    decode,
    decode_vectors,
    decoded_words,
    extreme_tokens,
    interpretable,
    signed,
    signs_of,
    write_vectors,
)
from mmn_utils.neurons.effects import exact_ablation, integrated_gradients
from mmn_utils.neurons.table import NO_PATCH, Neuron, neuron_table
from tests.neurons import every_noun
from tests.neurons.every_noun import BUILD, IMAGES, TARGETS

NEURONS = [Neuron(2, 5), Neuron(0, 47), Neuron(2, 0), Neuron(1, 20)]
MODELS = {name: build() for name, build in BUILD.items()}  # hypothesis takes no fixtures


# --- the activation of the table ---------------------------------------------------------


@torch.no_grad()
def read(model, image) -> dict[int, torch.Tensor]:
    """Read each layer's activation at the image tokens with plain hooks: (patches, units)."""
    seen, span = {}, model.image_tokens
    hooks = [
        model.act_module(layer).register_forward_pre_hook(
            lambda _, inputs, layer=layer: seen.update({layer: inputs[0][0]})
        )
        for layer in range(model.sizes.layers)
    ]
    try:
        model.forward(model.prompt([image]))
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: values[span.start : span.start + span.count] for layer, values in seen.items()}


SCORES = {
    "attribution": attribution,
    "activation": activation_baseline,
    "integrated": partial(integrated_gradients, steps=2),
}


@pytest.mark.parametrize("rank_by", ["max", "sum", "pair"])
@pytest.mark.parametrize("score", SCORES)
def test_the_activation_is_the_one_at_the_rows_patch(any_model, score, rank_by):
    """To 1e-4 of a plain forward hook, in a pass over each picture alone."""
    one_each = [0, 1] if score == "integrated" else range(len(TARGETS))
    images, targets = [IMAGES[i] for i in one_each], [TARGETS[i] for i in one_each]
    table = SCORES[score](any_model, images, targets, k=25, rank_by=rank_by)
    alone = {t.image: read(any_model, image) for t, image in zip(targets, images, strict=True)}
    for row in table.itertuples():
        values = alone[row.image][row.layer][:, row.unit]
        expected = values.sum() if row.patch == NO_PATCH else values[row.patch]
        assert row.activation == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert len(table) == 25 * len(targets)


@pytest.mark.parametrize("reading", ["gated", "gate"])
@pytest.mark.parametrize("norm", ["none", "final"])
def test_contributions_keep_the_activation_at_the_last_token(gated, reading, norm):
    options = {"k": 20, "activation": reading}
    ours = contribution(gated, IMAGES, TARGETS, contribution_norm=norm, **options)
    base = last_activation(gated, IMAGES, TARGETS, **options)
    np.testing.assert_array_equal(base["activation"], base["score"])
    place = {"gated": "activation", "gate": "gate"}[reading]
    for target in TARGETS:
        seen = every_noun.last(gated, target, place)
        mine = ours[(ours["image"] == target.image) & (ours["target"] == target.noun)]
        expected = [seen[row.layer][row.unit].item() for row in mine.itertuples()]
        np.testing.assert_allclose(mine["activation"], expected, rtol=1e-4, atol=1e-5)
    assert (ours["activation"] < 0).any()


def test_readings_come_off_one_pass(gated):
    passes = []
    hook = gated.language_model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        ours = contribution_readings(gated, IMAGES, TARGETS, k=9, contribution_norm="final")
        base = last_activation_readings(gated, IMAGES, TARGETS, k=9)
    finally:
        hook.remove()
    assert len(passes) == 2
    for reading in ("gated", "gate"):
        options = {"k": 9, "activation": reading}
        expected = contribution(gated, IMAGES, TARGETS, contribution_norm="final", **options)
        pd.testing.assert_frame_equal(ours[reading], expected)
        pd.testing.assert_frame_equal(
            base[reading], last_activation(gated, IMAGES, TARGETS, **options)
        )


def test_what_a_pass_spares_has_no_activation(model):
    """Nothing reads the image in the last layer: its units score 0 and were not computed."""
    table = attribution(model, IMAGES[:1], TARGETS[:1], k=384)
    last = table["layer"] == model.sizes.layers - 1
    assert table["activation"].isna().equals(last)
    assert (table.loc[last, "score"] == 0).all()
    with pytest.raises(ValueError, match=r"128 of 384 neurons have no activation .*both_ends"):
        signed(table)
    lost = exact_ablation(model, model.prompt(IMAGES[:1]), TARGETS[0], [Neuron(0, 1)])
    assert lost["activation"].isna().all()  # off everywhere, so there is no one place


def test_any_units_are_read_at_any_patch(any_model):
    pictures = IMAGES[:2]
    wanted = [[(Neuron(2, 3), 5), (Neuron(0, 1), NO_PATCH), (Neuron(2, 3), 0)], [(Neuron(1, 7), 2)]]
    found = activations_at(any_model, pictures, wanted)
    for image, pairs, values in zip(pictures, wanted, found, strict=True):
        alone = read(any_model, image)
        for (neuron, patch), value in zip(pairs, values, strict=True):
            own = alone[neuron.layer][:, neuron.unit]
            expected = own.sum() if patch == NO_PATCH else own[patch]
            assert value == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert [len(some) for some in activations_at(any_model, pictures, [[], []])] == [0, 0]
    with pytest.raises(ValueError, match="2 images for 1 lists"):
        activations_at(any_model, pictures, [[]])
    with pytest.raises(ValueError, match=r"L9\.u0"):
        activations_at(any_model, pictures[:1], [[(Neuron(9, 0), 0)]])


# --- signs -------------------------------------------------------------------------------


def test_zero_counts_as_positive_and_nothing_at_hand_is_an_error():
    assert signs_of([0.5, -0.5, 0.0, -0.0]).tolist() == [1, -1, 1, 1]
    assert signs_of([]).tolist() == []
    with pytest.raises(ValueError, match="1 of 2 neurons have no activation"):
        signs_of([1.0, float("nan")])


def test_a_table_is_signed_row_by_row():
    row = {"image": "a", "target": "cat", "token": 1, "patch": -1}
    table = neuron_table(
        {**row, "layer": 0, "unit": unit, "score": score, "activation": activation}
        for unit, score, activation in [(3, 2.0, -1.0), (4, 1.0, 2.0), (3, 0.5, 1.0)]
    )
    assert signed(table) == [(Neuron(0, 3), -1), (Neuron(0, 4), 1), (Neuron(0, 3), 1)]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(MODELS)), st.integers(0, 2), st.integers(0, 47), st.integers(1, 12),
    st.sampled_from(["none", "final"]),
)  # fmt: skip
def test_the_opposite_decodes_as_the_negated_vector(name, layer, unit, k, norm):
    """Property: (neuron, -1) is -w, which goes through the norm as a vector of its own."""
    model, neuron = MODELS[name], Neuron(layer, unit)
    table = decode(model, [(neuron, -1), neuron, (neuron, 1)], k, norm)
    vector = -write_vectors(model, [neuron])
    ids, probabilities = decode_vectors(model, vector, k, norm)
    assert table["token"].tolist()[:k] == ids[0].tolist()
    np.testing.assert_allclose(table["probability"][:k], probabilities[0], rtol=1e-5)
    assert table["sign"].tolist() == [-1] * k + [1] * 2 * k
    assert table["token"].tolist()[k : 2 * k] == table["token"].tolist()[2 * k :]
    read = model.final_norm(vector) if norm == "final" else vector
    weight = model.unembedding[0][: model.sizes.vocabulary]
    logits = torch.nn.functional.linear(read, weight)[0].detach()  # the long way
    best = logits[table["token"].tolist()[:k]]
    torch.testing.assert_close(best, logits.sort(descending=True).values[:k])


@pytest.mark.parametrize("norm", ["none", "final"])
@pytest.mark.parametrize("bias", [False, True])
def test_both_ends_are_those_of_the_vector_and_of_its_negative(model, norm, bias):
    switches = {"decode_norm": norm, "decode_bias": bias}
    table = both_ends(model, NEURONS, 6, **switches)
    assert list(table.columns) == ["layer", "unit", "writes", "suppresses"]
    assert [Neuron(*pair) for pair in zip(table["layer"], table["unit"], strict=True)] == NEURONS
    for column, sign in (("writes", 1), ("suppresses", -1)):
        words = decoded_words(model, [(neuron, sign) for neuron in NEURONS], 6, **switches)
        assert table[column].tolist() == list(words.values())
    assert both_ends(model, [], 6, **switches).empty


@pytest.mark.parametrize("chunk", [None, 3])
def test_one_product_gives_both_ends(model, chunk):
    vectors = write_vectors(model, NEURONS)
    highest, lowest = extreme_tokens(model, vectors, 5, chunk)
    logits = vectors @ model.unembedding[0][: model.sizes.vocabulary].T
    assert torch.equal(highest, logits.argsort(descending=True)[:, :5])
    assert torch.equal(lowest, logits.argsort()[:, :5])
    with pytest.raises(ValueError, match="k=0"):
        extreme_tokens(model, vectors, 0)


def test_results_are_keyed_by_what_was_given(model):
    items = [NEURONS[0], (NEURONS[0], -1), (NEURONS[0], 1), (NEURONS[0], -1)]
    words = decoded_words(model, items)
    assert list(words) == items[:3]
    assert words[items[0]] == words[items[2]] != words[items[1]]
    assert list(interpretable(model, items)) == items[:3]
    with pytest.raises(ValueError, match=r"sign 0 of L2\.u5: give 1 or -1"):
        decode(model, [(NEURONS[0], 0)])
