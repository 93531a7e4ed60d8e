"""Edits: Algorithm 1 against its own steps, planted units, and bits that come back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from mmn_utils.interventions.editing import (
    FORMAT,
    Concept,
    Edit,
    EmptyEdit,
    JointSettings,
    Settings,
    _Free,
    _Text,
    apply,
    closed_form,
    combine,
    descend,
    install,
    joint_edit,
    load_edit,
    make_edit,
    pull_of,
    save_edit,
    solve,
    squared_form,
    word_tokens,
)
from mmn_utils.interventions.receipts import NothingTouched
from mmn_utils.models.base import state_hash
from mmn_utils.neurons.captions import caption_images, generate
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.table import Neuron, unique_neurons
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.store import model_identity
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_gated import TinyGated

PAPER = (4.0, 1e-3, 1000)  # beta, lr, epochs

# --- a system with three words planted in it -----------------------------------------------

LAYER = 2
UNITS = {"horse": 17, "boat": 5, "horses": 40}
CHANNELS = {"horse": (255, 0, 0), "boat": (0, 255, 0), "horses": (0, 0, 255)}
WORDS = (*UNITS, "cat", "dog", "grass")


def token(word: str) -> int:
    return word_tokens(TinyGated(), word)[0]


@torch.no_grad()
def planted() -> TinyGated:
    """Let each colour make a unit of the last layer write its word; captions go on ' grass'."""
    system = TinyGated()
    torch.manual_seed(1)
    model, width = system.language_model, system.sizes.width
    directions = torch.linalg.qr(torch.randn(width, 3 + len(WORDS) + 1)).Q.T
    colours, words = directions[:3], dict(zip((*WORDS, "end"), directions[3:], strict=True))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        elif "o_proj" in name or "down_proj" in name:
            parameter.mul_(0.02)
    first, last = model.model.layers[0].self_attn, model.model.layers[LAYER].mlp
    first.q_proj.weight.zero_()  # the same weight for every token before
    first.v_proj.weight[:3] = colours
    first.o_proj.weight[:, :3] = 20 * colours.T
    away = directions.T @ directions
    for table in (model.lm_head.weight, model.model.embed_tokens.weight):
        table.copy_(0.1 * (table - table @ away))
    ids = {word: word_tokens(system, word) for word in WORDS} | {"end": (0,)}
    assert all(len(one) == 1 for one in ids.values())
    for word, (one,) in ids.items():
        model.lm_head.weight[one] = 3 * words[word]
        follower = "end" if word == "grass" else "grass"
        model.model.embed_tokens.weight[one] = 2000 * words[follower]
    for (word, unit), colour in zip(UNITS.items(), colours, strict=True):
        last.gate_proj.weight[unit] = last.up_proj.weight[unit] = 0.5 * colour
        last.down_proj.weight[:, unit] = 4 * words[word]
    system.projection = 30 * colours
    system.places = system.places - system.places @ away
    return system


def picture(word: str, shade: int = 0) -> Image.Image:
    """Paint the word's colour; shades differ in how much of the picture it fills."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[4 * shade :] = CHANNELS[word]
    return Image.fromarray(pixels)


def target(word: str, image: str = "scene") -> Target:
    return Target(image, word, token(word), ())


def neuron(word: str) -> Neuron:
    return Neuron(LAYER, UNITS[word])


@pytest.fixture(scope="module")
def system():
    return planted()


@pytest.fixture(scope="module")
def cat(system):
    return make_edit(system, [picture("horse")], [target("horse")], "cat", [neuron("horse")])


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


def test_two_concepts_at_once(system, cat):
    dog = make_edit(system, [picture("boat")], [target("boat")], "dog", [neuron("boat")])
    both = combine([cat, dog])
    with apply(system, both):
        said = caption_images(system, [picture(word) for word in UNITS], 4)
    assert [caption.text for caption in said] == ["cat grass", "dog grass", "horses grass"]
    assert [concept.target for concept in both.concepts] == ["cat", "dog"]
    assert both.pulls == cat.pulls + dog.pulls
    with pytest.raises(ValueError, match=r"L2.u17 belongs to two.*shared='sum'"):
        combine([cat, dog, cat])
    added = combine([cat, cat], shared="sum")
    torch.testing.assert_close(added.deltas, 2 * cat.deltas)
    assert math.isnan(added.pulls[0])
    with pytest.raises(ValueError, match="cannot be combined"):
        combine([cat, replace(dog, revision="other")])


