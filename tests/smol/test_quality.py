"""How well captions name what is shown: whole words, whole names, first nouns, shares."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pandas as pd
import pytest

from mmn_utils.datasets import Photograph
from mmn_utils.neurons.captions import Caption, generate
from mmn_utils.smol import quality as module
from mmn_utils.smol.__main__ import COCO, some_of, summed_up
from mmn_utils.smol.photographs import VAL
from mmn_utils.smol.quality import TOKENS, first_nouns, named, spread, write_rows
from tests.smol.sets import tiny_shown
from tests.tiny import tiny_limber, tiny_photographs


def captioned(monkeypatch, texts: list[str]):
    """Let a model say these texts of its pictures, in order; return it and the batches."""
    left, batches = list(texts), []

    def say(_model, images, tokens):
        assert tokens == TOKENS
        batches.append(len(images))
        return [Caption(left.pop(0), ()) for _ in images]

    monkeypatch.setattr(module, "generate", say)
    return SimpleNamespace(prompt=lambda images: images), batches


def test_a_class_is_named_by_its_whole_name_as_whole_words(tmp_path, monkeypatch):
    shown = tiny_shown(tmp_path, VAL)
    assert [one.name for one in shown] == ["leopard", "leopard", "brain coral"]
    model, _ = captioned(monkeypatch, ["a Leopard.", "a leopardess", "a coral with a brain"])
    found = named(model, shown)
    assert found["right"].tolist() == [True, False, False]
    assert list(found) == ["source", "name", "image", "caption", "right"]
    assert found.iloc[0].tolist() == ["kinds", "leopard", "image_0.png", "a Leopard.", True]
    model, _ = captioned(monkeypatch, ["two", "", "some Brain coral,"])
    assert named(model, shown)["right"].tolist() == [False, False, True]


def test_photographs_are_captioned_some_at_a_time_and_all_of_them(tmp_path, monkeypatch):
    shown = tiny_shown(tmp_path, VAL)
    monkeypatch.setattr(module, "TOGETHER", 2)
    model, batches = captioned(monkeypatch, ["a", "b", "c"])
    assert named(model, shown)["caption"].tolist() == ["a", "b", "c"]
    assert batches == [2, 1]


def test_captions_are_the_systems_own(tmp_path):
    model, shown = tiny_limber(), tiny_shown(tmp_path, VAL)
    images = [module.read_image(one.path) for one in shown]
    own = generate(model, model.prompt(images), TOKENS)
    assert named(model, shown)["caption"].tolist() == [caption.text for caption in own]


def test_the_first_noun_must_be_among_what_people_say(tmp_path, monkeypatch):
    model = tiny_limber()
    photographs = [
        Photograph(one.id, one.path, captions=("Two horses stand near a barn.",))
        for one in tiny_photographs(tmp_path, 3)
    ]
    said = [" a horse in a field", " a boat near two horses", " of of"]
    captions = [Caption(text.strip(), tuple(model.tokenizer.encode(text))) for text in said]
    monkeypatch.setattr(module, "captions_of", lambda *_: captions)
    found = first_nouns(model, photographs)
    assert found["noun"].tolist() == ["horse", "boat", ""]
    assert found["right"].tolist() == [True, False, False]
    assert found["image"].tolist() == [one.id for one in photographs]


def test_what_captions_got_right_is_summed_up_within_its_interval():
    right = {"kinds": [True] * 30 + [False] * 10, "others": [False] * 5}
    found = pd.DataFrame(
        {"system": "smol", "source": source, "right": one}
        for source, ones in right.items()
        for one in ones
    )
    row, none = summed_up(found, 75).to_dict("records")
    assert [row[key] for key in ("system", "source", "steps", "n")] == ["smol", "kinds", 75, 40]
    assert row["share"] == 0.75
    assert 0.55 < row["low"] < 0.7  # of a binomial's: 0.75 - 1.96 x 0.068 = 0.62
    assert 0.8 < row["high"] < 0.95
    assert none["share"] == none["low"] == 0
    assert 0 <= none["high"] < 1


def test_the_rows_of_fewer_photographs_are_among_those_of_all():
    found = pd.DataFrame({"source": ["a"] * 7 + [COCO] * 2 + ["b"] * 2, "image": range(11)})
    assert some_of(found, 3)["image"].tolist() == [0, 2, 4, 6, 9, 10]


@pytest.mark.parametrize(("total", "count"), [(9, 3), (10, 3), (5, 3), (3, 3), (2, 3), (500, 250)])
def test_some_photographs_are_spread_over_all(total, count):
    found = spread(range(total), count)
    assert min(total, count) <= len(found) < 2 * count
    assert found[0] == 0
    assert len({b - a for a, b in pairwise(found)}) <= 1  # evenly


def test_rows_are_written_as_they_are(tmp_path):
    rows = [{"system": "a", "share": 0.5}, {"system": "b, c", "share": 0.25}]
    write_rows(pd.DataFrame(rows), tmp_path / "deep" / "rows.csv")
    assert pd.read_csv(tmp_path / "deep" / "rows.csv").to_dict("records") == rows
    assert b"\r" not in (tmp_path / "deep" / "rows.csv").read_bytes()
