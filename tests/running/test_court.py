"""The method court from nothing: what is planned, what is run, and what a failure leaves."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from mmn_utils.presets import Preset, data_path, from_root
from mmn_utils.running import court
from mmn_utils.running.__main__ import main
from mmn_utils.running.order import tables
from mmn_utils.studies.court import truth

STORED = {"n_images": 5, "stored": "data/truth/tiny"}
PRESET = Preset("tiny", {"model": "miniature/llava", "seed": 3}, {court.NOTEBOOK: STORED})


def test_the_truth_is_of_what_the_notebook_asks_for():
    sitting = court.Sitting.of(PRESET, pairs=30, ship=5)
    assert (sitting.run, sitting.given) == ("tiny", {})
    assert sitting.folder == from_root("data/truth/tiny")
    chosen = truth._arguments(sitting.command[3:])
    assert (chosen.model, chosen.seed, chosen.pairs) == ("miniature/llava", 3, 30)
    assert (chosen.max_new_tokens, chosen.data_root, chosen.shard) == (12, None, None)


def test_who_asks_for_less_than_the_notebook_writes_over_nothing_that_ships():
    sitting = court.Sitting.of(PRESET, pairs=2, ship=20)
    assert sitting.ship == 2
    assert sitting.folder == data_path("cache", "truth", "tiny")
    assert sitting.given == {"run": "tiny-court", "n_images": 2, "stored": str(sitting.folder)}


def test_a_preset_whose_court_reads_nothing_is_refused(capsys):
    with pytest.raises(ValueError, match=r"preset tiny: .* 'stored: data/truth/tiny'"):
        court.Sitting.of(Preset("tiny", {"model": "miniature"}), 9, 9)
    with pytest.raises(ValueError, match="pairs = 0, ship = 0"):
        court.Sitting.of(PRESET, 0, 20)
    assert main(["court", "ci"]) == 2
    assert "preset ci: its 09_method_court reads no stored truth" in capsys.readouterr().err
    assert main(["court", "ci", "--shards", "0"]) == 2
    assert "shards = 0" in capsys.readouterr().err


def test_shards_come_first_then_what_ships_then_the_notebook(monkeypatch):
    done = []
    monkeypatch.setattr(court, "run_all", lambda commands, _=1: done.extend(commands))
    monkeypatch.setattr(court, "execute", lambda *given, **_: done.append(given))
    court.Sitting.of(PRESET, 30, 5).hold(shards=2)
    assert [words[-1] for words in done[:2]] == ["0/2", "1/2"]
    assert done[2][-4:] == ["--out", str(from_root("data/truth/tiny")), "--ship", "5"]
    assert done[3] == (court.NOTEBOOK, PRESET, {})


def test_processes_share_the_cores_and_end_where_one_fails(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    note = tmp_path / "threads"
    write = "import os, sys; open(sys.argv[1], 'w').write(os.environ['OMP_NUM_THREADS'])"
    court.run_all([[sys.executable, "-c", write, str(note)]], processes=os.cpu_count())
    assert Path(note).read_text() == "1"
    begun = time.monotonic()
    fails, waits = "raise SystemExit(3)", "import time; time.sleep(60)"
    with pytest.raises(ValueError, match="ended with 3; what it had computed is kept"):
        court.run_all([[sys.executable, "-c", fails], [sys.executable, "-c", waits]])
    assert time.monotonic() - begun < 30


def test_what_the_notebook_reads_beside_its_data_makes_it_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "data/court/times.csv",
        "data/truth/tiny/truth-all.parquet",
        "data/switches/a.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert tables(PRESET, court.NOTEBOOK) == [
        "data/court/times.csv", "data/truth/tiny/truth-all.parquet",
    ]  # fmt: skip
    assert tables(PRESET, "10_switches") == ["data/switches/a.csv"]
    assert tables(PRESET, "02_attribution") == []
