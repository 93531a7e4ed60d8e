"""What methods cost: operations and bytes against a count by hand, the same in every run."""

from __future__ import annotations

import gc

import pandas as pd
import pytest
import torch

from mmn_utils.measures.estimates import means_of
from mmn_utils.studies.concepts import cost
from mmn_utils.studies.concepts.tables import NAMES
from tests.studies.scenes import subjects_of_texts
from tests.tiny_gated import TinyGated


def test_a_matrix_product_is_two_operations_a_pair():
    left, right = torch.zeros(3, 4), torch.zeros(4, 5)
    found = cost.counted(lambda: left @ right)
    assert found == {"operations": 2 * 3 * 4 * 5, "bytes": 3 * 5 * 4}


def test_the_way_back_costs_two_more_products():
    left = torch.zeros(3, 4, requires_grad=True)
    right = torch.zeros(4, 5, requires_grad=True)
    with torch.enable_grad():
        found = cost.counted(lambda: (left @ right).sum().backward())
    assert found["operations"] == 3 * (2 * 3 * 4 * 5)


def test_bytes_are_the_most_at_one_time_and_views_are_free():
    def one_after_the_other():
        for _ in range(5):
            torch.zeros(100).view(10, 10).t()

    def all_at_once():
        return [torch.zeros(100) for _ in range(5)]

    assert cost.counted(one_after_the_other)["bytes"] == pytest.approx(400, abs=400)
    assert cost.counted(all_at_once)["bytes"] == 2000


def test_attention_counts_on_every_processor():
    q = torch.zeros(1, 2, 8, 4)
    found = cost.counted(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert found["operations"] == 2 * (2 * 2 * 8 * 8 * 4)  # queries with keys, weights with values


def test_the_collector_is_as_it_was():
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        cost.counted(lambda: 1 / 0)
    assert gc.isenabled()


def test_each_photograph_is_counted_by_itself_and_the_same_again(tmp_path):
    model = TinyGated()
    some = subjects_of_texts(model, tmp_path)
    rows = cost.cost_rows(model, some, k=5)
    assert rows["image"].tolist() == some.ids
    assert rows["concepts"].tolist() == [len(targets) for targets in some.every]
    pd.testing.assert_frame_equal(rows, cost.cost_rows(model, some, k=5))
    photograph, targets = some.photographs[0], some.every[0]
    pictures = [photograph.open()] * len(targets)
    for name, method in cost.METHODS.items():
        alone = cost.counted(lambda method=method: method(model, pictures, targets, k=5))
        assert rows.loc[0, [f"{name}_operations", f"{name}_bytes"]].tolist() == [*alone.values()]
    assert (rows["contribution_operations"] < rows["attribution_operations"]).all()
    assert (rows["contribution_bytes"] < rows["attribution_bytes"]).all()
    table = cost.cost_exhibit(means_of(rows.drop(columns="image")), NAMES)
    assert table["method"].tolist() == ["contribution (Ours)", "attribution (Mmns)"]
    mean = rows["contribution_operations"].mean() / 1e6
    assert float(table.loc[0, "operations, millions"]) == pytest.approx(mean, rel=1e-3)
