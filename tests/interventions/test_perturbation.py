"""Noise on write vectors: how much, the same for both conditions, and gone afterwards."""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.interventions.drafts import drafts_of
from mmn_utils.interventions.perturbation import PAPER_SIGMA, noise, perturb, perturbation_table
from mmn_utils.interventions.receipts import NothingTouched
from mmn_utils.interventions.weights import entry_size
from mmn_utils.models.base import state_hash
from mmn_utils.neurons.captions import caption_images
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_gated import TinyGated

NEURONS = (Neuron(2, 7), Neuron(0, 3), Neuron(2, 1))
IMAGES = tiny_images(3)


@pytest.fixture(scope="module")
def model():
    return TinyGated()


@pytest.mark.parametrize("relative", [False, True])
def test_noise_is_gaussian_of_the_size_asked_for(model, relative):
    many = [Neuron(layer, unit) for layer in range(3) for unit in range(48)]
    drawn = noise(model, many, 0.5, 3, relative)
    if relative:
        drawn = drawn / entry_size(model, many)[:, None]
    values = drawn.flatten()  # 4608 of them
    assert abs(float(values.mean())) < 4 * 0.5 / len(values) ** 0.5
    assert float(values.std()) == pytest.approx(0.5, rel=0.04)
    assert float((values.abs() < 0.5).float().mean()) == pytest.approx(0.683, abs=0.03)


def test_relative_noise_follows_the_write_vectors(model):
    weight = model.language_model.model.layers[2].mlp.down_proj.weight
    with torch.no_grad():
        weight[:, 7] *= 10
        small = noise(model, NEURONS, 0.5, 0, relative=True)
        size = float(weight[:, 7].square().mean().sqrt())
        weight[:, 7] /= 10
    assert float(entry_size(model, NEURONS)[0]) == pytest.approx(size / 10, rel=1e-5)
    plain = noise(model, NEURONS, 0.5, 0)
    torch.testing.assert_close(small[0], plain[0] * size)


def test_a_seed_fixes_the_noise_whatever_the_neurons(model):
    others = (Neuron(1, 1), Neuron(1, 2), Neuron(0, 0))
    assert torch.equal(noise(model, NEURONS, 0.5, 4), noise(model, others, 0.5, 4))
    assert not torch.equal(noise(model, NEURONS, 0.5, 4), noise(model, NEURONS, 0.5, 5))


def test_write_vectors_move_by_the_noise_and_nothing_else_does(model):
    before = {n: model.write_vectors(n.layer)[n.unit].clone() for n in NEURONS}
    whole = [model.act_module(layer).weight.clone() for layer in range(3)]
    with perturb(model, NEURONS, seed=2) as receipt:
        drawn = noise(model, NEURONS, PAPER_SIGMA, 2)
        changed = 0
        for row, n in enumerate(NEURONS):
            torch.testing.assert_close(
                model.write_vectors(n.layer)[n.unit], before[n] + drawn[row], atol=1e-6, rtol=0
            )
        for layer in range(3):
            changed += int((model.act_module(layer).weight != whole[layer]).sum())
    assert changed == receipt.touched == 3 * model.sizes.width
    assert receipt.neurons == NEURONS
    assert receipt.norms == pytest.approx(drawn.norm(dim=1).tolist(), rel=1e-4)
    ratios = [float(drawn[i].norm() / before[n].norm()) for i, n in enumerate(NEURONS)]
    assert receipt.relative == pytest.approx(ratios, rel=1e-4)
    assert receipt.weights_before == receipt.weights_after != receipt.weights_within
    assert all(torch.equal(model.act_module(i).weight, whole[i]) for i in range(3))


MODELS = {"gated": TinyGated(), "half": TinyGated().twin(torch.bfloat16), "limber": tiny_limber()}


@settings(max_examples=30)
@given(
    st.sampled_from(sorted(MODELS)),
    st.integers(0, 10**6),
    st.floats(1e-2, 1e3),
    st.booleans(),
    st.booleans(),
)
def test_all_bits_come_back_also_after_an_error(name, seed, sigma, relative, fails):
    model = MODELS[name]
    before, revision = state_hash(model.language_model), model.revision
    try:
        with perturb(model, NEURONS, sigma, seed, relative, hash_weights=False):
            assert state_hash(model.language_model) != before
            assert model.revision.startswith(f"{revision}+noise-")
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert state_hash(model.language_model) == before
    assert model.revision == revision


def test_a_prompt_is_measured_before_and_after(model):
    prompt = model.prompt(IMAGES)
    whole, _ = model.forward(prompt)
    with perturb(model, NEURONS, 5.0, prompt=prompt, max_new_tokens=4) as receipt:
        noisy, _ = model.forward(prompt)
        said = tuple(c.text for c in caption_images(model, IMAGES, 4))
    assert receipt.logit_change == pytest.approx(float((noisy - whole).abs().max()), rel=1e-3)
    assert receipt.caption_after == said != receipt.caption_before
    assert receipt.caption_changed
    assert receipt.caption_before == tuple(c.text for c in caption_images(model, IMAGES, 4))


