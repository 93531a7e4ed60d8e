"""What was tried: each variant once, and a table that ships whole."""

from __future__ import annotations

import pandas as pd
import pytest

from mmn_utils.miniature import variants


@pytest.fixture
def made(monkeypatch):
    """Names of the variants that were trained, which here takes no time."""
    names = []

    def run_variant(name, steps, work):
        names.append(name)
        if name == made_to_fail:
            raise RuntimeError(name)
        return {"variant": name, "what_changed": variants.VARIANTS[name][0], "steps": steps}

    made_to_fail = "dropped MLPs"
    monkeypatch.setattr(variants, "run_variant", run_variant)
    return names


def test_it_goes_on_where_it_stopped_and_ships_the_whole_table(made, tmp_path, monkeypatch):
    work, data = tmp_path / "work", tmp_path / "data"
    asked = ["--work", str(work), "--data", str(data), "--steps", "7"]
    with pytest.raises(RuntimeError, match="dropped MLPs"):
        variants.main(asked)
    assert not data.exists()  # half a table does not ship
    done = list(pd.read_csv(work / "variants.csv")["variant"])
    assert done == made[:-1]
    made.clear()
    monkeypatch.setattr(
        variants, "run_variant", lambda name, steps, _: {"variant": name, "steps": steps}
    )
    variants.main(asked)
    shipped = pd.read_csv(data / "training" / "variants.csv")
    assert list(shipped["variant"]) == list(variants.VARIANTS)


def test_rows_of_another_length_are_made_again(made, tmp_path, monkeypatch):
    work, data = tmp_path / "work", tmp_path / "data"
    monkeypatch.setattr(variants, "VARIANTS", dict(list(variants.VARIANTS.items())[:2]))
    for steps in ("7", "8", "8"):
        variants.main(["--work", str(work), "--data", str(data), "--steps", steps])
    assert len(made) == 4
    assert set(pd.read_csv(data / "training" / "variants.csv")["steps"]) == {8}


def test_the_shipped_table_has_every_variant():
    table = pd.read_csv(variants.WORLD_FILE.parent / "training" / "variants.csv")
    assert list(table["variant"]) == list(variants.VARIANTS)
