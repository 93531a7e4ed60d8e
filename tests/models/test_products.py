"""Products by oneDNN: torch's own numbers but for rounding, as differentiable, and no trace."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from mmn_utils.models import load_model, products
from mmn_utils.models.products import Linear, is_plain, linear, quicken

only_avx512 = pytest.mark.skipif(not products.CAPABLE, reason="torch's own products are taken here")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Let small products count as worth it."""
    monkeypatch.setattr(products, "WORK", 1)


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """Rows of each product that oneDNN was given."""
    found, own = [], products._product

    def count(rows, weight, bias):
        found.append(rows.numel() // rows.shape[-1])
        return own(rows, weight, bias)

    monkeypatch.setattr(products, "_product", count)
    return found


@given(st.integers(0, 3), st.integers(1, 40), st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_a_product_is_that_of_double_precision(batch, rows, inside, out, biased):
    shape = (batch, rows, inside) if batch else (rows, inside)
    x, weight = drawn(*shape), drawn(out, inside, seed=1)
    bias = drawn(out, seed=2) if biased else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(linear(x, weight, bias).double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("view", [
    lambda x: x.expand(5, -1, -1), lambda x: x.transpose(0, 1), lambda x: x[:, ::2],
    lambda x: x[:, :0],
], ids=["expanded", "turned", "strided", "empty"])  # fmt: skip
def test_rows_need_not_lie_together(view):
    x, weight = view(drawn(1, 12, 16)), drawn(8, 16)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


def test_a_turned_weight_is_multiplied_as_it_is():
    x, weight = drawn(12, 16), drawn(16, 8).T
    torch.testing.assert_close(linear(x, weight), x @ weight.T)


@only_avx512
def test_gradients_are_finite_differences(counted):
    x, weight, bias = drawn(6, 5).requires_grad_(), drawn(7, 5), drawn(7)
    (found,) = torch.autograd.grad(linear(x, weight, bias).pow(2).sum(), x)
    assert counted == [6, 6], "forward and backward"
    exact = x.detach().double().requires_grad_()
    own = F.linear(exact, weight.double(), bias.double()).pow(2).sum()
    torch.testing.assert_close(found, torch.autograd.grad(own, exact)[0].float())


def test_second_derivatives_are_there():
    x, weight = drawn(6, 5).requires_grad_(), drawn(7, 5)
    (first,) = torch.autograd.grad(linear(x, weight).pow(3).sum(), x, create_graph=True)
    (found,) = torch.autograd.grad(first.sum(), x)
    own = x.detach().requires_grad_()
    (first,) = torch.autograd.grad(F.linear(own, weight).pow(3).sum(), own, create_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(first.sum(), own)[0])


def test_weights_that_learn_get_their_gradient():
    x, weight = drawn(6, 5), drawn(7, 5).requires_grad_()
    (found,) = torch.autograd.grad(linear(x, weight).sum(), weight)
    torch.testing.assert_close(found, x.sum(0).expand(7, -1))


WEIGHT, BIAS = (7, 5), (7,)


@only_avx512
@pytest.mark.parametrize("weight", [
    drawn(14, 5)[::2], drawn(7, 10)[:, :5], drawn(40).as_strided(WEIGHT, (2, 1)),
], ids=["rows", "columns", "overlapping"])  # fmt: skip
def test_weights_that_do_not_lie_dense_are_torchs(counted, weight):
    x = drawn(8, 5)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
    assert not counted


@pytest.mark.parametrize("bias", [
    drawn(14)[::2], drawn(1).expand(7), torch.tensor(2.0), drawn(1, 7), drawn(7).double().float(),
], ids=["strided", "expanded", "one number", "a row", "plain"])  # fmt: skip
def test_a_bias_of_any_kind_is_added(bias):
    x, weight = drawn(8, 5), drawn(*WEIGHT)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))


@pytest.mark.parametrize(
    ("shape", "weight"), [((6, 0), (7, 0)), ((2, 6, 0), (7, 0)), ((6, 5), (0, 5))]
)
def test_products_of_nothing_are_torchs(shape, weight):
    x, weight = drawn(*shape).requires_grad_(), drawn(*weight)
    found = linear(x, weight)
    assert torch.equal(found, F.linear(x, weight))
    found.sum().backward()
    assert torch.equal(x.grad, torch.zeros(shape))


def test_what_comes_out_may_be_written_to():
    x, weight = drawn(2, 6, 5).requires_grad_(), drawn(*WEIGHT)
    out = linear(x, weight)
    out[..., 0] = 0
    out.add_(1).pow(2).sum().backward()
    own = x.detach().requires_grad_()
    mask = torch.ones(7).index_fill_(0, torch.tensor([0]), 0)
    (F.linear(own, weight) * mask + 1).pow(2).sum().backward()
    torch.testing.assert_close(x.grad, own.grad)


def test_a_bias_that_learns_gets_its_gradient():
    bias = drawn(*BIAS).requires_grad_()
    linear(drawn(8, 5), drawn(*WEIGHT), bias).sum().backward()
    torch.testing.assert_close(bias.grad, torch.full(BIAS, 8.0))


def test_tangents_and_autocast_are_kept():
    x, weight = drawn(8, 5), drawn(*WEIGHT)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(linear(forward_ad.make_dual(x, x), weight)).tangent
    torch.testing.assert_close(tangent, F.linear(x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


def test_what_is_recorded_is_torchs(counted):
    module = nn.Linear(5, 7).requires_grad_(False)
    x = drawn(8, 5)
    own = module(x)
    quicken(module)
    torch.testing.assert_close(torch.jit.trace(module, x)(x), own)
    assert torch._dynamo.explain(module)(x).graph_break_count == 0
    assert not counted[1:], "but for the check of the trace"


@only_avx512
def test_small_products_are_torchs(counted, monkeypatch):
    monkeypatch.setattr(products, "WORK", 8 * 5 * 7 + 1)
    linear(drawn(8, 5), drawn(*WEIGHT))
    assert not counted


@pytest.mark.parametrize("other", [
    lambda x, w: linear(x.bfloat16(), w.bfloat16()), lambda x, w: linear(x[:3], w),
    lambda x, w: torch.func.vmap(lambda one: linear(one, w))(x[:, None].expand(-1, 5, -1)),
    lambda x, w: torch.func.jvp(lambda some: linear(some, w), (x,), (x,))[1],
], ids=["half", "few rows", "vmap", "forward differentiation"])  # fmt: skip
def test_what_onednn_does_not_do_torch_does(counted, other):
    assert other(drawn(8, 5), drawn(7, 5)).isfinite().all()
    assert not counted


@only_avx512
def test_who_turns_onednn_off_gets_torch(counted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch speaks of processors that it was not built for
        with torch.backends.mkldnn.flags(enabled=False):
            linear(drawn(8, 5), drawn(7, 5))
    assert not counted


def test_a_shape_that_does_not_fit_is_refused_as_torch_does():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(drawn(8, 5), drawn(7, 6))


def test_operations_are_counted():
    with FlopCounterMode(display=False) as counter:
        linear(drawn(2, 8, 5), drawn(7, 5))
    assert counter.get_total_flops() == 2 * 2 * 8 * 5 * 7


def test_a_module_is_quickened_without_a_trace_on_weights_hooks_or_copies():
    layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).requires_grad_(False)
    state, seen = layers.state_dict(), []
    layers[2].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    x = drawn(8, 5)
    expected, twin = layers(x), copy.deepcopy(layers)
    assert quicken(layers) == 2
    assert quicken(layers) == 0
    torch.testing.assert_close(layers(x), expected)
    assert layers.state_dict().keys() == state.keys()
    assert len(seen) == 2
    other = copy.deepcopy(layers[0])
    other.weight.mul_(2)
    torch.testing.assert_close(other(x), 2 * layers[0](x) - layers[0].bias)
    layers[0].weight.mul_(0)  # an edit in place is seen by the next pass
    torch.testing.assert_close(layers[0](x), layers[0].bias.expand(8, -1))
    assert type(twin[0]) is nn.Linear
    assert is_plain(layers[0])
    assert is_plain(twin[0])


def test_own_forwards_and_other_classes_stay():
    class Scaled(nn.Linear):
        pass

    wrapped = nn.Linear(5, 5)
    wrapped.forward = lambda rows: rows
    assert quicken(nn.Sequential(Scaled(5, 5), wrapped)) == 0
    assert not is_plain(Scaled(5, 5))


def test_systems_are_loaded_with_them():
    model = load_model("trial/llava")
    plain = [m for part in model.modules() for m in part.modules() if isinstance(m, nn.Linear)]
    assert plain
    assert {type(m) for m in plain} == {Linear}
