"""The atlas's benchmark works, tried on a tiny atlas: both ways give the same answers."""

from __future__ import annotations

from mmn_utils.browser.atlas.files import TABLES, write_atlas
from tests.benchmarks.bench_atlas import QUESTIONS, measure, random_facts, random_parts, report


def test_both_ways_answer_alike_on_a_tiny_atlas(tmp_path, capsys):
    facts = random_facts(layers=3, units=64, width=300, vocabulary=90, k=10)
    folder = write_atlas(tmp_path / "atlas", facts, random_parts(facts, pictures=30))
    table = measure(folder, asked=3).set_index("question")
    assert list(table.index) == ["open", *QUESTIONS]
    assert (table.loc[list(QUESTIONS)] > 0).all(axis=None)
    report(folder)
    printed = capsys.readouterr().out
    assert all(f"{name}.parquet" in printed for name in TABLES)
