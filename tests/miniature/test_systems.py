"""The systems side by side: which are there, what is counted, what is compared."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.miniature import systems
from mmn_utils.models import MissingParts


class Tiny:
    """What the table reads of a model."""

    def __init__(self, tokens: int) -> None:
        self.language_model = torch.nn.Linear(1, 1)
        self.image_tokens = type("Tokens", (), {"count": tokens})

    def modules(self):
        return self.language_model, torch.nn.Linear(4, 4), torch.nn.Linear(3, 2)


@pytest.fixture
def curves(tmp_path):
    (tmp_path / "projection.csv").write_text("step,items,loss\n1,32,2.0\n2,48,1.0\n")
    (tmp_path / "projection_smooth.csv").write_text("step,items,loss\n1,16,3.0\n")
    (tmp_path / "llava_alignment.csv").write_text("step,items,loss\n1,10,2.0\n")
    (tmp_path / "llava_tuning.csv").write_text("step,items,loss\n1,20,2.0\n2,40,1.0\n")
    return tmp_path


@pytest.fixture
def models(tmp_path, monkeypatch):
    there = {"miniature": Tiny(196), "miniature/llava": Tiny(49)}

    def load(name):
        if name not in there:
            raise MissingParts(f"{name} is not there")
        return there[name]

    monkeypatch.setattr(systems, "load_model", load)
    monkeypatch.setattr(systems, "data_path", tmp_path.joinpath)
    (tmp_path / "miniature" / "llava").mkdir(parents=True)
    record = tmp_path / "miniature" / "llava" / "training.json"
    record.write_text(json.dumps({"trained_parameters": 1234}))
    return systems.load_systems()


def captions(right: list[bool]) -> pd.DataFrame:
    images = [str(i) for i in range(len(right))]
    return pd.DataFrame({"image": images, "right": right, "recall": np.linspace(0, 1, len(right))})


SAID = {
    "LiMBeR": captions([True, False, False, True]),
    "LLaVA": captions([True, True, False, True]),
}


def test_systems_without_weights_are_left_out(models):
    assert list(models) == ["LiMBeR", "LLaVA"]


def test_the_table_counts_and_compares(models, curves):
    table = systems.systems_table(models, SAID, curves).set_index("system")
    assert list(table.index) == list(systems.SYSTEMS)
    limber, llava = table.loc["LiMBeR"], table.loc["LLaVA"]
    assert (limber["trained"], llava["trained"]) == (3 * 2 + 2, 1234)
    assert (limber["image_tokens"], llava["image_tokens"]) == (196, 49)
    assert (limber["pairs"], llava["pairs"]) == (64, 10 + 40)
    assert (limber["first_noun"], llava["first_noun"], llava["more"]) == (0.5, 0.75, 0.25)
    assert limber["more"] == limber["more_low"] == limber["more_high"] == 0
    assert llava["more_low"] <= 0.25 <= llava["more_high"]
    assert llava["language_model"] == "Linear"


def test_a_system_that_is_not_there_has_no_numbers(models, curves):
    table = systems.systems_table(models, SAID, curves).set_index("system")
    absent = table.loc["InstructBLIP"]
    assert absent["scenes"] == 0
    assert absent[["first_noun", "trained", "pairs", "more"]].isna().all()
    assert absent["sees"]


def test_captions_of_other_scenes_are_not_compared(models, curves):
    other = {**SAID, "LLaVA": captions([True, True])}
    with pytest.raises(ValueError, match="same scenes"):
        systems.systems_table(models, other, curves)


def test_what_is_said_of_some_scenes_is_kept_by_system():
    chosen = [type("Scene", (), {"id": id}) for id in ("3", "1")]
    said = systems.said(SAID, chosen)
    assert said["image"].tolist() == ["1", "3", "1", "3"]
    assert said["system"].tolist() == ["LiMBeR", "LiMBeR", "LLaVA", "LLaVA"]
    assert said["right"].tolist() == [False, True, True, True]


def test_rows_say_scene_by_scene_whose_first_noun_is_there():
    rows = systems.rows(SAID)
    assert list(rows) == ["scene", "limber", "llava", "instructblip", "mplug_owl2"]
    assert rows["limber"].tolist() == [1, 0, 0, 1]
    assert rows["llava"].tolist() == [1, 1, 0, 1]
    assert rows["instructblip"].isna().all()


def test_scenes_that_all_name_rightly_are_drawn_before_those_that_not_all_do():
    def chosen(each: int) -> list[str]:
        return systems.drawn(SAID, ["a", "b", "c", "d"], np.random.default_rng(0), each)

    assert sorted(chosen(2)[:2]) == ["a", "d"]
    assert sorted(chosen(2)[2:]) == ["b", "c"]
    assert len(chosen(9)) == 4
    first, second = chosen(1)
    assert first in "ad"
    assert second in "bc"