def test_without_a_prompt_nothing_is_said(model):
    with perturb(model, NEURONS) as receipt:
        pass
    assert receipt.caption_changed is None
    assert receipt.logit_change is None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"sigma": 0.0}, "positive"),
        ({"sigma": float("nan")}, "positive"),
        ({"neurons": ()}, "at least one"),
        ({"neurons": (Neuron(3, 0),)}, "not in this model"),
        ({"neurons": (Neuron(1, 0), Neuron(1, 0))}, "L1.u0 given twice"),
    ],
)
def test_wrong_requests_are_said(model, change, error):
    with (
        pytest.raises(ValueError, match=error),
        perturb(model, **{"neurons": NEURONS, "sigma": 0.5, **change}),
    ):
        pass


def test_quantised_weights_are_refused():
    model = TinyGated()
    model.language_model.is_quantized = True
    with pytest.raises(ValueError, match="quantised"), perturb(model, NEURONS):
        pass


def test_noise_that_rounding_swallows_is_said():
    with (
        pytest.raises(NothingTouched, match=r"too small for torch\.bfloat16"),
        perturb(MODELS["half"], NEURONS, 1e-9),
    ):
        pass


# --- the table ------------------------------------------------------------------------------


def drafts(model, images=IMAGES, first: int = 0):
    """Caption some images, as drafts by the names "0", "1" and so on."""
    shown = [SimpleNamespace(id=str(first + i), open=lambda image=image: image)
             for i, image in enumerate(images)]  # fmt: skip
    return drafts_of(model, shown, caption_images(model, images, 4), max_new_tokens=4)


def table_of(model, **options):
    targets = [Target(str(i), "horse", 5, ()) for i in range(3)]
    neurons = [[Neuron(2, 3 * i), Neuron(2, 3 * i + 1), Neuron(0, i)] for i in range(3)]
    return perturbation_table(model, drafts(model), targets, neurons, sigma=3.0, **options), neurons


@pytest.mark.parametrize(("relative", "batch_size"), [(False, 16), (True, 4)])
def test_the_table_is_what_single_runs_give(model, relative, batch_size):
    before = state_hash(model.language_model)
    table, neurons = table_of(model, relative=relative, batch_size=batch_size)
    assert state_hash(model.language_model) == before
    whole = [c.text for c in caption_images(model, IMAGES, 4)]
    assert table["image"].tolist() == ["0", "0", "1", "1", "2", "2"]
    assert table["condition"].tolist() == ["multimodal", "random"] * 3
    assert table["before"].tolist() == [text for text in whole for _ in range(2)]
    assert table["changed"].tolist() == (table["before"] != table["after"]).tolist()
    assert table["changed"].any()
    for row in table.itertuples():
        some = [Neuron.parse(address) for address in row.neurons.split()]
        chosen = neurons[int(row.image)]
        assert [n.layer for n in some] == [n.layer for n in chosen]
        if row.condition == "multimodal":
            assert some == chosen
        else:
            assert not set(some) & set(chosen)
        drawn = np.random.default_rng([0, zlib.crc32(f"{row.image} horse".encode())])
        seed = int(drawn.integers(2**31))
        with perturb(model, some, 3.0, seed, relative, hash_weights=False) as receipt:
            alone = caption_images(model, [IMAGES[int(row.image)]], 4)[0]
        assert row.after == alone.text
        assert row.norm == pytest.approx(np.mean(receipt.norms), rel=1e-4)
        assert row.relative == pytest.approx(np.mean(receipt.relative), rel=1e-4)


def test_both_conditions_get_the_same_noise(model):
    table, _ = table_of(model)
    pairs = table["norm"].to_numpy().reshape(3, 2)
    np.testing.assert_allclose(pairs[:, 0], pairs[:, 1], rtol=1e-6)
    assert len(set(pairs[:, 0].round(3))) == 3  # each image has its own


def test_draws_depend_on_the_image_alone(model):
    whole, neurons = table_of(model)
    last = perturbation_table(
        model, drafts(model, IMAGES[2:], 2), [Target("2", "horse", 5, ())], neurons[2:], sigma=3.0
    )
    assert last["neurons"].tolist() == whole["neurons"].tolist()[4:]
    assert last["after"].tolist() == whole["after"].tolist()[4:]
    other, _ = table_of(model, seed=1)
    assert other["neurons"].tolist()[1::2] != whole["neurons"].tolist()[1::2]


def test_targets_need_neurons_and_a_draft(model):
    one = [Target("0", "horse", 5, ())]
    with pytest.raises(ValueError, match="give one each"):
        perturbation_table(model, drafts(model), one, [])
    with pytest.raises(KeyError):
        perturbation_table(model, drafts(model, first=1), one, [list(NEURONS)])
