"""The full-size check works, tried on tiny shapes."""

from __future__ import annotations

import torch

from tests.benchmarks.full_size_limber import run


def test_the_same_steps_on_tiny_shapes(capsys):
    model, protocol, table = run(tiny=True, k=7)
    assert [name for name, _, _ in protocol.rows] == [
        "random weights",
        "prompt",
        "caption of two tokens",
        "attribution of one image",
    ]
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert model.dtype == torch.bfloat16
    assert model.sizes.vocabulary == 50258
    assert model.image_tokens.count == 196
    assert len(table) == 7
    assert table["score"].notna().all()
    assert (table["score"] != 0).any()
    assert all(torch.isfinite(p).all() for p in model.language_model.parameters())