def test_several_images_average_their_pulls(system):
    mixed = np.array(picture("horse"))
    mixed[:18] = CHANNELS["boat"]
    images = [picture("horse"), Image.fromarray(mixed)]
    targets = [target("horse", "a"), target("horse", "b")]
    edit = make_edit(system, images, targets, "cat", [neuron("horse")])
    pulls = [pull_of(system, i, t, word_tokens(system, "cat"), [neuron("horse")])
             for i, t in zip(images, targets, strict=True)]  # fmt: skip
    assert not torch.allclose(*pulls)
    torch.testing.assert_close(edit.deltas, closed_form(sum(pulls) / 2, *PAPER))
    assert edit.concepts == (Concept("horse", "cat", word_tokens(system, "cat"), ("a", "b")),)


# --- Algorithm 1 against its own steps ------------------------------------------------------


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


# --- what is measured -----------------------------------------------------------------------


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
    found = pull_of(model, image, goal, tokens, neurons, activation)
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


def test_words_have_the_tokens_of_a_caption():
    model = TinyGated()
    encode = model.tokenizer.encode
    assert word_tokens(model, "horse") == tuple(encode(" horse"))
    assert word_tokens(model, " horse") == tuple(encode(" horse"))
    assert len(word_tokens(model, "zebra")) > 1
    with pytest.raises(ValueError, match="no ids"):
        word_tokens(model, " ")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"neurons": []}, "at least"),
        ({"neurons": [Neuron(9, 0)]}, "not in this model"),
        ({"neurons": [Neuron(2, 5)] * 2}, "twice"),
        ({"targets": []}, "a target for each"),
        ({"word": "horse"}, "take another word"),
        ({"images": [None, None], "targets": [target("horse"), target("boat")]}, "for each"),
    ],
)
def test_wrong_requests_are_said(system, change, error):
    asked = {"images": [picture("horse")], "targets": [target("horse")], "word": "cat",
             "neurons": [neuron("horse")], **change}  # fmt: skip
    for make in (make_edit, joint_edit):
        with pytest.raises(ValueError, match=error):
            make(system, **asked)


# --- in and out of the weights --------------------------------------------------------------


