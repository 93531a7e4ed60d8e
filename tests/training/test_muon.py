"""Muon against torch's own, and what it leaves to AdamW."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmn_utils.training.muon import SIZE, Muon, orthogonalised, parameter_groups

SHAPES = [(24, 24), (48, 16), (16, 48)]
RATE, DECAY = 0.02, 0.4


def matrix(shape, seed=0):
    return nn.Parameter(torch.randn(shape, generator=torch.manual_seed(seed)))


def follow(optimizer, parameters, steps=4):
    """Make steps with the same gradients, whatever the optimizer."""
    for step in range(steps):
        for number, parameter in enumerate(parameters):
            drawn = torch.manual_seed(100 * step + number)
            parameter.grad = torch.randn(parameter.shape, generator=drawn)
        optimizer.step()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_singular_values_come_near_one_and_directions_stay(rows, columns, scale, seed):
    x = torch.randn(3, rows, columns, generator=torch.manual_seed(seed)) * scale
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    large = s > 0.05 * s[:, :1]  # those far below the largest take more rounds
    left = u.mT @ orthogonalised(x) @ vh.mT
    values = left.diagonal(dim1=1, dim2=2)
    assert ((values > 0.5) & (values < 1.3))[large].all()
    apart = left - torch.diag_embed(values)
    assert apart.abs().max() < 0.02


def test_a_matrix_of_zeros_stays_one():
    assert torch.equal(orthogonalised(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_those_of_torch(shape):
    ours, theirs = matrix(shape), matrix(shape)
    groups = parameter_groups([ours], DECAY, by_muon={1: [ours]})
    # torch's option makes a step .2 of the rate in root mean square
    other = {"lr": RATE * SIZE / 0.2, "weight_decay": DECAY * 0.2 / SIZE}
    follow(Muon(groups, lr=RATE), [ours])
    follow(torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **other), [theirs])
    moved, expected = ours - matrix(shape), theirs - matrix(shape)
    assert (moved - expected).norm() < 0.02 * expected.norm()  # torch's is in bfloat16


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_has_the_size_that_it_says(shape):
    weight = matrix(shape)
    follow(Muon(parameter_groups([weight], 0.0, by_muon={1: [weight]}), lr=RATE), [weight], steps=1)
    size = (weight - matrix(shape)).square().mean().sqrt().item()
    assert size == pytest.approx(SIZE * RATE, rel=0.25)


def test_matrices_of_one_product_learn_as_if_they_were_apart():
    fused = matrix((3 * 16, 16))
    apart = [nn.Parameter(part.clone()) for part in fused.detach().split(16)]
    one = Muon(parameter_groups([fused], DECAY, by_muon={3: [fused]}), lr=RATE)
    other = Muon(parameter_groups(apart, DECAY, by_muon={1: apart}), lr=RATE)
    gradient = torch.randn(fused.shape, generator=torch.manual_seed(5))
    fused.grad = gradient.clone()
    for parameter, part in zip(apart, gradient.split(16), strict=True):
        parameter.grad = part.clone()
    one.step()
    other.step()
    torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in apart]))


def test_all_else_learns_by_adamw():
    ours, theirs = ([matrix((4, 6)), matrix((6,)), matrix((2, 3), 1)] for _ in range(2))
    by_muon = [matrix((5, 5)), matrix((7, 3))]
    groups = parameter_groups([*ours, *by_muon], DECAY, plain=ours[2:], by_muon={1: by_muon})
    follow(Muon(groups, lr=RATE, betas=(0.9, 0.98)), [*ours, *by_muon])
    plain = {"params": theirs[1:], "weight_decay": 0.0}
    adamw = [{"params": theirs[:1], "weight_decay": DECAY}, plain]
    follow(torch.optim.AdamW(adamw, lr=RATE, betas=(0.9, 0.98)), theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_what_has_no_gradient_stays():
    used, idle = matrix((4, 4)), matrix((4, 4), 1)
    optimizer = Muon(parameter_groups([used, idle], DECAY, by_muon={1: [used, idle]}), lr=RATE)
    used.grad = torch.ones(4, 4)
    optimizer.step()
    assert torch.equal(idle, matrix((4, 4), 1))
    assert not torch.equal(used, matrix((4, 4)))


def test_each_parameter_is_in_one_group():
    parameters = [matrix((4, 6)), matrix((6,)), matrix((2, 3)), matrix((9, 3)), matrix((3, 3))]
    groups = parameter_groups(
        parameters, DECAY, share=0.5, plain=parameters[2:3],
        by_muon={3: parameters[3:4], 1: parameters[4:]},
    )  # fmt: skip
    expected = [parameters[:1], parameters[1:3], parameters[4:], parameters[3:4]]
    for group, members in zip(groups, expected, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in members]
    assert [group["weight_decay"] for group in groups] == [DECAY, 0.0, DECAY, DECAY]
    assert [group["blocks"] for group in groups] == [0, 0, 1, 3]
    assert {group["share"] for group in groups} == {0.5}
