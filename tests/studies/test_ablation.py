"""Sweeps over images: what the cache keeps is what single sweeps give."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.datasets import Photograph
from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.models.base import Sizes
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.decoding import signed
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target, objective, teacher_forced
from mmn_utils.studies import ablation
from mmn_utils.studies.ablation import ablation_rows
from mmn_utils.studies.subjects import Subjects
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_gated import TinyGated

KS = [0, 2, 5]


@pytest.fixture(scope="module")
def system():
    return tiny_limber()


@pytest.fixture
def subjects(tmp_path) -> Subjects:
    photographs, targets = [], []
    for i, image in enumerate(tiny_images(3, seed=5)):
        path = tmp_path / f"{i}.png"
        image.save(path)
        photographs.append(Photograph(str(i), path))
        targets.append(Target(str(i), "noun", 290 + i, (7, 9)[:i]))
    return Subjects(photographs, [None] * 3, [[target] for target in targets])


@pytest.fixture
def every_unit_reads(monkeypatch):
    """A random system writes no words; let three of four units count as interpretable."""

    def readable(model):
        numbers = np.arange(model.sizes.layers * model.sizes.units)
        numbers = numbers.reshape(model.sizes.layers, -1)
        return {1: numbers % 4 > 0, -1: numbers % 3 > 0}

    monkeypatch.setattr(ablation, "interpretable_ends", readable)
    return readable


def test_counts_are_the_papers_own_for_gpt_j():
    gptj = SimpleNamespace(sizes=Sizes(28, 16384, 4096, 50258))
    assert ablation.scaled_counts(gptj) == list(ablation.PAPER_COUNTS)


def test_counts_are_shares_rounded_up_and_once_each():
    small = SimpleNamespace(sizes=Sizes(6, 1024, 256, 1220))
    assert ablation.scaled_counts(small) == [0, 1, 2, 3, 6, 11, 22, 43, 86]
    tiny = SimpleNamespace(sizes=Sizes(2, 64, 16, 100))
    assert ablation.scaled_counts(tiny) == [0, 1, 2]
    with pytest.raises(ValueError, match="-1"):
        ablation.scaled_counts(small, [-1])


@pytest.mark.parametrize("build", [tiny_limber, TinyGated])
def test_a_row_is_what_ablating_alone_gives(build, subjects, every_unit_reads):
    system = build()
    table = ablation.ablation_table(
        system, subjects, KS, max_new_tokens=3, batch_size=2, progress=False
    )
    assert list(table.columns) == ablation.COLUMNS
    assert table.groupby(["condition", "k"]).size().eq(3).all()
    assert len(table) == 3 * 3 * len(KS)
    image, goal = subjects.photographs[1].open(), subjects.targets[1]
    ranked = attribution(system, [image], [goal], k=20)
    readable = every_unit_reads(system)
    units = signed(ranked)
    assert build is tiny_limber or {sign for _, sign in units[:5]} == {1, -1}
    expected = {
        "top": [unit for unit, _ in units[:5]],
        "interpretable": [n for n, sign in units if readable[sign][n.layer, n.unit]][:5],
    }
    for condition, neurons in expected.items():
        prompt = teacher_forced(system, system.prompt([image]), [goal.prefix])
        with ablate(system, Ablation(tuple(neurons))):
            logits, _ = system.forward(prompt)
        probability = objective(logits, [goal], "probability").item()
        row = table[(table["image"] == "1") & (table["condition"] == condition) & (table["k"] == 5)]
        assert row["probability"].item() == pytest.approx(probability, rel=1e-4)
    whole = table[table["k"] == 0]
    assert not whole["changed"].any()
    assert whole.groupby("image")["caption"].nunique().eq(1).all()


def test_random_units_do_not_depend_on_the_other_images(
    system, subjects, every_unit_reads, monkeypatch, tmp_path
):
    options = {"max_new_tokens": 2, "progress": False}
    every = ablation.ablation_table(system, subjects, KS, **options)
    monkeypatch.setenv("MMN_CACHE", str(tmp_path / "other"))
    one = ablation.ablation_table(system, subjects.select(["2"]), KS, **options)
    same = every[every["image"] == "2"].reset_index(drop=True)
    np.testing.assert_allclose(same["probability"], one["probability"], rtol=1e-4)


def test_means_stand_in_for_zero_where_asked(system, subjects, every_unit_reads):
    options = {"max_new_tokens": 2, "progress": False}
    zero = ablation.ablation_table(system, subjects, KS, **options)
    mean = ablation.ablation_table(system, subjects, KS, value="mean", **options)
    ablated = zero["k"] > 0
    assert (zero["probability"] != mean["probability"])[ablated].any()
    np.testing.assert_allclose(
        zero["probability"][~ablated], mean["probability"][~ablated], rtol=1e-5
    )


def test_ranking_goes_as_deep_as_it_takes(system, subjects, monkeypatch):
    few = np.zeros((3, 128), bool)
    few[:, ::16] = True  # 24 of 384
    monkeypatch.setattr(ablation, "interpretable_ends", lambda model: {1: few, -1: few})
    table = ablation.ablation_table(
        system, subjects.select(["0"]), [0, 20], max_new_tokens=1, progress=False
    )
    assert len(table) == 6
    with pytest.raises(ValueError, match="24 interpretable units among all 384"):
        ablation.ablation_table(
            system, subjects.select(["0"]), [0, 25], max_new_tokens=1, progress=False
        )
    with pytest.raises(ValueError, match="begin with 0"):
        ablation.ablation_table(system, subjects, [5], progress=False)


def rows_of(labels, rows, condition):
    mine = labels[labels.condition == condition]
    return {k: rows[row] for k, row in zip(mine.k, mine.row, strict=True)}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_conditions_are_nested_and_random_ones_lie_in_the_same_layers(seed):
    rng = np.random.default_rng(seed)
    ranked = [Neuron(int(i) // 50, int(i) % 50) for i in rng.permutation(200)[:60]]
    words = {n: bool(rng.random() < 0.5) for n in ranked}
    ks = [0, 2, 5, 10]
    rows, labels = ablation_rows(ranked, words, ks, 50, rng)
    assert len(rows) == 3 * 3 + 1
    assert len(labels) == 12
    by = {c: rows_of(labels, rows, c) for c in ("top", "interpretable", "random")}
    for condition in by.values():
        assert condition[0] == []
        for small, large in pairwise(ks[1:]):
            assert condition[large][:small] == condition[small]
    assert by["top"][10] == ranked[:10]
    assert by["interpretable"][10] == [n for n in ranked if words[n]][:10]
    for k in ks:
        layers = [sorted(n.layer for n in by[c][k]) for c in ("top", "random")]
        assert layers[0] == layers[1]
        assert len(set(by["random"][k])) == k
    assert not set(by["random"][10]) & set(ranked[:10])
    assert labels[labels.k == 0].row.nunique() == 1


def test_a_ranking_too_short_is_said():
    ranked = [Neuron(0, u) for u in range(8)]
    with pytest.raises(ValueError, match="8 ranked"):
        ablation_rows(ranked, {}, [0, 9], 64, np.random.default_rng(0))
    with pytest.raises(ValueError, match="1 interpretable"):
        ablation_rows(ranked, {ranked[0]: True}, [2], 64, np.random.default_rng(0))