def made_up(model, seed: int, count: int = 6, size: float = 1.0) -> Edit:
    rng = np.random.default_rng(seed)
    total = model.sizes.layers * model.sizes.units
    places = rng.choice(total, count, replace=False)
    neurons = tuple(Neuron(int(p) // model.sizes.units, int(p) % model.sizes.units) for p in places)
    deltas = torch.from_numpy(rng.normal(0, size, (count, model.sizes.width))).float()
    concept = (Concept("a", "b", (1,), ("x",)),)
    return Edit(neurons, deltas, (1.0,) * count, concept, {}, model.name, model.revision,
                model.sizes)  # fmt: skip


MODELS = {
    "gated": TinyGated(),
    "bfloat16": TinyGated().twin(torch.bfloat16),
    "float16": TinyGated().twin(torch.float16),
    "limber": tiny_limber(),
}


@settings(max_examples=40)
@given(st.sampled_from(sorted(MODELS)), seeds, st.integers(1, 20), st.floats(1e-3, 100))
def test_edit_and_undo_restore_every_bit(name, seed, count, size):
    model = MODELS[name]
    before, revision = state_hash(model.language_model), model.revision
    edit = made_up(model, seed, count, size)
    with apply(model, edit, hash_weights=False):
        assert state_hash(model.language_model) != before
    assert state_hash(model.language_model) == before
    other = made_up(model, seed + 1, count, size)
    first = install(model, edit)
    second = install(model, other)
    second.undo()
    first.undo()
    assert state_hash(model.language_model) == before
    assert model.revision == revision


def test_the_weights_are_the_old_ones_plus_the_deltas(system, cat):
    w = system.write_vectors(LAYER)[UNITS["horse"]].clone()
    whole = system.act_module(LAYER).weight.clone()
    with apply(system, cat) as receipt:
        edited = system.act_module(LAYER).weight.clone()
    torch.testing.assert_close(edited[:, UNITS["horse"]], w + cat.deltas[0])
    edited[:, UNITS["horse"]] = w
    assert torch.equal(edited, whole)
    assert receipt.norms == pytest.approx(cat.norms.tolist(), rel=1e-5)
    assert receipt.relative[0] == pytest.approx(float(cat.norms[0] / w.norm()), rel=1e-5)
    assert receipt.weights_before == receipt.weights_after != receipt.weights_within


def test_an_error_inside_passes_and_restores(system, cat):
    before = state_hash(system.language_model)
    with pytest.raises(ZeroDivisionError), apply(system, cat):
        _ = 1 / 0
    assert state_hash(system.language_model) == before


def test_meddling_inside_is_noticed(cat):
    system = planted()
    weight = system.act_module(LAYER).weight
    for unit in (0, UNITS["horse"]):  # another column of the layer, and the edited one
        kept = weight.clone()
        with pytest.raises(RuntimeError, match="changed by something else"), apply(system, cat):
            weight.data[:, unit] += 1
        assert torch.equal(weight[:, UNITS["horse"]], kept[:, UNITS["horse"]])
        weight.data.copy_(kept)


def test_edits_of_one_neuron_come_off_in_reverse(system, cat):
    before = state_hash(system.language_model)
    first, second = install(system, cat), install(system, cat.scaled(0.5))
    with pytest.raises(RuntimeError, match=r"layers \[2\].*undo first"):
        first.undo()
    second.undo()
    first.undo()
    assert state_hash(system.language_model) == before
    with pytest.raises(RuntimeError, match="undone before"):
        first.undo()


def test_disjoint_edits_come_off_in_any_order(system, cat):
    dog = make_edit(system, [picture("boat")], [target("boat")], "dog", [neuron("boat")])
    revision = system.revision
    first, second = install(system, cat), install(system, dog)
    first.undo()
    assert system.revision == f"{revision}+{dog.identity}"
    assert generate(system, system.prompt([picture("boat")]), 4)[0].text == "dog grass"
    second.undo()
    assert system.revision == revision


def test_an_edited_model_is_another_model_to_the_cache(cat):
    system = planted()  # its revision was never asked for, so it is hashed now or never
    with apply(system, cat):
        within = model_identity(system)
    assert within != model_identity(system)
    assert model_identity(system)["revision"] == planted().revision == cat.revision


def test_rounding_that_swallows_an_edit_is_said():
    model = MODELS["bfloat16"]
    edit = made_up(model, 0).scaled(1e-9)
    with pytest.raises(NothingTouched, match=r"too small for torch\.bfloat16"), apply(model, edit):
        pass


def test_sums_beyond_the_type_leave_the_weights_alone():
    model = MODELS["float16"]
    before = state_hash(model.language_model)
    with pytest.raises(ValueError, match=r"range of torch\.float16"):
        install(model, made_up(model, 0, size=1e6))
    assert state_hash(model.language_model) == before


def test_quantised_and_offloaded_weights_are_refused(cat):
    system = planted()
    system.language_model.is_quantized = True
    with pytest.raises(ValueError, match="quantised"):
        install(system, cat)
    system.language_model.is_quantized = False
    system.act_module(LAYER).to("meta")
    with pytest.raises(ValueError, match="offloaded"):
        install(system, cat)


def test_scaled_and_first(system):
    neurons = [neuron("horse"), Neuron(LAYER, 3), neuron("boat")]
    asked, how = (system, [picture("horse")], [target("horse")], "cat"), Settings(beta=0.0)
    edit, two = (make_edit(*asked, some, how) for some in (neurons, neurons[:2]))
    assert edit.first(2).identity == two.identity
    torch.testing.assert_close(edit.scaled(0.25).deltas, edit.deltas / 4)
    assert edit.scaled(0.5).scaled(0.5).settings["strength"] == 0.25
    assert edit.scaled(2).identity != edit.identity
    assert edit.table()["norm"].tolist() == edit.norms.tolist()
    with pytest.raises(ValueError, match="has 3 neurons"):
        edit.first(4)


# --- files ----------------------------------------------------------------------------------


def test_an_edit_is_read_as_it_was_written(system, cat, tmp_path):
    path = save_edit(cat, tmp_path / "cat.safetensors")
    read = load_edit(path, system)
    assert torch.equal(read.deltas, cat.deltas)
    for name in ("neurons", "pulls", "concepts", "settings", "model", "revision", "sizes"):
        assert getattr(read, name) == getattr(cat, name), name
    assert read.identity == cat.identity
    assert save_edit(read, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert path.stat().st_size < 2000
    with apply(system, read):
        assert generate(system, system.prompt([picture("horse")]), 4)[0].text == "cat grass"


def test_another_models_edit_is_refused(system, cat, tmp_path):
    path = save_edit(cat, tmp_path / "cat.safetensors")
    with pytest.raises(ValueError, match=r"3 layers, 48 units and width 32.*has 3, 128 and 32"):
        load_edit(path, tiny_limber())
    other = TinyGated(seed=4)
    with pytest.raises(ValueError, match=f"revision {cat.revision}.*{other.revision}"):
        load_edit(path, other)
    with pytest.raises(ValueError, match="load those weights"):
        install(other, cat)
    half = system.twin(torch.bfloat16)
    with apply(half, cat) as receipt:  # the same weights in another type are the same model
        assert receipt.norms == pytest.approx(cat.norms.tolist(), rel=0.01)


def test_an_edit_of_an_edited_model_needs_it(system, cat):
    with apply(system, cat):
        second = make_edit(system, [picture("boat")], [target("boat")], "dog", [neuron("boat")])
        install(system, second).undo()
    with pytest.raises(ValueError, match="load those weights"):
        install(system, second)


def test_broken_files_are_said(tmp_path, cat):
    with pytest.raises(FileNotFoundError, match="no edit at"):
        load_edit(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no tensors")
    save_file({"deltas": cat.deltas}, tmp_path / "bare")
    save_file({"deltas": cat.deltas}, tmp_path / "part", {FORMAT: json.dumps({"concepts": []})})
    for name in ("text", "bare", "part"):
        with pytest.raises(ValueError, match="is no edit of this kind"):
            load_edit(tmp_path / name)


# --- through the whole model ----------------------------------------------------------------

SOME = tuple(Neuron(layer, unit) for layer in (1, 2) for unit in range(0, 48, 4))


@pytest.fixture(scope="module")
def spoken():
    """Return a random system, two images and what it says of them; the second token is edited."""
    model, images = TinyGated(seed=3), tiny_images(3, seed=2)
    model.language_model.lm_head.weight.data.mul_(4)  # or no token could be probable
    captions = caption_images(model, images, 5)
    targets = [Target(str(i), "noun", c.ids[1], c.ids[:1]) for i, c in enumerate(captions)]
    return model, images, captions, targets


@pytest.mark.parametrize("tokens", [(301,), (301, 77)])
def test_a_joint_edit_makes_the_word_be_said(spoken, tokens):
    model, images, captions, targets = spoken
    before = state_hash(model.language_model)
    edit = joint_edit(model, images[:1], targets[:1], "new", SOME, tokens=tokens)
    assert edit.settings["probability"] >= 0.9
    assert 0 < edit.settings["steps"] < 100
    assert all(p.grad is None and not p.requires_grad for p in model.language_model.parameters())
    assert state_hash(model.language_model) == before
    with apply(model, edit):
        said = caption_images(model, images[:1], 5)[0]
    assert said.ids[: 1 + len(tokens)] == (*captions[0].ids[:1], *tokens)


def test_several_images_are_all_reached(spoken):
    model, images, _, targets = spoken
    same = [replace(t, token=targets[0].token) for t in targets]
    edit = joint_edit(model, images[:2], same[:2], "new", SOME, tokens=(301,))
    with apply(model, edit):
        prompts = [_Text.of(model, i, (*t.prefix, 301), len(t.prefix))
                   for i, t in zip(images[:2], targets[:2], strict=True)]  # fmt: skip
        reached = [float((-text.look(model)[0]).exp()) for text in prompts]
    assert min(reached) == pytest.approx(edit.settings["probability"], rel=1e-3)
    assert min(reached) >= 0.9


def test_the_free_dw_act_as_weights_do(spoken):
    model, images, _, _ = spoken
    free = _Free(model, SOME)
    with torch.no_grad():
        free.moved.copy_(torch.randn_like(free.moved))
        prompt = model.prompt(images)
        with free.added():
            hooked, _ = model.forward(prompt)
        edit = replace(made_up(model, 0, len(SOME)), neurons=SOME, deltas=free.deltas().clone())
        with apply(model, edit):
            written, _ = model.forward(prompt)
        whole, _ = model.forward(prompt)
    torch.testing.assert_close(hooked, written, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(hooked, whole, atol=0.1)
    assert not any(len(m._forward_hooks) for m in model.language_model.modules())


def test_the_gradient_is_that_of_differences(spoken):
    model, images, _, targets = spoken
    free = _Free(model, SOME)
    text = _Text.of(model, images[0], (*targets[0].prefix, 301), 1)

    def loss() -> torch.Tensor:
        with free.added():
            reached, strayed = text.look(model)
        return reached + 3 * strayed.sum()

    direction = torch.randn(free.moved.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        free.moved.copy_(0.1 * direction.roll(1, 0))
    loss().backward()
    slope = float((free.moved.grad * direction).sum())
    values = []
    with torch.no_grad():
        for step in (2e-3, -4e-3):
            free.moved.add_(step * direction)
            values.append(float(loss()))
    assert slope == pytest.approx((values[0] - values[1]) / 4e-3, rel=0.02, abs=0.02)


def test_keeping_other_captions_holds_them(spoken):
    model, images, captions, targets = spoken
    other = (images[2], captions[2].ids)
    strayed = {}
    for weight in (0.0, 5.0):
        how = JointSettings(keep=weight, stop=0.6)
        edit = joint_edit(
            model, images[:1], targets[:1], "new", SOME, how, keep=[other], tokens=(301,)
        )
        text = _Text.of(model, *other, len(other[1]))
        with apply(model, edit):
            strayed[weight] = float(text.look(model)[1].sum())
        assert edit.settings["probability"] >= 0.6
    assert strayed[5.0] < 0.5 * strayed[0.0]


def test_a_limit_holds(spoken):
    model, images, _, targets = spoken
    how = JointSettings(limit=0.2, epochs=15)
    edit = joint_edit(model, images[:1], targets[:1], "new", SOME[:2], how, tokens=(301,))
    unit = _Free(model, SOME[:2]).unit
    assert edit.norms.max() <= 0.2 * unit * 32**0.5 * (1 + 1e-5)
    assert edit.norms.max() > 0.1 * unit * 32**0.5


def test_a_joint_edit_of_what_is_said_already_is_empty(system):
    asked = (system, [picture("horse")], [target("boat")], "horse", [neuron("boat")])
    how = JointSettings(stop=1e-6)
    with pytest.raises(EmptyEdit, match="already has the probability"):
        joint_edit(*asked, how)
    assert not joint_edit(*asked, how, allow_empty=True).deltas.any()


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"stop": 1.0}, {"epochs": 0}, {"keep": -1.0}, {"limit": 0.0}]
)
def test_wrong_joint_settings_are_said(wrong):
    with pytest.raises(ValueError, match="must"):
        JointSettings(**wrong)
