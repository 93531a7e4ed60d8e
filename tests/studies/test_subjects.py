"""The shared first half: captions, targets and top neurons, computed once and for good."""

from __future__ import annotations

from dataclasses import replace as changed

import pandas as pd
import pytest

from mmn_utils.datasets import Photograph
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.captions import Caption, caption_images
from mmn_utils.neurons.targets import Target, caption_targets
from mmn_utils.studies import subjects as study
from tests.studies.scenes import subjects_of_texts
from tests.tiny import tiny_images, tiny_limber, tiny_tokenizer

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model():
    return tiny_limber()


@pytest.fixture
def photographs(tmp_path):
    """Return four photographs in files."""
    found = []
    for i, image in enumerate(tiny_images(4)):
        path = tmp_path / f"{i}.png"
        image.save(path)
        found.append(Photograph(id=f"scene-{i}", path=path))
    return found


@pytest.fixture
def chosen(model, photographs):
    """Return subjects with captions of the test's own, the noun at the third token."""
    ids = tuple(tiny_tokenizer().encode(" a red horse near the house"))
    captions = [Caption(tiny_tokenizer().decode(ids).strip(), ids)] * len(photographs)
    every = [[Target(p.id, "horse", ids[2], ids[:2])] for p in photographs]
    return study.Subjects(photographs, captions, every)


def refuse(*arguments, **named):
    raise AssertionError("computed again what was cached")


# --- captions and subjects -------------------------------------------------------------


def test_captions_are_those_of_the_model_and_are_computed_once(model, photographs, monkeypatch):
    expected = caption_images(model, [p.open() for p in photographs], 5)
    assert study.captions_of(model, photographs, max_new_tokens=5, **QUIET) == expected
    monkeypatch.setattr(study, "caption_images", refuse)
    assert study.captions_of(model, photographs, max_new_tokens=5, **QUIET) == expected
    assert study.captions_of(model, photographs[::-1], max_new_tokens=5, **QUIET) == expected[::-1]


def test_a_larger_sample_computes_only_what_is_new(model, photographs, monkeypatch):
    study.captions_of(model, photographs[:3], max_new_tokens=5, **QUIET)
    seen = []
    monkeypatch.setattr(
        study,
        "caption_images",
        lambda model, images, *rest: (
            seen.append(len(images)) or caption_images(model, images, *rest)
        ),
    )
    study.captions_of(model, photographs, max_new_tokens=5, **QUIET)
    assert seen == [1]


def test_a_shorter_caption_is_the_beginning_of_one_that_is_there(model, photographs, monkeypatch):
    expected = {n: caption_images(model, [p.open() for p in photographs], n) for n in (1, 4, 20)}
    study.captions_of(model, photographs, **QUIET)
    monkeypatch.setattr(study, "caption_images", refuse)
    for length, captions in expected.items():
        assert study.captions_of(model, photographs, max_new_tokens=length, **QUIET) == captions
    with pytest.raises(ValueError, match="at least one token"):
        study.captions_of(model, photographs, max_new_tokens=0, **QUIET)


@pytest.mark.parametrize("change", ["length", "picture", "model"])
def test_what_decides_a_caption_is_in_its_key(model, photographs, monkeypatch, change):
    study.captions_of(model, photographs, max_new_tokens=5, **QUIET)
    length = study.LONGEST + 1 if change == "length" else 5
    if change == "picture":
        tiny_images(1, seed=9)[0].save(photographs[0].path)
    if change == "model":
        model = tiny_limber(seed=1)
    monkeypatch.setattr(study, "caption_images", refuse)
    with pytest.raises(AssertionError, match="computed again"):
        study.captions_of(model, photographs, max_new_tokens=length, **QUIET)


def captioned(monkeypatch, *texts):
    """Let the captions be these texts."""
    coded = [tuple(tiny_tokenizer().encode(f" {text}")) for text in texts]
    captions = [Caption(text, ids) for text, ids in zip(texts, coded, strict=True)]
    monkeypatch.setattr(study, "captions_of", lambda *arguments, **named: captions)
    return captions


