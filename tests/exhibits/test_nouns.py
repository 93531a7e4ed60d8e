"""Texts speak of a data set in its own nouns."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from mmn_utils.datasets import Words
from mmn_utils.exhibits.saving import Run

TEXTS = """\
counted:
  reading: "{{ n }} {{ pictures }}; each {{ picture }} has a {{ reference }}, all {{ references }}"
"""
SCENES = SimpleNamespace(name="some", words=Words("scene", "scenes", "caption", "captions"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "3 photographs; each photograph has a human caption, all human captions"),
        ("some", "3 photographs; each photograph has a human caption, all human captions"),
        (SCENES, "3 scenes; each scene has a caption, all captions"),
    ],
)
def test_the_nouns_of_the_data_set_are_facts(tmp_path, data, said):
    entry = {"id": "A-fig-1", "kind": "figure", "notebook": "02_own", "paper": "A"}
    entries = [{**entry, "title": "t", "claim": "c"}]
    (tmp_path / "exhibits.yaml").write_text(json.dumps(entries))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "02_own.yaml").write_text(TEXTS)
    run = Run("test", "02_own", {}, data=data, root=tmp_path, exhibits=tmp_path / "exhibits.yaml")
    assert str(run.say("counted", n=3)) == said
    assert str(run.say("counted", n=3, pictures="drawings")).startswith("3 drawings")
