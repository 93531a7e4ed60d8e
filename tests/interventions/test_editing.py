"""Algorithm 1 against its own steps, and on planted units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmn_utils.interventions.concept import Concept, word_tokens
from mmn_utils.interventions.edit import EmptyEdit, apply
from mmn_utils.interventions.editing import (
    Settings,
    closed_form,
    descend,
    make_edit,
    pulls_of,
    solve,
    squared_form,
)
from mmn_utils.interventions.joint import joint_edit
from mmn_utils.interventions.receipts import NothingTouched
from mmn_utils.models.base import state_hash
from mmn_utils.neurons.captions import caption_images
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.table import Neuron, unique_neurons
from mmn_utils.neurons.targets import Target
from tests.interventions.planted import CHANNELS, UNITS, neuron, picture, target, token
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_gated import TinyGated

PAPER = (4.0, 1e-3, 1000)  # beta, lr, epochs


def test_captions_say_what_is_planted(system):
    said = caption_images(system, [picture(word) for word in UNITS], 4)
    assert [caption.text for caption in said] == [f"{word} grass" for word in UNITS]


def test_contribution_finds_the_planted_unit(system):
    table = contribution(system, [picture("horse")], [target("horse")], k=3)
    assert unique_neurons(table)[0] == neuron("horse")


def others(logits: torch.Tensor, *words: str) -> torch.Tensor:
    """Drop some words' logits, and the scale of the final norm."""
    rest = torch.ones(logits.shape[1], dtype=torch.bool)
    rest[[token(word) for word in words]] = False
    return logits[:, rest] / logits[:, rest].norm()


@pytest.mark.parametrize("method", ["closed", "descent", "squared", "adam"])
def test_an_edit_swaps_exactly_the_planted_word(system, method):
    images = [picture("horse"), picture("horse", 2), picture("boat"), picture("horses")]
    whole, _ = system.forward(system.prompt(images))
    how = Settings(method, beta=1.0 if method == "squared" else 4.0)
    edit = make_edit(system, images[:1], [target("horse")], "cat", [neuron("horse")], how)
    with apply(system, edit, prompt=system.prompt(images), max_new_tokens=4) as receipt:
        edited, _ = system.forward(system.prompt(images))
    assert receipt.caption_after == ("cat grass", "cat grass", "boat grass", "horses grass")
    assert receipt.caption_before == ("horse grass", "horse grass", "boat grass", "horses grass")
    assert receipt.caption_changed
    assert receipt.logit_change == pytest.approx(float((edited - whole).abs().max()), rel=1e-4)
    moved = others(edited[:1], "horse", "cat") - others(whole[:1], "horse", "cat")
    if method == "adam":  # its steps are alike in every entry, so they leave the pull's line
        assert moved.abs().max() > 0.1
    else:  # nothing but the two words moved
        assert moved.abs().max() < 1e-3


def test_a_silent_unit_gives_an_empty_edit(system):
    asked = (system, [picture("boat")], [target("boat")], "dog", [neuron("horse")])
    with pytest.raises(EmptyEdit, match=r"g = \S+ .*beta = 4\. Lower beta.*allow_empty=True"):
        make_edit(*asked)
    edit = make_edit(*asked, allow_empty=True)
    assert not edit.deltas.any()
    with pytest.raises(NothingTouched, match="zero everywhere"), apply(system, edit):
        pass
    before = state_hash(system.language_model)
    with apply(system, edit, allow_empty=True) as receipt:
        assert receipt.touched == 0
    assert state_hash(system.language_model) == before


def test_several_images_average_their_pulls(system):
    mixed = np.array(picture("horse"))
    mixed[:18] = CHANNELS["boat"]
    images = [picture("horse"), Image.fromarray(mixed)]
    targets = [target("horse", "a"), target("horse", "b")]
    edit = make_edit(system, images, targets, "cat", [neuron("horse")])
    pulls = [pulls_of(system, [i], [t], [word_tokens(system, "cat")], [[neuron("horse")]])[0]
             for i, t in zip(images, targets, strict=True)]  # fmt: skip
    assert not torch.allclose(*pulls)
    torch.testing.assert_close(edit.deltas, closed_form(sum(pulls) / 2, *PAPER))
    assert edit.concepts == (Concept("horse", "cat", word_tokens(system, "cat"), ("a", "b")),)


