"""What all trainings share: the learning rate's course, decay of matrices alone, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from mmn_utils.training.loop import GENTLY, Progress, Schedule, Workers, rate_factor, train

SCHEDULE = Schedule(steps=8, rate=0.1, warmup=2, final=0.25, weight_decay=0.5, save_every=4)


def run(folder, schedule=SCHEDULE, loss=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    pixels = torch.randn(5, 3)
    train(
        "toy",
        list(model.parameters()),
        loss or (lambda step: model(pixels * (step + 1)).square().mean()),
        schedule,
        folder,
        items_per_step=5,
        state=model,
    )
    return model


def test_the_rate_rises_linearly_and_falls_by_half_a_cosine():
    rates = [SCHEDULE.rate_at(step) for step in range(9)]
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert rates[5] == pytest.approx(0.1 * (0.25 + 0.75 / 2))  # half way
    assert rates[8] == pytest.approx(0.025)
    assert rate_factor(99, 8, 2, 0.25) == pytest.approx(0.25)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_only_matrices_decay(tmp_path):
    def nothing(step):
        return 0.0 * (model.weight.sum() + model.bias.sum())

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    train("a", list(model.parameters()), nothing, SCHEDULE, tmp_path, 1)
    shrunk = torch.tensor([1 - 0.5 * SCHEDULE.rate_at(step) for step in range(8)]).prod()
    torch.testing.assert_close(model.weight.data, start["weight"] * shrunk)
    assert torch.equal(model.bias.data, start["bias"])


def test_what_begins_trained_learns_gently(tmp_path):
    fast, slow = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    one = replace(SCHEDULE, steps=1, weight_decay=0.0)
    train("a", [fast], lambda step: fast.sum() + slow.sum(), one, tmp_path, 1, gently=[slow])
    # Adam's first step is the rate itself, whatever the gradient
    torch.testing.assert_close(1 - fast.data, torch.full((3,), SCHEDULE.rate_at(0)))
    torch.testing.assert_close(1 - slow.data, GENTLY * (1 - fast.data))


def test_matrices_that_are_named_learn_by_muon(tmp_path):
    weight, bias = torch.nn.Parameter(torch.eye(3) + 1), torch.nn.Parameter(torch.ones(3))
    one = replace(SCHEDULE, steps=1, weight_decay=0.0)
    slope = torch.diag(torch.tensor([3.0, 1.0, 2.0]))

    def loss(step):
        return (weight * slope).sum() + bias.sum()

    train("a", [weight, bias], loss, one, tmp_path, 1, matrices=[weight])
    moved = torch.eye(3) + 1 - weight.detach()
    # no direction goes short, as each would by the gradient; none but them is taken
    assert moved.diagonal().min() > 0.5 * moved.diagonal().max()
    torch.testing.assert_close(moved, torch.diag(moved.diagonal()), atol=1e-6, rtol=0)
    torch.testing.assert_close(1 - bias.data, torch.full((3,), SCHEDULE.rate_at(0)))


def test_a_checkpoint_of_another_schedule_is_refused(tmp_path):
    run(tmp_path)
    again = run(tmp_path)  # at its end: nothing is left to do
    assert torch.equal(again.weight, run(tmp_path / "anew").weight)
    with pytest.raises(ValueError, match=r"toy\.pt was made with .*'steps': 8.*move it away"):
        run(tmp_path, replace(SCHEDULE, steps=9))


def test_a_curve_has_a_row_for_each_checkpoint(tmp_path):
    run(tmp_path)
    rows = (tmp_path / "toy.csv").read_text().splitlines()
    assert rows[0] == "step,items,loss"
    assert [row.split(",")[0] for row in rows[1:]] == ["4", "8"]


def test_the_time_left_counts_from_the_first_report(tmp_path, monkeypatch, capsys):
    clock = iter([100.0, 160.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    progress = Progress("toy", 500, tmp_path / "toy.csv")
    progress(200, 0, loss=1.0)
    progress(300, 0, loss=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "toy  200/500  loss 1.000",
        "toy  300/500  loss 0.500  2.0 min left",
    ]


def test_gradients_of_parts_are_those_of_the_sum_whatever_the_threads():
    torch.manual_seed(0)
    layer, idle = torch.nn.Linear(6, 5), torch.nn.Parameter(torch.ones(2))
    parameters, x = [*layer.parameters(), idle], torch.randn(8, 7, 6)
    losses = [partial(lambda part: layer(part).tanh().square().sum(), part) for part in x]
    found = []
    cores = torch.get_num_threads()
    for threads in (1, 3):
        value = Workers(parameters, threads).gradients(losses)
        found.append([parameter.grad for parameter in layer.parameters()])
        assert idle.grad is None
    assert torch.get_num_threads() == cores
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    whole = layer(x).tanh().square().sum()
    assert value == pytest.approx(whole.item(), rel=1e-6)
    expected = torch.autograd.grad(whole, list(layer.parameters()))
    torch.testing.assert_close(found[0], list(expected), rtol=1e-5, atol=1e-6)
