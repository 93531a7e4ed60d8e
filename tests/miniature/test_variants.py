"""What was tried: each variant once, and a table that ships whole."""

from __future__ import annotations

import pandas as pd
import pytest

from mmn_utils.miniature import variants
from mmn_utils.presets import data_path


class Maker:
    """Trains no variant, but notes which it was asked for, and breaks off at some."""

    def __init__(self) -> None:
        self.names, self.breaks_at = [], set()

    def __call__(self, name, steps, work):
        self.names.append(name)
        if name in self.breaks_at:
            raise RuntimeError(name)
        return {"variant": name, "what_changed": variants.VARIANTS[name][0], "steps": steps}


@pytest.fixture
def make(monkeypatch):
    make = Maker()
    monkeypatch.setattr(variants, "run_variant", make)
    return make


def test_it_goes_on_where_it_stopped_and_ships_the_whole_table(make, tmp_path):
    work, data = tmp_path / "work", tmp_path / "data"
    asked = ["--work", str(work), "--data", str(data), "--steps", "7"]
    make.breaks_at = {"dropped MLPs"}
    with pytest.raises(RuntimeError, match="dropped MLPs"):
        variants.main(asked)
    assert not data.exists()  # half a table does not ship
    done = list(pd.read_csv(work / "variants.csv")["variant"])
    assert done == make.names[:-1]
    make.breaks_at = set()
    variants.main(asked)
    assert make.names == [*done, "dropped MLPs", *list(variants.VARIANTS)[len(done) :]]
    shipped = pd.read_csv(data / "training" / "variants.csv")
    assert list(shipped["variant"]) == list(variants.VARIANTS)


def test_rows_of_another_length_are_made_again(make, tmp_path, monkeypatch):
    work, data = tmp_path / "work", tmp_path / "data"
    monkeypatch.setattr(variants, "VARIANTS", dict(list(variants.VARIANTS.items())[:2]))
    for steps in ("7", "8", "8"):
        variants.main(["--work", str(work), "--data", str(data), "--steps", steps])
    assert len(make.names) == 4
    assert set(pd.read_csv(data / "training" / "variants.csv")["steps"]) == {8}


def test_the_shipped_table_has_every_variant():
    table = pd.read_csv(data_path("miniature", "training", "variants.csv"))
    assert list(table["variant"]) == list(variants.VARIANTS)