def printed(o, v0, v1, w, beta: float, lr: float, epochs: int) -> torch.Tensor:
    """Run Algorithm 1 as it stands, on one neuron: autograd, float64."""
    moved = torch.zeros_like(w, requires_grad=True)
    optimiser = torch.optim.SGD([moved], lr=lr)
    for _ in range(epochs):
        optimiser.zero_grad()
        edited = w + moved
        loss = o * (edited @ v0 - edited @ v1) + beta * torch.linalg.vector_norm(moved)
        loss.backward()
        optimiser.step()
    return moved.detach()


def drawn(seed: int, width: int = 12):
    generator = torch.Generator().manual_seed(seed)
    o = torch.randn((), generator=generator, dtype=torch.float64)
    return o, *torch.randn(3, width, generator=generator, dtype=torch.float64)


seeds = st.integers(0, 2**31)


@settings(max_examples=30)
@given(seeds, st.floats(0, 6), st.floats(1e-4, 0.1), st.integers(1, 20))
def test_the_closed_form_is_where_the_steps_end(seed, beta, lr, epochs):
    o, v0, v1, w = drawn(seed)
    pull = (o * (v0 - v1))[None]
    g = float(pull.norm())
    steps = printed(o, v0, v1, w, beta, lr, epochs)
    closed = closed_form(pull, beta, lr, epochs)[0]
    if g > beta:
        torch.testing.assert_close(closed.double(), steps, atol=1e-6, rtol=1e-5)
    else:  # the steps jump about the minimum, which is zero
        assert not closed.any()
        assert steps.norm() <= lr * (g + beta) * (1 + 1e-9)


@settings(max_examples=30)
@given(seeds, st.floats(0.5, 6), st.floats(-1e-3, 1e-3), st.integers(2, 20))
def test_close_to_the_threshold(seed, beta, off, epochs):
    """Just above, the form is exact; at and below, the steps are off by 2 lr beta at most."""
    o, v0, v1, w = drawn(seed)
    o = o.sign() * beta * (1 + off) / (v0 - v1).norm()
    pull = (o * (v0 - v1))[None]
    closed = closed_form(pull, beta, 1e-3, epochs)[0]
    steps = printed(o, v0, v1, w, beta, 1e-3, epochs)
    if pull.norm() > beta:
        torch.testing.assert_close(closed.double(), steps, atol=1e-6, rtol=1e-5)
    else:
        assert not closed.any()
        assert steps.norm() <= 2e-3 * beta * (1 + 1e-9)


@pytest.mark.parametrize(("g", "length"), [(6, 2.004), (10, 6.004), (20, 16.004)])
def test_lengths_with_the_papers_settings(g, length):
    pull = torch.zeros(1, 5)
    pull[0, 2] = g
    for found in (closed_form(pull, *PAPER), descend(pull, *PAPER)):
        assert float(found[0, 2]) == pytest.approx(-length, rel=1e-5)
        assert found.count_nonzero() == 1


@settings(max_examples=8)
@given(seeds)
def test_many_neurons_at_once_are_each_alone(seed):
    pulls = torch.stack([drawn(seed + i)[1] * 3 for i in range(4)])
    for method in ("closed", "descent", "adam", "squared"):
        how = Settings(method, beta=5.0, lr=1e-2, epochs=6)
        alone = torch.cat([solve(row[None], how) for row in pulls])
        torch.testing.assert_close(solve(pulls, how), alone, atol=1e-7, rtol=1e-6)


@settings(max_examples=30)
@given(seeds, st.floats(0.1, 6))
def test_the_squared_norm_has_a_minimum_and_the_steps_find_it(seed, beta):
    pull = drawn(seed)[1][None]
    minimum, lr = squared_form(pull, beta), 1e-2
    variable = minimum.double().requires_grad_()
    loss = (pull * variable).sum() + beta * variable.square().sum()
    (slope,) = torch.autograd.grad(loss, variable)
    assert slope.abs().max() < 1e-5
    steps = descend(pull, beta, lr, 10, squared=True)
    torch.testing.assert_close(
        steps, minimum * (1 - (1 - 2 * beta * lr) ** 10), atol=1e-6, rtol=1e-5
    )


