"""Tables of the truth: what they hold, what is kept of them, and the command that makes them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mmn_utils import datasets, models
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.targets import Target
from mmn_utils.neurons.truth import exact_losses
from mmn_utils.shards import only_shard
from mmn_utils.studies.court import truth
from mmn_utils.studies.subjects import Subjects
from tests.tiny import tiny_limber, tiny_photographs


@pytest.fixture(scope="module")
def system():
    return tiny_limber()


@pytest.fixture
def some(tmp_path, monkeypatch) -> Subjects:
    """Three subjects of two nouns each."""
    monkeypatch.setenv("MMN_CACHE", str(tmp_path / "cache"))
    photographs = tiny_photographs(tmp_path, 3)
    every = [
        [Target(p.id, "horse", 300 + i, (5,) * i), Target(p.id, "boat", 17, (5, 9, 11))]
        for i, p in enumerate(photographs)
    ]
    return Subjects(photographs, [Caption("a horse", (1,))] * 3, every)


def test_a_table_holds_every_unit_of_every_pair(system, some):
    table = truth.truth_table(system, some, positions=["step"], nouns="all", progress=False)
    assert list(table.columns) == truth.COLUMNS
    units = system.sizes.layers * system.sizes.units
    assert len(table) == 6 * units
    for photograph, targets in zip(some.photographs, some.every, strict=True):
        prompt = system.prompt([photograph.open()])
        for target in targets:
            losses = exact_losses(system, prompt, target, positions="step")
            part = table[(table["image"] == photograph.id) & (table["noun"] == target.noun)]
            assert set(part["token"]) == {target.token}
            for kind in ("logit", "probability"):
                wide = part.pivot(index="layer", columns="unit", values=kind).to_numpy()
                np.testing.assert_allclose(wide, getattr(losses, kind), atol=1e-6)
            assert set(part["logit_whole"]) == {np.float32(losses.whole[0])}


def test_what_is_computed_is_kept(system, some, monkeypatch):
    first = truth.truth_table(system, some, progress=False, positions=["all", "step"])
    monkeypatch.setattr(truth, "exact_losses", None)
    again = truth.truth_table(system, some, progress=False, positions=["step"])
    pd.testing.assert_frame_equal(
        again.astype({"positions": str}),
        first[first["positions"] == "step"].reset_index(drop=True).astype({"positions": str}),
    )
    assert set(first["noun"]) == {"horse"}


def test_shards_together_are_the_whole(system, some, monkeypatch):
    for index in range(2):
        with only_shard(truth.kind_of("step"), (index, 2)):
            truth.truth_table(system, some, positions=["step"], progress=False)
    monkeypatch.setattr(truth, "exact_losses", None)
    table = truth.truth_table(system, some, positions=["step"], progress=False)
    assert list(table["image"].unique()) == some.ids


def test_a_file_keeps_twelve_bits(system, some, tmp_path):
    table = truth.truth_table(system, some, positions=["step"], progress=False)
    path = truth.save(table, tmp_path / "few" / "truth-step.parquet")
    read = truth.load(path)
    assert path.stat().st_size < 6 * len(table) + 10_000  # the file's own description
    for column in truth.VALUES:
        apart = (read[column] - table[column]).abs()
        assert (apart <= table[column].abs() * 2**-12).all()
    for column in ("image", "noun", "token", "positions", "layer", "unit"):
        assert (read[column].astype(str) == table[column].astype(str)).all()


def test_rounding_is_to_the_nearest_and_keeps_what_is_small():
    values = np.array([1.0, 1 + 2**-11, 1 + 2**-13, -3.0e-9, 0.0, np.nan, np.inf], np.float32)
    found = truth.rounded(values)
    np.testing.assert_array_equal(found[:3], np.float32([1, 1 + 2**-11, 1]))
    assert found[3] == pytest.approx(-3.0e-9, rel=2**-12)
    assert found[4] == 0
    assert np.isnan(found[5])
    assert np.isinf(found[6])


def test_first_pairs(system, some):
    table = truth.truth_table(system, some, positions=["step"], nouns="all", progress=False)
    few = truth.first_pairs(table, 3)
    assert list(few.groupby(["image", "noun"], sort=False, observed=True).ngroup().unique()) == [
        0, 1, 2,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="7 pairs"):
        truth.first_pairs(table, 7)


def test_bad_input_is_refused(system, some, tmp_path):
    with pytest.raises(ValueError, match="positions = \\['patches'\\]"):
        truth.truth_table(system, some, positions=["patches"])
    with pytest.raises(ValueError, match="nouns = \\['second'\\]"):
        truth.truth_table(system, some, nouns="second")
    with pytest.raises(ValueError, match="no truth in"):
        truth.load(tmp_path / "none.parquet")
    pd.DataFrame({"image": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="not those of a truth"):
        truth.load(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="lacks image"):
        truth.save(pd.DataFrame(), tmp_path / "nothing.parquet")


def test_the_command_computes_and_saves(system, some, tmp_path, monkeypatch, capsys):
    class Data(list):
        def sample(self, n: int, seed: int):
            return self[:n]

    monkeypatch.setattr(models, "load_model", lambda *_, **__: system)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: Data(some.photographs))
    monkeypatch.setattr(truth, "subjects", lambda *_, **__: some)
    options = ["--pairs", "2", "--positions", "step"]
    assert truth.main([*options, "--shard", "0/2"]) == 0
    assert truth.main([*options, "--out", str(tmp_path / "out"), "--ship", "1"]) == 0
    assert "truth-step.parquet" in capsys.readouterr().out
    few = truth.load(tmp_path / "out" / "truth-step.parquet")
    assert list(few["image"].unique()) == some.ids[:1]
    assert truth.main(["--pairs", "9"]) == 2
    assert "9 are asked for; lower --pairs" in capsys.readouterr().err
    assert truth.main(["--pairs", "0"]) == 2
    assert "--pairs 0: give 1 or more" in capsys.readouterr().err


def test_a_file_knows_whose_truth_it_is(system, some, tmp_path):
    table = truth.truth_table(system, some, positions=["step"], progress=False)
    path = truth.save(table, tmp_path / "truth-step.parquet", system)
    pd.testing.assert_frame_equal(truth.load(path, system), truth.load(path))
    other = SimpleNamespace(name="another", revision="abc")
    with pytest.raises(ValueError, match=r"is the truth of .*, not of another \(weights abc\)"):
        truth.load(path, other)
    nobodys = truth.save(table, tmp_path / "nobodys.parquet")
    assert len(truth.load(nobodys, other)) == len(table)
