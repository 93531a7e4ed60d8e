"""The live browser's benchmark works, tried on a tiny system."""

from __future__ import annotations

from mmn_utils.browser.live.session import Session
from tests.benchmarks.bench_session import measure
from tests.browser.conftest import made  # noqa: F401  a fixture


def test_every_question_is_answered_on_a_tiny_system(made):  # noqa: F811
    session = Session(made.model, made.atlas, made.photographs)
    # the tiny tokenizer has no words but those of its sentences
    table = measure(session, 2, skip=("search",))
    assert len(table) == 14
    assert (table[["median", "longest"]] > 0).all(axis=None)