def test_adam_takes_torchs_steps_and_goes_further():
    o, v0, v1, w = drawn(3, width=64)
    o = 20 / (v0 - v1).norm()
    moved = torch.zeros_like(w, requires_grad=True)
    optimiser = torch.optim.Adam([moved], lr=1e-3)
    for _ in range(50):
        optimiser.zero_grad()
        loss = o * ((w + moved) @ (v0 - v1)) + 4 * torch.linalg.vector_norm(moved)
        loss.backward()
        optimiser.step()
    pull = (o * (v0 - v1))[None]
    found = descend(pull, 4.0, 1e-3, 50, adam=True)[0]
    torch.testing.assert_close(found.double(), moved.detach(), atol=1e-6, rtol=1e-5)
    # each entry moves by lr a step, so the length grows with the root of the width
    assert found.norm() == pytest.approx(50e-3 * 8, rel=0.2)


@pytest.mark.parametrize(
    "wrong", [{"method": "sgd"}, {"activation": "silu"}, {"beta": -1.0}, {"lr": 0.0},
              {"epochs": 0}, {"method": "squared", "beta": 0.0}],
)  # fmt: skip
def test_wrong_settings_are_said(wrong):
    with pytest.raises(ValueError, match=r"give|must|leaves"):
        Settings(**wrong)


@pytest.mark.parametrize("activation", ["gated", "gate"])
def test_pulls_of_a_word_of_two_tokens(activation):
    model, image = TinyGated(), tiny_images(1)[0]
    neurons = [Neuron(0, 3), Neuron(2, 30), Neuron(0, 7)]
    goal, tokens = Target("a", "horse", 77, (5, 9)), (40, 61)
    weight = model.unembedding[0]
    expected = torch.zeros(3, model.sizes.width)
    for step in range(2):
        prompt = model.prompt([image])
        ids = torch.tensor([[5, 9, *tokens[:step]]])
        logits, kept = watch(model, prompt.extend(model.embed(ids)))
        best = logits[0].argsort(descending=True).tolist()
        rival = 77 if step == 0 else next(t for t in best if t != tokens[step])
        for row, n in enumerate(neurons):
            gate, up = (kept[n.layer, kind][0, -1, n.unit] for kind in ("gate", "up"))
            o = torch.nn.functional.silu(gate) * (up if activation == "gated" else 1)
            expected[row] += o * (weight[rival] - weight[tokens[step]])
    found = pulls_of(model, [image], [goal], [tokens], [neurons], activation)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def watch(model, prompt):
    """Run a prompt and keep what both projections of each layer give."""
    kept, handles = {}, []
    for layer, block in enumerate(model.language_model.model.layers):
        for kind in ("gate", "up"):
            module = getattr(block.mlp, f"{kind}_proj")
            place = (layer, kind)
            handles.append(
                module.register_forward_hook(
                    lambda _m, _i, out, place=place: kept.__setitem__(place, out)
                )
            )
    logits, _ = model.forward(prompt)
    for handle in handles:
        handle.remove()
    return logits, kept


def test_plain_mlps_have_no_gate():
    model = tiny_limber()
    asked = (model, tiny_images(1), [target("horse")], "cat", [Neuron(1, 3)])
    with pytest.raises(ValueError, match="no gate"):
        make_edit(*asked, Settings(activation="gate"))
    assert make_edit(*asked, Settings(beta=0.0)).deltas.any()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"neurons": []}, "at least"),
        ({"neurons": [Neuron(9, 0)]}, "not in this model"),
        ({"neurons": [Neuron(2, 5)] * 2}, "twice"),
        ({"targets": []}, "a target for each"),
        ({"word": "horse"}, "take a word that begins otherwise"),
        ({"images": [None, None], "targets": [target("horse"), target("boat")]}, "for each"),
    ],
)
def test_wrong_requests_are_said(system, change, error):
    asked = {"images": [picture("horse")], "targets": [target("horse")], "word": "cat",
             "neurons": [neuron("horse")], **change}  # fmt: skip
    for make in (make_edit, joint_edit):
        with pytest.raises(ValueError, match=error):
            make(system, **asked)
