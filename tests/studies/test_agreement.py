"""Words against pictures: what is scored, what it is compared with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmn_utils.datasets import Photograph
from mmn_utils.datasets.base import TooFew
from mmn_utils.studies import agreement


@pytest.fixture
def photographs():
    captions = {
        "1": ("a horse in a field", "the horse, alone"),
        "2": ("two boats on the water",),
        "3": ("a cat",),
    }
    return [Photograph(id=i, path=Path(f"{i}.jpg"), captions=c) for i, c in captions.items()]


@pytest.fixture
def asked(monkeypatch):
    """Let both scores be computed from lengths; keep what they were asked for."""
    calls = SimpleNamespace(clip=[], bert=[], learnt=[])

    def clipscore(images, texts, clip):
        calls.clip += [(image.id, text) for image, text in zip(images, texts, strict=True)]
        scores = [100 * int(i.id) + len(t) for i, t in zip(images, texts, strict=True)]
        return np.array(scores, dtype=float)

    def bertscore(candidates, references, encoder):
        calls.bert += list(zip(candidates, references, strict=True))
        return np.array([len(references[i]) + len(t) / 100 for i, t in enumerate(candidates)])

    monkeypatch.setattr(agreement, "clipscore", clipscore)
    embeddings = SimpleNamespace(learn=calls.learnt.extend)
    monkeypatch.setattr(agreement, "clip_embeddings", lambda clip: embeddings)
    monkeypatch.setattr(agreement, "bertscore", bertscore)
    return calls


TEXTS = {
    "prompts": [["a", "bb", "a"], ["bb"], ["ccc"]],
    "captions": [["bb"], ["dddd"], ["ccc"]],
}


def test_tokens_are_listed_without_their_blanks():
    assert agreement.listed([" horse", "s", " ,"]) == "horse, s, ,"


def test_every_text_is_scored_with_its_own_photograph(photographs, asked):
    table = agreement.agreement(photographs, TEXTS)
    assert list(table.columns) == ["condition", "image", "rank", "text", "clipscore", "bertscore"]
    assert len(table) == 8
    assert list(table["rank"]) == [0, 1, 2, 0, 0, 0, 0, 0]
    expected = 100 * table["image"].astype(int) + table["text"].str.len()
    assert (table["clipscore"] == expected).all()
    captions = table["image"].map({"1": 2, "2": 1, "3": 1})
    assert np.allclose(table["bertscore"], captions + table["text"].str.len() / 100)


def test_no_pair_is_scored_twice(photographs, asked):
    agreement.agreement(photographs, TEXTS)
    assert len(asked.clip) == len(set(asked.clip)) == 5
    assert len(asked.bert) == len(set(asked.bert)) == 5
    assert set(asked.learnt) == {"a", "bb", "ccc", "dddd"}


def test_one_measure_alone_leaves_the_other_uncomputed(photographs, asked):
    table = agreement.agreement(photographs, TEXTS, measures=["clipscore"])
    assert "bertscore" not in table
    assert not asked.bert


@pytest.mark.parametrize(
    ("texts", "named", "message"),
    [
        ({"prompts": [["a"]]}, {}, "texts for 1 of 3 photographs"),
        ({"prompts": ["a", "b", "c"]}, {}, "the text 'a'; give a list"),
        (TEXTS, {"measures": ["bleu"]}, "choose from clipscore, bertscore"),
    ],
)
def test_wrong_texts_and_measures_are_refused(photographs, asked, texts, named, message):
    with pytest.raises(ValueError, match=message):
        agreement.agreement(photographs, texts, **named)


def test_scores_reduce_to_one_per_image_in_the_order_asked(photographs, asked):
    table = agreement.agreement(photographs, TEXTS)
    wide = agreement.per_image(table, "clipscore", ["3", "1", "2"], "max")
    assert list(wide.columns) == ["prompts", "captions"]
    assert wide["prompts"].tolist() == [303, 102, 202]
    assert agreement.per_image(table, "clipscore", ["1"])["prompts"].item() == pytest.approx(
        304 / 3
    )


def test_an_image_without_text_is_refused_by_name(photographs, asked):
    table = agreement.agreement(photographs, {**TEXTS, "nouns": [["a"], [], ["b"]]})
    with pytest.raises(ValueError, match="image 2 has no text of 'nouns'"):
        agreement.per_image(table, "clipscore", ["1", "2", "3"])


@pytest.mark.parametrize("n", [2, 3, 50])
def test_every_image_gets_another_one_and_each_is_given_once(n):
    partner = agreement.other_images(n, np.random.default_rng(n))
    assert sorted(partner) == list(range(n))
    assert (partner != np.arange(n)).all()


def test_one_image_has_no_other():
    with pytest.raises(TooFew, match=r"1 of the photographs .* take more"):
        agreement.other_images(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("tokens", "noun", "expected"),
    [
        ([" kitten", " cats"], "cat", True),
        ([" Cat"], "cats", True),
        ([" berry"], "berries", True),
        ([" catalogue", "s", " "], "cat", False),
    ],
)
def test_a_noun_is_found_in_either_number(tokens, noun, expected):
    assert agreement.writes_noun(tokens, noun) is expected
