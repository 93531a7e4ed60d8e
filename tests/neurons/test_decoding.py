"""Decoding against the whole product, on a tiny random GPT-J."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.neurons.decoding import (
    decode,
    decode_layer,
    decode_vectors,
    decoded_words,
    interpretable,
    nearest_tokens,
    write_vectors,
)
from mmn_utils.neurons.table import Neuron
from tests.tiny import tiny_limber

NEURONS = [Neuron(2, 5), Neuron(0, 127), Neuron(2, 0), Neuron(1, 64)]


@pytest.fixture(scope="module")
def model():
    return tiny_limber()


def product(model, norm: bool, bias: bool, layer: int = 0) -> torch.Tensor:
    """Form softmax of the whole (units, vocabulary) product, straight from transformers' parts."""
    gptj, vocabulary = model.language_model, model.sizes.vocabulary
    vectors = gptj.transformer.h[layer].mlp.fc_out.weight.detach().T
    vectors = gptj.transformer.ln_f(vectors) if norm else vectors
    logits = vectors @ gptj.lm_head.weight.detach()[:vocabulary].T
    logits = logits + (gptj.lm_head.bias.detach()[:vocabulary] if bias else 0)
    return logits.detach().softmax(-1)


def test_write_vectors_come_in_the_order_asked(model):
    vectors = write_vectors(model, NEURONS)
    for vector, neuron in zip(vectors, NEURONS, strict=True):
        column = model.language_model.transformer.h[neuron.layer].mlp.fc_out.weight[:, neuron.unit]
        assert torch.equal(vector, column)


@pytest.mark.parametrize("norm", ["none", "final"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [None, 1, 50])
def test_a_layer_decodes_as_the_whole_product_does(model, norm, bias, chunk):
    table = decode_layer(model, 1, 10, decode_norm=norm, decode_bias=bias, chunk=chunk)
    expected = product(model, norm == "final", bias, layer=1).sort(-1, descending=True)
    count = model.sizes.units
    assert (table.layer == 1).all()
    assert list(table.unit) == sorted(list(range(count)) * 10)
    assert list(table["rank"]) == list(range(10)) * count
    ids = torch.tensor(table.token.to_numpy()).reshape(count, 10)
    assert torch.equal(ids, expected.indices[:, :10])
    probabilities = table.probability.to_numpy().reshape(count, 10)
    np.testing.assert_allclose(probabilities, expected.values[:, :10], rtol=1e-5)


def test_switches_change_what_is_decoded(model):
    plain, norm, bias = (
        decode_layer(model, 0, 5, decode_norm=n, decode_bias=b).probability
        for n, b in (("none", False), ("final", False), ("none", True))
    )
    assert not np.allclose(plain, norm)
    assert not np.allclose(plain, bias)


def test_neurons_decode_as_their_layers_do(model):
    table = decode(model, NEURONS, k=4)
    assert list(table.columns) == [
        "layer", "unit", "sign", "rank", "token", "text", "probability",
    ]  # fmt: skip
    for place, neuron in enumerate(NEURONS):
        whole = decode_layer(model, neuron.layer, 4)
        whole = whole[whole.unit == neuron.unit].reset_index(drop=True)
        mine = table.iloc[4 * place : 4 * place + 4].reset_index(drop=True)
        assert mine.drop(columns="probability").equals(whole.drop(columns="probability"))
        np.testing.assert_allclose(mine.probability, whole.probability, rtol=1e-5)


def test_texts_are_the_tokens_with_their_blanks(model):
    table = decode_layer(model, 2, 10)
    assert (table.token < model.sizes.vocabulary).all()
    assert list(table.text) == [model.token_strings[t] for t in table.token]
    assert table.text.str.startswith(" ").any()
    words = decoded_words(model, NEURONS)
    assert list(words) == NEURONS
    assert all(len(w) == 10 for w in words.values())
    assert words[NEURONS[0]] == list(decode(model, NEURONS[:1]).text)


def test_seven_of_ten_words_make_a_neuron_interpretable(model, monkeypatch):
    words = [" horse", " picture", " field", " house", " boat", " water", " grass"]
    tokens = {
        NEURONS[0]: [*words, ",", "ogs", " xq"],
        NEURONS[1]: [*words[:6], ",", "ogs", " xq", " a"],
    }
    monkeypatch.setattr("mmn_utils.neurons.decoding.decoded_words", lambda *_: tokens)
    assert interpretable(model, NEURONS[:2]) == {NEURONS[0]: True, NEURONS[1]: False}


def test_random_neurons_of_a_tiny_model_are_judged_by_what_they_decode_to(model):
    judged = interpretable(model, NEURONS)
    assert list(judged) == NEURONS
    assert set(judged.values()) <= {True, False}


def test_nothing_asked_is_nothing_decoded(model):
    assert len(decode(model, [])) == 0
    assert decoded_words(model, []) == {}
    assert list(decode(model, []).columns)[-1] == "probability"


def test_what_cannot_be_decoded_is_named(model):
    with pytest.raises(ValueError, match=r"L3\.u0"):
        decode(model, [Neuron(3, 0)])
    with pytest.raises(ValueError, match="k=0"):
        decode(model, NEURONS, k=0)
    with pytest.raises(ValueError, match="'first'"):
        decode(model, NEURONS, decode_norm="first")


def test_no_bias_to_add_is_said(model, monkeypatch):
    weight, _ = model.unembedding
    monkeypatch.setattr(type(model), "unembedding", (weight, None))
    with pytest.raises(ValueError, match="decode_bias = False"):
        decode(model, NEURONS, decode_bias=True)


@pytest.mark.parametrize("chunk", [None, 7])
def test_nearest_tokens_have_the_highest_cosines(model, chunk):
    table = model.language_model.transformer.wte.weight.detach()[: model.sizes.vocabulary]
    vectors = torch.randn(20, model.sizes.width, generator=torch.Generator().manual_seed(0))
    ids, cosines = nearest_tokens(model, vectors, k=5, chunk=chunk)
    whole = torch.nn.functional.cosine_similarity(vectors[:, None], table[None], dim=-1)
    expected = whole.sort(-1, descending=True)
    assert torch.equal(ids, expected.indices[:, :5])
    torch.testing.assert_close(cosines, expected.values[:, :5])


def test_a_token_is_nearest_to_itself_at_any_length(model):
    table = model.language_model.transformer.wte.weight.detach()[: model.sizes.vocabulary]
    ids, cosines = nearest_tokens(model, 7 * table[10:40], k=1)
    assert ids[:, 0].tolist() == list(range(10, 40))
    torch.testing.assert_close(cosines, torch.ones(30, 1))


def test_vectors_without_a_direction_are_refused(model):
    with pytest.raises(ValueError, match="zero or not finite"):
        nearest_tokens(model, torch.zeros(1, model.sizes.width))
    with pytest.raises(ValueError, match=r"\(N, 32\)"):
        nearest_tokens(model, torch.zeros(1, 5))


def test_half_precision_decodes_to_the_same_token(model):
    half = tiny_limber()
    half.language_model.bfloat16()
    vectors = 20 * write_vectors(model, NEURONS)  # far apart, so that rounding cannot turn them
    ids, probabilities = decode_vectors(half, vectors, 1)
    assert torch.equal(ids, decode_vectors(model, vectors, 1)[0])
    assert probabilities.dtype == torch.float32
    assert (probabilities <= 1).all()
