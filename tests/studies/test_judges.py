"""Which judges a notebook's texts have: a CLIP only where one knows the pictures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmn_utils.datasets import Words
from mmn_utils.studies import judges
from mmn_utils.studies.judges import find_judges

CAPTIONS = "no photograph has a caption"


def data(name: str, captions: bool = True) -> SimpleNamespace:
    lacks = {"captions": "" if captions else CAPTIONS}
    return SimpleNamespace(name=name, words=Words(), lacks=lacks.__getitem__)


@pytest.fixture
def loaded(monkeypatch) -> list:
    """What CLIPs are loaded, none of them read from the disk."""
    asked = []

    def clip_embeddings(clip):
        asked.append(clip)
        if clip == "nowhere":
            raise FileNotFoundError("no CLIP at nowhere")
        return f"CLIP {clip}"

    monkeypatch.setattr(judges, "clip_embeddings", clip_embeddings)
    return asked


@pytest.mark.parametrize("name", ["miniature", "miniature/looks"])
def test_the_miniatures_scenes_have_its_own_clip(loaded, name):
    found = find_judges("", "", data(name))
    assert (found.clip, found.encoder, found.missing) == ("CLIP None", None, {})
    assert found.measures == ("bertscore", "clipscore")


@pytest.mark.parametrize("name", ["folder", "coco_val2017", "stamps"])
def test_other_pictures_have_none_unless_one_is_given(loaded, name):
    found = find_judges("", "", data(name))
    assert found.clip is None
    assert set(found.missing) == {"clipscore"}
    assert repr(name) in found.missing["clipscore"]
    assert "by the parameter clip" in found.missing["clipscore"]
    assert found.measures == ("bertscore",)
    assert not loaded, "a CLIP that judges nothing is not loaded"
    assert find_judges("openai/some", "", data(name)).clip == "CLIP openai/some"


@pytest.mark.parametrize("name", ["miniature", "folder"])
def test_none_is_no_clip_anywhere(loaded, name):
    found = find_judges("none", "roberta-large", data(name, captions=False))
    assert (found.clip, found.encoder, found.measures) == (None, "roberta-large", ())
    assert found.missing == {
        "clipscore": "clip = 'none' asks for no CLIPScore",
        "bertscore": CAPTIONS,
    }
    assert not loaded


def test_a_clip_that_is_not_there_is_refused_with_both_remedies(loaded):
    with pytest.raises(FileNotFoundError, match="no CLIP at nowhere; clip = 'none' does without"):
        find_judges("nowhere", "", data("folder"))


def test_texts_are_scored_by_the_measures_that_there_are(loaded, monkeypatch):
    asked = []
    monkeypatch.setattr(judges, "agreement", lambda *given, **named: asked.append((given, named)))
    texts = {"captions": [["a dog"]]}
    find_judges("none", "mini", data("folder")).score(["picture"], texts)
    find_judges("none", "", data("folder")).score(["picture"], texts, ["clipscore"])
    find_judges("", "", data("miniature")).score(["picture"], texts, ["clipscore"])
    assert [given for given, _ in asked] == [(["picture"], texts)] * 3
    assert [named for _, named in asked] == [
        {"clip": None, "encoder": "mini", "measures": ["bertscore"]},
        {"clip": None, "encoder": None, "measures": []},
        {"clip": "CLIP None", "encoder": None, "measures": ["clipscore"]},
    ]