def test_subjects_hold_each_first_noun_and_say_who_was_left_out(model, photographs, monkeypatch):
    texts = ("a red horse", "of the and", "two dogs and a cat", "a boat")
    captions = captioned(monkeypatch, *texts)
    found = study.subjects(model, photographs)
    assert found.ids == ["scene-0", "scene-2", "scene-3"]
    assert [target.noun for target in found.targets] == ["horse", "dogs", "boat"]
    assert [target.noun for target in found.all_targets] == ["horse", "dogs", "cat", "boat"]
    assert [caption.text for caption in found.captions] == [texts[0], texts[2], texts[3]]
    for image, caption, targets in zip(found.ids, found.captions, found.every, strict=True):
        assert targets == caption_targets(model, image, caption)
        assert found.texts[image] == caption.text
        for target in targets:
            assert caption.ids[len(target.prefix)] == target.token
    assert list(found.skipped) == ["scene-1"]
    assert captions[1].text in found.skipped["scene-1"]


def test_no_noun_at_all_is_an_error(model, photographs, monkeypatch):
    captioned(monkeypatch, *["of the and"] * 4)
    with pytest.raises(ValueError, match="none of the 4 captions has a noun"):
        study.subjects(model, photographs)


def test_subjects_can_be_selected_and_laid_out(chosen):
    two = chosen.select(["scene-3", "scene-0"])
    assert two.ids == ["scene-3", "scene-0"]
    assert [target.image for target in two.targets] == two.ids
    table = two.frame()
    assert list(table.columns) == ["image", "caption", "noun", "step", "token"]
    assert list(table["step"]) == [2, 2]
    with pytest.raises(ValueError, match="'nobody' is not among the 4 subjects"):
        chosen.select(["nobody"])


def test_a_skipped_subject_is_refused_with_its_reason(chosen):
    some = changed(chosen, skipped={"scene-9": "no noun in the caption 'of'"})
    with pytest.raises(ValueError, match="no noun in the caption 'of'"):
        some.select(["scene-9"])


@pytest.mark.parametrize(("number", "message"), [(0, "at least one"), (2, "given twice")])
def test_photographs_are_some_and_each_once(model, photographs, number, message):
    with pytest.raises(ValueError, match=message):
        study.captions_of(model, photographs[:1] * number, **QUIET)


# --- top neurons -----------------------------------------------------------------------


@pytest.mark.parametrize("rank_by", ["max", "sum", "pair"])
def test_top_neurons_are_those_of_attribution(model, chosen, rank_by):
    images = [p.open() for p in chosen.photographs]
    expected = attribution(model, images, chosen.targets, k=7, rank_by=rank_by)
    found = study.top_neurons(model, chosen, k=7, rank_by=rank_by, batch_size=4, **QUIET)
    pd.testing.assert_frame_equal(found, expected)


def test_top_neurons_are_computed_once(model, chosen, monkeypatch):
    first = study.top_neurons(model, chosen, k=5, batch_size=3, **QUIET)
    summed = attribution(
        model, [p.open() for p in chosen.photographs], chosen.targets, k=4, rank_by="sum"
    )
    monkeypatch.setattr(study, "attributions", refuse)
    pd.testing.assert_frame_equal(study.top_neurons(model, chosen, k=5, **QUIET), first)
    fewer = study.top_neurons(model, chosen, k=3, **QUIET)
    pd.testing.assert_frame_equal(
        fewer, first.groupby("image", sort=False).head(3).reset_index(drop=True)
    )
    other = study.top_neurons(model, chosen, k=4, rank_by="sum", **QUIET)
    pd.testing.assert_frame_equal(other, summed)
    some = study.top_neurons(model, chosen.select(["scene-2"]), k=5, **QUIET)
    expected = first[first["image"] == "scene-2"].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, expected)


@pytest.mark.parametrize(
    "change",
    [{"k": study.DEPTH + 1}, {"target": "probability"}, {"rank_by": "pair"}, {"token": 1}],
)
def test_what_decides_the_top_neurons_is_in_their_key(model, chosen, monkeypatch, change):
    study.top_neurons(model, chosen, k=5, **QUIET)
    if "token" in change:
        chosen = changed(chosen, every=[[changed(t, **change)] for t in chosen.targets])
        change = {}
    monkeypatch.setattr(study, "attributions", refuse)
    with pytest.raises(AssertionError, match="computed again"):
        study.top_neurons(model, chosen, **{"k": 5, **change}, **QUIET)


def test_each_picture_is_opened_once_and_each_target_handed_out(tmp_path):
    some = subjects_of_texts(tiny_limber(), tmp_path)
    pictures, targets = some.opened()
    assert targets == some.all_targets
    assert len({id(p) for p in pictures}) == len(some) < len(pictures)
    assert pictures[0] is pictures[1]
    assert targets[0].image == "scene-0"
