"""The running top k is that of all layers at once, however many are merged at a time."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.neurons.ranking import TOGETHER, TopK
from mmn_utils.neurons.table import NO_PATCH


@pytest.mark.parametrize("layers", [1, TOGETHER, 2 * TOGETHER + 3])
@pytest.mark.parametrize("positions", [1, 4])
@pytest.mark.parametrize("rank_by", ["max", "sum"])
def test_layers_merge_into_the_top_of_all(layers, positions, rank_by):
    generator = torch.Generator().manual_seed(layers)
    fields = torch.randn(layers, 3, positions, 20, generator=generator)
    active = torch.randn(layers, 3, positions, 20, generator=generator)
    top = TopK(7, rank_by)
    for layer in range(layers):
        top.add(layer, fields[layer], active[layer])
    scores, at, units, patches, values = top.best
    each = fields.amax(2) if rank_by == "max" else fields.sum(2)
    best = each.transpose(0, 1).flatten(1).topk(min(7, 20 * layers), dim=1)
    torch.testing.assert_close(scores, best.values)
    assert torch.equal(at * 20 + units, best.indices)
    rows = torch.arange(3)[:, None]
    if rank_by == "sum":
        assert (patches == NO_PATCH).all()
        torch.testing.assert_close(values, active.sum(2)[at, rows, units])
    else:
        assert torch.equal(scores, fields[at, rows, patches, units])
        assert torch.equal(values, active[at, rows, patches, units])
    top.divide(torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(top.best[0], best.values / torch.tensor([[1.0], [2.0], [4.0]]))


def test_nothing_scored_is_an_error():
    with pytest.raises(RuntimeError, match="no layer was scored"):
        TopK(3, "sum").table([])
