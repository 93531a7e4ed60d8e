"""Reading and replacing what flows through the MLPs."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.models.capture import capture, replace, spare_last, stop_after
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_gated import TinyGated

quick = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def model():
    return tiny_limber()


@pytest.fixture(scope="module")
def prompt(model):
    return model.prompt(tiny_images(2))


def hooks(model):
    modules = list(model.language_model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@torch.no_grad()
def test_activation_is_gelu_of_z(model, prompt):
    with capture(model, "pre") as pre, capture(model) as act:
        model.forward(prompt)
    assert sorted(act.values) == [0, 1, 2]
    for layer in range(3):
        assert pre.values[layer].shape == (2, 19, 128)
        gelu = torch.nn.functional.gelu(pre.values[layer], approximate="tanh")
        torch.testing.assert_close(act.values[layer], gelu)


@torch.no_grad()
def test_layers_and_positions(model, prompt):
    with capture(model) as whole, capture(model, layers=[2], positions=slice(0, 16)) as part:
        model.forward(prompt)
    assert list(part.values) == [2]
    assert torch.equal(part.values[2], whole.values[2][:, :16])
    for positions in ([3, -1], torch.tensor([3, 18]), iter([3, 18])):
        with capture(model, layers=[0], positions=positions) as part:
            model.forward(prompt)
        assert torch.equal(part.values[0], whole.values[0][:, [3, 18]])


@torch.no_grad()
def test_a_pass_may_end_with_the_last_layer_that_is_read(model, prompt):
    before = hooks(model)
    for what in ("pre", "activation"):
        with capture(model, what) as whole:
            model.forward(prompt)
        with capture(model, what) as part, stop_after(model, 1, what):
            model.forward(prompt)
            raise AssertionError("the pass went on")
        assert sorted(part.values) == [0, 1]
        assert all(torch.equal(part.values[i], whole.values[i]) for i in part.values)
    assert hooks(model) == before
    with pytest.raises(RuntimeError, match="of the caller"), stop_after(model, 1):
        raise RuntimeError("of the caller")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gptj", "llama"])
def test_the_last_mlp_is_spared_where_nothing_reads_it(kind):
    system = tiny_limber() if kind == "gptj" else TinyGated()
    prompt = system.prompt(tiny_images(2))
    end = system.image_tokens.start + system.image_tokens.count
    last = system.sizes.layers - 1
    before = hooks(system)
    with capture(system, "pre") as whole:
        logits, _ = system.forward(prompt)
    with spare_last(system, int(prompt.ends.min())), capture(system, "pre") as part:
        spared, _ = system.forward(prompt)
    torch.testing.assert_close(spared, logits, atol=1e-6, rtol=1e-5)
    assert part.values[last].shape[1] == prompt.embeds.shape[1] - end
    torch.testing.assert_close(part.values[last], whole.values[last][:, end:], atol=1e-6, rtol=1e-5)
    for layer in range(last):
        assert torch.equal(part.values[layer], whole.values[layer])
    assert hooks(system) == before


@torch.no_grad()
def test_the_last_attention_begins_behind_the_image_too(model, prompt):
    last, end = model.sizes.layers - 1, model.image_tokens.start + model.image_tokens.count
    attention, outputs = model.layer(last).attn, []
    attend = attention._attn

    def read(_module, _inputs, output):
        outputs.append(output)

    for spared in (False, True):
        with spare_last(model, int(prompt.ends.min())) if spared else nullcontext():
            handle = model.attention_module(last).register_forward_hook(read)
            model.forward(prompt)
            handle.remove()
    whole, part = outputs
    assert part[:, :end].abs().max() == 0
    assert whole[:, :end].abs().max() > 0
    torch.testing.assert_close(part[:, end:], whole[:, end:], atol=1e-6, rtol=1e-5)
    assert attention._attn == attend  # as it was
    assert model.architecture.query
    assert model.architecture.attend


@torch.no_grad()
def test_an_edit_of_the_last_layer_is_felt_in_a_spared_pass(model, prompt):
    last = model.sizes.layers - 1

    def louder(activation):
        return 3 * activation  # takes any number of positions

    with replace(model, {last: louder}):
        own = list(model.act_module(last)._forward_pre_hooks)
        logits, _ = model.forward(prompt)
        with spare_last(model, int(prompt.ends.min()), besides=own), capture(model) as seen:
            spared, _ = model.forward(prompt)
    torch.testing.assert_close(spared, logits, atol=1e-6, rtol=1e-5)
    assert seen.values[last].shape[1] < prompt.embeds.shape[1] == seen.values[0].shape[1]
    assert (logits - model.forward(prompt)[0]).abs().max() > 1e-3


@torch.no_grad()
def test_nothing_is_spared_that_somebody_reads(model, prompt):
    with capture(model, layers=[2]) as seen, spare_last(model, 18):  # reads the last layer
        model.forward(prompt)
    assert seen.values[2].shape[1] == 19
    with spare_last(model, 15), capture(model) as seen:  # the image's last token is read
        model.forward(prompt)
    assert seen.values[2].shape[1] == 19


WATCHED = {  # modules that see what the last layer computes at the image
    "part of the layer": lambda model: model.layer(2).ln_1,
    "final norm": lambda model: model.final_norm,
    "unembedding": lambda model: model.language_model.lm_head,
    "decoder": lambda model: model.language_model.transformer,
    "language model": lambda model: model.language_model,
}


@torch.no_grad()
@pytest.mark.parametrize("place", list(WATCHED))
def test_somebody_elses_hook_sees_what_it_always_sees(model, prompt, place):
    """Whatever it is told of its own hooks, the pass must not change another's view."""
    seen = []
    handle = WATCHED[place](model).register_forward_hook(lambda _m, _in, out: seen.append(out))
    every = {"last_only": False}  # the unembedding at the image too
    model.forward(prompt, **every)
    with replace(model, {2: torch.clone}):
        own = list(model.act_module(2)._forward_pre_hooks)
        with spare_last(model, 18, besides=own):
            model.forward(prompt, **every)
    handle.remove()
    whole, spared = (getattr(out, "logits", getattr(out, "last_hidden_state", out)) for out in seen)
    torch.testing.assert_close(spared, whole, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_latest_pass_counts(model, prompt):
    with capture(model) as seen:
        _, past = model.forward(prompt, use_cache=True)
        token = model.embed(torch.tensor([[5], [6]]))
        model.forward(prompt.extend(token).tail(1), past=past)
    assert seen.values[1].shape == (2, 1, 128)


def test_gradients_reach_values_and_no_weight(model, prompt):
    with torch.enable_grad(), capture(model, "pre", grad=True) as seen:
        logits, _ = model.forward(prompt)
        z = [seen.values[layer] for layer in range(3)]
        gradients = torch.autograd.grad(logits[:, 3].sum(), z)
    assert all(gradient.shape == (2, 19, 128) for gradient in gradients)
    assert all(gradient[:, -1].abs().sum() > 0 for gradient in gradients)
    assert gradients[2][:, :-1].abs().sum() == 0  # the last layer's image tokens have no reader
    assert all(p.grad is None and not p.requires_grad for p in model.language_model.parameters())


def test_gradient_of_the_activation_is_the_write_vector_in_the_last_layer(model, prompt):
    """dy/da = write vector . d y / d stream, and nothing else lies between."""
    stream = []
    norm = model.final_norm.register_forward_pre_hook(lambda _m, inputs: stream.append(inputs[0]))
    with torch.enable_grad(), capture(model, layers=[2], grad=True) as seen:
        logits, _ = model.forward(prompt)
        of = [seen.values[2], stream[0]]
        activation, residual = torch.autograd.grad(logits[:, 3].sum(), of)
    norm.remove()
    expected = residual[:, -1] @ model.write_vectors(2).T
    torch.testing.assert_close(activation[:, -1], expected, atol=1e-5, rtol=1e-4)


@quick
@given(st.integers(0, 2), st.integers(0, 127), st.floats(-3, 3), st.sampled_from([0, 7, 18]))
@torch.no_grad()
def test_a_unit_writes_its_vector_and_no_more(layer, unit, value, position):
    """Adding v to one activation adds v times the write vector to what the layer writes."""
    model = test_a_unit_writes_its_vector_and_no_more.model
    prompt = model.prompt(tiny_images(1))

    def add(activation):
        activation = activation.clone()
        activation[:, position, unit] += value
        return activation

    wrote = []
    handle = model.act_module(layer).register_forward_hook(lambda _m, _in, out: wrote.append(out))
    model.forward(prompt)
    with replace(model, {layer: add}):
        model.forward(prompt)
    handle.remove()
    difference = wrote[1] - wrote[0]
    expected = torch.zeros_like(difference)
    expected[:, position] = value * model.write_vectors(layer)[unit]
    torch.testing.assert_close(difference, expected, atol=2e-5, rtol=0)


test_a_unit_writes_its_vector_and_no_more.model = tiny_limber()


@torch.no_grad()
def test_replacing_by_the_same_changes_no_bit(model, prompt):
    before, _ = model.forward(prompt)
    with replace(model, {0: torch.clone, 2: lambda a: a}), replace(model, {1: torch.clone}, "pre"):
        inside, _ = model.forward(prompt)
    after, _ = model.forward(prompt)
    assert torch.equal(before, inside)
    assert torch.equal(before, after)


@torch.no_grad()
def test_zeroing_z_is_zeroing_the_activation(model, prompt):
    with replace(model, {1: torch.zeros_like}):
        activation, _ = model.forward(prompt)
    with replace(model, {1: torch.zeros_like}, "pre"):
        z, _ = model.forward(prompt)
    assert torch.equal(activation, z)  # gelu(0) = 0
    assert not torch.allclose(activation, model.forward(prompt)[0])


@torch.no_grad()
def test_capture_inside_replace_sees_what_is_put(model, prompt):
    zero = replace(model, {1: torch.zeros_like})
    with capture(model, layers=[1]) as outside, zero, capture(model, layers=[1]) as inside:
        model.forward(prompt)
    assert inside.values[1].abs().sum() == 0
    assert outside.values[1].abs().sum() > 0


@pytest.mark.parametrize(
    "broken",
    [
        lambda model: capture(model, "gate"),
        lambda model: capture(model, layers=[0, 3]),
        lambda model: capture(model, grad=True, positions=[1]),
        lambda model: replace(model, {0: torch.clone, 9: torch.clone}),
        lambda model: replace(model, {0: torch.clone}, "post"),
    ],
)
def test_bad_requests_are_refused_and_leave_no_hook(model, broken):
    with pytest.raises(ValueError, match=r"give|layer"), broken(model):
        pass
    assert hooks(model) == 0


@torch.no_grad()
def test_hooks_come_off_after_an_error(model, prompt):
    with pytest.raises(RuntimeError, match="on purpose"), capture(model), capture(model, "pre"):
        raise RuntimeError("on purpose")
    cut = replace(model, {0: torch.clone, 1: lambda a: a[..., 0]})
    with pytest.raises(ValueError, match=r"gave \(2, 19\); give \(2, 19, 128\)"), cut:
        model.forward(prompt)
    with pytest.raises(ValueError, match="gave NoneType"), replace(model, {1: lambda a: None}):
        model.forward(prompt)
    assert hooks(model) == 0
