"""Addresses, the neuron table and its file, draws of random neurons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.neurons.table import (
    COLUMNS,
    SCHEMA,
    Neuron,
    by_layer,
    check_neurons,
    neuron_table,
    random_like,
    ranked_table,
    read_table,
    top_k,
    unique_neurons,
    write_table,
)

quick = settings(max_examples=15, deadline=None)


def row(image="a", target="cat", token=3, layer=0, unit=0, patch=-1, score=1.0, activation=-0.5):
    values = (image, target, token, layer, unit, patch, score, activation)
    return dict(zip(COLUMNS, values, strict=True))


@quick
@given(st.integers(0, 99), st.integers(0, 99_999))
def test_an_address_reads_back_as_it_is_printed(layer, unit):
    assert Neuron.parse(str(Neuron(layer, unit))) == Neuron(layer, unit)


def test_the_address_is_the_papers():
    assert str(Neuron(7, 15772)) == "L7.u15772"
    assert sorted([Neuron(2, 0), Neuron(1, 9)]) == [Neuron(1, 9), Neuron(2, 0)]


@pytest.mark.parametrize("address", ["", "L7", "7.15772", "L7.u", "L-1.u2", "L7.u15772 cats"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match=r"L7\.u15772"):
        Neuron.parse(address)


def test_a_table_has_its_columns_types_and_order():
    table = neuron_table([row("b"), row(score=1), row(score=2, unit=4), row(target="bat")])
    assert dict(zip(table.columns, table.dtypes.astype(str), strict=True)) == SCHEMA
    assert list(table.image) == ["a", "a", "a", "b"]
    assert list(table.target) == ["bat", "cat", "cat", "cat"]
    assert list(table.score) == [1, 2, 1, 1]


@quick
@given(st.permutations(range(6)))
def test_the_order_of_rows_does_not_matter(order):
    rows = [row(unit=u % 3, layer=u // 3, score=u // 2) for u in range(6)]
    pd.testing.assert_frame_equal(neuron_table(rows), neuron_table([rows[i] for i in order]))


def test_rows_columns_and_tables_make_the_same_table():
    rows = [row(), row("b", unit=2)]
    columns = {name: [r[name] for r in rows] for name in COLUMNS}
    table = neuron_table(rows)
    pd.testing.assert_frame_equal(table, neuron_table(columns))
    pd.testing.assert_frame_equal(table, neuron_table(table))
    assert list(neuron_table([]).columns) == list(COLUMNS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score": float("nan")}, "not finite"),
        ({"activation": float("-inf")}, "activation -inf of L0.u0 .* not finite"),
        ({"activation": "high"}, "activation"),
        ({"unit": 1.5}, "unit"),
        ({"layer": "first"}, "layer"),
        ({"colour": "red"}, "colour"),
        ({"patch": 2**40}, "patch"),
    ],
)
def test_bad_values_are_named(change, said):
    with pytest.raises(ValueError, match=said):
        neuron_table([row() | change])


def test_a_missing_column_is_named():
    short = row()
    del short["token"]
    with pytest.raises(ValueError, match="token"):
        neuron_table([short])


def test_rows_without_an_activation_have_none():
    bare = row()
    del bare["activation"]
    table = neuron_table([bare, bare | {"unit": 1}])
    assert table["activation"].isna().all()
    assert table["activation"].dtype == "float32"
    mixed = neuron_table([row(unit=2), row(unit=3) | {"activation": float("nan")}])
    assert mixed["activation"].isna().tolist() == [False, True]


def test_parquet_gives_back_the_same_table_and_the_same_bytes(tmp_path):
    table = neuron_table([row(unit=u, score=u / 7) for u in range(5)])
    first, second = write_table(table, tmp_path / "sub/a.parquet"), tmp_path / "b.parquet"
    pd.testing.assert_frame_equal(read_table(first), table)
    write_table(read_table(first), second)
    assert first.read_bytes() == second.read_bytes()
    assert [p.name for p in first.parent.iterdir()] == ["a.parquet"]


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="missing"):
        write_table(pd.DataFrame({"image": ["a"]}), tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_another_parquet_file_is_refused(tmp_path):
    pd.DataFrame({"image": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="missing"):
        read_table(tmp_path / "other.parquet")


def test_top_k_keeps_the_best_of_each_group():
    table = neuron_table([row(i, unit=u, score=u) for i in "ab" for u in range(4)])
    assert list(top_k(table, 2).unit) == [3, 2, 3, 2]
    assert list(top_k(table, 1, per=()).unit) == [3]
    assert len(top_k(table, 9)) == 8
    assert len(top_k(table, 0)) == 0
    with pytest.raises(ValueError, match="k=-1"):
        top_k(table, -1)


def test_unique_neurons_come_by_their_best_score():
    table = neuron_table(
        [row("a", unit=1, score=1), row("b", unit=2, score=3), row("b", unit=1, score=5)]
    )
    assert unique_neurons(table) == [Neuron(0, 1), Neuron(0, 2)]


@quick
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 19)), max_size=20, unique=True),
       st.integers(0, 2**32 - 1))  # fmt: skip
def test_random_neurons_follow_the_layers_one_by_one(pairs, seed):
    neurons = [Neuron(*pair) for pair in pairs]
    drawn = random_like(neurons, 64, np.random.default_rng(seed))
    assert [n.layer for n in drawn] == [n.layer for n in neurons]
    assert len(set(drawn)) == len(drawn)
    assert not set(drawn) & set(neurons)
    assert all(0 <= n.unit < 64 for n in drawn)
    assert drawn == random_like(neurons, 64, np.random.default_rng(seed))


def test_random_neurons_leave_out_the_excluded_and_say_when_a_layer_is_short():
    rng = np.random.default_rng(0)
    given, excluded = [Neuron(1, 0), Neuron(1, 1)], [Neuron(1, u) for u in range(2, 6)]
    assert {n.unit for n in random_like(given, 8, rng, excluded)} == {6, 7}
    with pytest.raises(ValueError, match="layer 1 has 1 of its 7"):
        random_like(given, 7, rng, excluded)


def test_units_are_grouped_by_layer():
    groups = by_layer([Neuron(4, 9), Neuron(1, 2), Neuron(4, 3), Neuron(4, 9)])
    assert list(groups) == [1, 4]
    assert torch.equal(groups[4], torch.tensor([9, 3]))


def test_a_neuron_outside_the_model_is_named():
    check_neurons([Neuron(1, 7)], layers=2, units=8)
    for neuron in (Neuron(2, 0), Neuron(0, 8), Neuron(-1, 0)):
        with pytest.raises(ValueError, match=f"{neuron}.*units 0 to 7"):
            check_neurons([neuron], layers=2, units=8)


@quick
@given(seed=st.integers(0, 999), labels=st.integers(0, 5), k=st.integers(0, 7))
def test_a_ranked_table_is_the_table_of_its_rows(seed, labels, k):
    rng = np.random.default_rng(seed)  # few values, so that images, nouns and scores are tied
    names = [(f"p{rng.integers(2)}", f"é{rng.integers(3)}", int(rng.integers(9)))
             for _ in range(labels)]  # fmt: skip
    shape = labels, k
    columns = {
        "layer": rng.integers(0, 2, shape), "unit": rng.integers(0, 3, shape),
        "patch": rng.integers(-1, 2, shape), "score": rng.integers(-2, 3, shape).astype("float32"),
        "activation": rng.normal(size=shape).astype("float32"),
    }  # fmt: skip
    rows = {
        name: [label[i] for label in names for _ in range(k)]
        for i, name in enumerate(("image", "target", "token"))
    }
    expected = neuron_table({**rows, **{name: held.ravel() for name, held in columns.items()}})
    pd.testing.assert_frame_equal(ranked_table(names, columns), expected)


def test_a_ranked_table_names_what_is_not_finite():
    whole = {name: np.zeros((1, 2), dtype=int) for name in ("layer", "unit", "patch")}
    columns = {**whole, "score": np.array([[1.0, np.nan]]), "activation": np.zeros((1, 2))}
    with pytest.raises(ValueError, match=r"score nan of L0\.u0 on image 'a'"):
        ranked_table([("a", "cat", 1)], columns)
