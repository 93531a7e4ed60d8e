"""What was stored of trainings: read as it is, and empty where nothing was stored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.miniature import history
from mmn_utils.miniature.systems import LIMBER, SYSTEMS


class Tiny:
    """A system of three parts with 6, 20 and 8 parameters."""

    def modules(self):
        return torch.nn.Linear(2, 2), torch.nn.Linear(4, 4), torch.nn.Linear(3, 2)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "language.csv").write_text("step,items,loss\n1,100,2.0\n2,200,\n3,300,1.0\n")
    (tmp_path / "vision.csv").write_text(
        "stage,images,loss,images_per_second,patch,object\n"
        "pixels,10,5.0,1,,\npixels,20,4.0,1,0.25,0.5\n"
    )
    for file in SYSTEMS[LIMBER].curves:
        (tmp_path / file).write_text("step,items,loss\n1,32,3.0\n")
    return tmp_path


def test_curves_are_read_point_by_point(folder):
    points = history.points(folder)
    assert list(points) == ["panel", "line", "unit", "measure", "items", "value"]
    assert list(points["panel"].unique()) == list(dict.fromkeys(c.panel for c in history.PARTS))
    language = points[points["panel"] == "language model"]
    assert language["items"].tolist() == [100, 300]
    assert language["value"].tolist() == [2.0, 1.0]
    patch = points[points["line"] == "single patch"].iloc[0]
    assert (patch["unit"], patch["measure"]) == ("pictures", history.NAMED)
    assert (patch["items"], patch["value"]) == (20, 0.25)


def test_a_curve_of_one_round_and_one_that_goes_on(folder):
    points = history.points(folder)
    pixels = points[points["line"] == "codes of pixels"]
    assert pixels["items"].tolist() == [10, 20]
    assert points.loc[points["line"] == "codes of its own features", "items"].isna().all()
    smooth = points[points["line"] == "trained encoder, smooth labels"]
    assert smooth["items"].tolist() == [64]  # 32 pairs after the first 32


def test_curves_that_are_not_stored_are_named(folder):
    points = history.points(folder)
    assert history.missing(points) == [
        "encoder, codes of its own features", "projection, control",
        "projection, control, smooth labels",
    ]  # fmt: skip
    assert history.missing(history.points(folder, history.CHAT)) == [c.panel for c in history.CHAT]


def test_curves_begin_and_end(folder):
    ends = history.ends(history.points(folder)).set_index("curve")
    assert tuple(ends.loc["encoder, codes of pixels"]) == (history.CODES, 5.0, 4.0, "20 pictures")
    assert tuple(ends.loc["language model"]) == (history.NEXT_WORD, 2.0, 1.0, "300 tokens")
    assert history.ends(history.points(folder, history.CHAT)).empty


def test_parts_tell_what_they_have_seen(folder, tmp_path):
    table = history.parts(Tiny(), folder).set_index("part")
    assert list(table["trained parameters"]) == ["6", "20", "8"]
    assert table.loc["projection", "amount"] == "64 pairs"
    assert table.loc["encoder", "has seen"] == "pictures"
    unknown = history.parts(Tiny(), tmp_path / "none")["amount"]
    assert unknown.iloc[0] == "unknown number of tokens"


def test_the_projection_is_compared_with_limbers(folder, tmp_path):
    beside = history.beside_limber(Tiny(), folder)
    assert beside["pairs"] == 64
    assert beside["more"] == 15_000 * 2_048 / 64
    assert beside["larger"] == 4096 * 1025 / 8
    assert np.isnan(history.beside_limber(Tiny(), tmp_path / "none")["pairs"])


def test_times_are_summed_by_paper_and_processor(tmp_path):
    (tmp_path / "times.csv").write_text(
        "part,paper,minutes,core_minutes,processor\n"
        "a,A,1,2,x\nb,A,3,4,x\nc,B,5,6,y\neverything,,7,8,y\n"
    )
    times = history.times(tmp_path)
    assert list(times["parts"]["part"]) == ["a", "b", "c"]
    assert list(times["parts"]["minutes of one core"]) == [2, 4, 6]
    assert times["work"] == [("A", "x", 6), ("B", "y", 6)]
    assert times["minutes"] == 7
    none = history.times(tmp_path / "none")
    assert none["parts"].empty
    assert (none["work"], none["minutes"]) == ([], None)


def test_probes_are_read_by_what_they_probed(tmp_path):
    (tmp_path / "towers.csv").write_text("tower,patch,object\npairs alone,0.1,0.2\n")
    (tmp_path / "colours.csv").write_text(
        "encoder,colours,patch,object\nraw,own,0.1,0.2\nraw,turned,0.3,0.4\ntrained,own,0.5,0.6\n"
    )
    assert history.towers(tmp_path) == {"pairs alone": {"patch": 0.1, "object": 0.2}}
    probed = history.probed(history.colours(tmp_path))
    assert probed["raw"] == {
        "patch": {"own": 0.1, "turned": 0.3},
        "object": {"own": 0.2, "turned": 0.4},
    }
    assert probed["trained"]["object"] == {"own": 0.6}
    nowhere = tmp_path / "none"
    assert history.towers(nowhere) == {}
    assert isinstance(history.colours(nowhere), pd.DataFrame)
    assert history.probed(history.colours(nowhere)) == {}
