"""The truth of every unit, against one pass at a time through transformers' own model and hooks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mmn_utils.models.architectures import Adds, Scales
from mmn_utils.models.capture import HOOKS, capture
from mmn_utils.neurons import together, without
from mmn_utils.neurons.targets import Target, teacher_forced
from mmn_utils.neurons.together import QUESTIONS
from mmn_utils.neurons.truth import exact_losses
from tests.models.auto.scaled import scaled
from tests.models.llava.tiny import tiny_llava
from tests.models.mplug_owl2.tiny import tiny as tiny_mplug_owl2
from tests.neurons.one_each import IMAGES
from tests.tiny import tiny_limber
from tests.tiny_gated import TinyGated

SHAPES = {
    "limber": tiny_limber,
    "gated": TinyGated,
    "llava": tiny_llava,
    "mplug_owl2": tiny_mplug_owl2,
}
TARGET = Target("a", "boat", 17, (5, 9, 301))
UNITS = {0: [3, 0, 40], 1: [7, 31], 2: [1, 47]}


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def system(request):
    return request.param()


@pytest.fixture(scope="module")
def prompt(system):
    with torch.no_grad():
        return system.prompt(IMAGES[:1])


@torch.no_grad()
def by_hand(model, prompt, target, layer: int, unit: int | None, places) -> np.ndarray:
    """Run transformers' own model on embeddings with torch's own hook: logit and probability."""
    words = model.language_model.get_input_embeddings()(torch.tensor([list(target.prefix)]).long())
    inputs = torch.cat([prompt.embeds, words], dim=1)

    def silence(_module, args: tuple) -> tuple:
        activation = args[0].clone()
        activation[:, places, unit] = 0
        return (activation, *args[1:])

    hook = model.act_module(layer).register_forward_pre_hook(silence) if unit is not None else None
    logits = model.language_model(inputs_embeds=inputs, use_cache=False).logits[0, -1].double()
    if hook is not None:
        hook.remove()
    logits = logits[: model.sizes.vocabulary]
    return np.array([logits[target.token], logits.softmax(-1)[target.token]])


def places_of(model, positions: str):
    start = model.image_tokens.start
    image = slice(start, start + model.image_tokens.count)
    return {"all": slice(None), "image": image, "step": slice(-1, None)}[positions]


def check(model, prompt, positions: str, units=None, batch_size: int = 32, target=TARGET) -> None:
    units = units or UNITS
    found = exact_losses(
        model, prompt, target, units=units, positions=positions, batch_size=batch_size
    )
    whole = by_hand(model, prompt, target, 0, None, slice(None))
    np.testing.assert_allclose(found.whole, whole, atol=1e-5, rtol=1e-5)
    places, seen = places_of(model, positions), 0
    for layer, some in units.items():
        for unit in some:
            lost = whole - by_hand(model, prompt, target, layer, unit, places)
            mine = found.logit[layer, unit], found.probability[layer, unit]
            np.testing.assert_allclose(mine, lost, atol=1e-5, rtol=1e-5)
            seen += abs(lost[0]) > 1e-4
    assert seen  # somebody matters
    asked = np.zeros_like(found.logit, bool)
    for layer, some in units.items():
        asked[layer, some] = True
    assert np.array_equal(np.isfinite(found.logit), asked)
    assert np.array_equal(np.isfinite(found.probability), asked)


@pytest.mark.parametrize("positions", QUESTIONS)
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_each_unit_loses_what_a_pass_without_it_loses(system, prompt, positions, batch_size):
    check(system, prompt, positions, batch_size=batch_size)


@pytest.mark.parametrize("positions", QUESTIONS)
def test_a_target_without_a_prefix_and_a_layer_alone(system, prompt, positions):
    layer = 1 if positions == "image" else 2  # the last position is none of the image's
    check(system, prompt, positions, {layer: [5, 1, 47, 0, 11]}, target=Target("a", "boat", 17, ()))


def test_every_unit_is_measured_where_none_is_named(system, prompt):
    found = exact_losses(system, prompt, TARGET, positions="step")
    assert found.logit.shape == (system.sizes.layers, system.sizes.units)
    assert np.isfinite(found.logit).all()
    assert np.isfinite(found.probability).all()
    few = exact_losses(system, prompt, TARGET, units=UNITS, positions="step")
    for layer, some in UNITS.items():
        np.testing.assert_allclose(found.logit[layer, some], few.logit[layer, some], atol=1e-5)


def test_units_are_measured_the_fast_way(system, prompt, monkeypatch):
    monkeypatch.setattr(without, "_from_start", None)
    exact_losses(system, prompt, TARGET, units=UNITS)
    monkeypatch.setattr(without, "_rows", None)
    exact_losses(system, prompt, TARGET, units=UNITS, positions="step")


@pytest.mark.parametrize("positions", QUESTIONS)
def test_where_nothing_is_known_units_are_off_from_the_first_layer_on(positions, monkeypatch):
    model = tiny_limber()
    monkeypatch.setattr(without, "_is_rank_one", lambda *_: False)
    monkeypatch.setattr(without, "_rows", None)
    with torch.no_grad():
        check(model, model.prompt(IMAGES[:1]), positions)


FAMILIES = ["gemma3", "paligemma2", "granite", "olmo2", "shifting", "phi", "cohere_compass"]


@pytest.mark.parametrize("positions", QUESTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_missed_as_by_plain_hooks(family, positions, monkeypatch):
    model, short = scaled(family), without._rows
    units, used = {0: [3, 40, 0], 1: [7, 31]}, []
    monkeypatch.setattr(without, "_rows", lambda *some: used.append(1) or short(*some))
    with torch.no_grad():
        prompt = model.prompt(IMAGES[:1])
        found = exact_losses(model, prompt, TARGET, units=units, positions=positions)
        forced = teacher_forced(model, prompt, [TARGET.prefix])
        whole = model.forward(forced)[0][0, TARGET.token]
        for layer, some in units.items():
            for unit in some:
                place = places_of(model, positions)

                def silence(_module, args, place=place, unit=unit):
                    activation = args[0].clone()
                    activation[:, place, unit] = 0
                    return (activation, *args[1:])

                hook = model.act_module(layer).register_forward_pre_hook(silence)
                lost = whole - model.forward(forced)[0][0, TARGET.token]
                hook.remove()
                assert found.logit[layer, unit] == pytest.approx(float(lost), abs=2e-5, rel=1e-4)
    assert len(used) > 1  # tried, and then taken


def test_a_module_that_reads_what_an_mlp_wrote_is_not_passed_by(monkeypatch):
    """Gemma 4 may write once more in each layer, from the stream that the MLP has added to."""
    model = scaled("gemma4_per_layer")
    seen = []
    monkeypatch.setattr(without, "_from_start", _counting(without._from_start, seen))
    with torch.no_grad():
        prompt = model.prompt(IMAGES[:1])
        found = exact_losses(model, prompt, TARGET, units={0: [3, 40]})
    forced = teacher_forced(model, prompt, [TARGET.prefix])
    for unit in (3, 40):
        hook = model.act_module(0).register_forward_pre_hook(
            lambda _m, args, unit=unit: (args[0].index_fill(-1, torch.tensor([unit]), 0),)
        )
        with torch.no_grad():
            alone = model.forward(forced)[0][0, TARGET.token]
        hook.remove()
        assert found.logit[0, unit] == pytest.approx(found.whole[0] - float(alone), abs=2e-5)
    assert len(seen) > 1  # not only to compare


def _counting(function, seen: list):
    return lambda *some: seen.append(1) or function(*some)


def test_tokens_that_see_each_other_are_not_believed(system, prompt, monkeypatch):
    full = lambda self, count, like: torch.zeros(  # noqa: E731
        1, 1, count, self.prompt.mask.shape[1] - 1 + count
    )
    monkeypatch.setattr("mmn_utils.models.abreast.Abreast._mask", full)
    monkeypatch.setattr(without, "_abreast", None)
    check(system, prompt, "step")


@pytest.mark.parametrize("positions", QUESTIONS)
def test_a_hook_of_somebody_else_acts_in_every_row(positions):
    model = tiny_limber()
    prompt = model.prompt(IMAGES[:1])
    halve = model.act_module(1).register_forward_hook(lambda _m, _i, out: out * 0.5)
    check(model, prompt, positions)
    halve.remove()


@pytest.mark.parametrize("positions", QUESTIONS)
def test_behind_a_norm_and_with_factors(positions, monkeypatch):
    """A layer that adds twice the norm of what its MLP writes, and halves all of it."""
    model = tiny_limber()
    for layer in range(model.sizes.layers):
        block = model.layer(layer)
        block.after = nn.LayerNorm(model.sizes.width)
        nn.init.normal_(block.after.weight)
        monkeypatch.setattr(block, "forward", _layer_with_norm(block))
    adds = tuple(Adds(whole=0.5, mlp=2.0) for _ in range(model.sizes.layers))
    parts = replace(model.architecture, mlp_norm="after", scales=Scales(layers=adds))
    monkeypatch.setattr(model, "architecture", parts)
    monkeypatch.setattr(without, "_from_start", None)
    check(model, model.prompt(IMAGES[:1]), positions)


def _layer_with_norm(block):
    def forward(hidden_states, **options):
        normed = block.ln_1(hidden_states)
        attended, weights = block.attn(hidden_states=normed, **options)
        added = block.after(block.mlp(normed))
        return 0.5 * (hidden_states + attended + 2 * added), weights

    return forward


def test_nothing_is_left_behind(system, prompt):
    layers, before = system.layer(1), system.forward(prompt)[0]
    for positions in QUESTIONS:
        exact_losses(system, prompt, TARGET, units=UNITS, positions=positions)
    assert not any(getattr(m, kind) for m in system.language_model.modules() for kind in HOOKS)
    names = dict(system.language_model.named_modules())
    assert names[f"{system.architecture.layers}.1"] is layers
    assert torch.equal(system.forward(prompt)[0], before)
    with capture(system) as seen:
        system.forward(prompt)
    assert len(seen.values) == system.sizes.layers


def test_an_error_leaves_nothing_behind_either(system, prompt, monkeypatch):
    monkeypatch.setattr(together, "logit_and_probability", lambda logits, target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        exact_losses(system, prompt, TARGET, units=UNITS)
    assert not any(getattr(m, kind) for m in system.language_model.modules() for kind in HOOKS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": {9: [0]}}, r"L9\.u0"),
        ({"units": {0: [-1]}}, r"L0\.u-1"),
        ({"positions": "generated"}, "'generated'"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_bad_input_is_refused(system, prompt, options, message):
    with pytest.raises(ValueError, match=message):
        exact_losses(system, prompt, TARGET, **options)


def test_several_pictures_and_foreign_tokens_are_refused(system, prompt):
    with pytest.raises(ValueError, match="2 images"):
        exact_losses(system, prompt.repeat(2), TARGET)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        exact_losses(system, prompt, replace(TARGET, token=10**6), units=UNITS)
