"""All benchmarks run at tiny size, and their page has a table of each."""

from __future__ import annotations

import pandas as pd
import pytest

from mmn_utils.models import MissingParts
from tests.benchmarks import results

NAMES = ["attribution", "peers", "contribution", "ablation", "exact", "scores", "atlas", "training"]


@pytest.mark.parametrize("name", NAMES)
def test_a_table_has_ratios_or_seconds(name):
    table = results.TABLES[name](True)
    column = "ratio" if "ratio" in table else "median"
    assert len(table)
    assert (table[column].dropna() > 0).all()


def test_the_page_names_the_machine_and_what_was_not_run(monkeypatch):
    def absent(_tiny):
        """Ask for what is not here."""
        raise MissingParts(f"no weights of it in {results.ROOT / 'data'}\nget them")

    def there(_tiny):
        """Answer."""
        return pd.DataFrame({"what": ["ours"], "ratio": [0.123456], "most": [float("nan")]})

    monkeypatch.setattr(results, "TABLES", {"one": there, "two": absent})
    page = results.page(results.results(["one", "two"]))
    assert "torch" in page
    assert "| ours | 0.123 | – |" in page
    assert "Not run: no weights of it in data\n" in page, "where this copy lies is nobody's concern"


def test_what_is_not_asked_for_stays_as_the_same_machine_wrote_it(monkeypatch):
    def one(_tiny):
        """First."""

    def two_words(_tiny):
        """Second."""

    monkeypatch.setattr(results, "TABLES", {"one": one, "two_words": two_words})
    whole = results.page({"one": "old", "two_words": "old"})
    assert results.page({"two_words": "new"}, whole) == results.page(
        {"one": "old", "two_words": "new"}
    )
    assert results.page({"one": "new"}, whole.replace("cores", "other cores")) == results.page(
        {"one": "new"}
    )
    assert results.page({}, whole) == whole


def test_every_benchmark_is_in_the_page():
    here = {path.stem.removeprefix("bench_") for path in results.PAGE.parent.glob("bench_*.py")}
    assert here - {"browser"} == set(results.TABLES)  # that one needs a browser and a built page
