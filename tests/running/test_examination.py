"""The command that examines a model: what it prints, its status, and errors in one line."""

from __future__ import annotations

import json

import pytest

from mmn_utils.__main__ import main
from mmn_utils.models import doctor as clinic
from mmn_utils.running.examination import examine
from tests.models.auto.families import llava
from tests.models.auto.scaled import scaled
from tests.tiny import tiny_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save a tiny LLaVA, and a photograph beside it."""
    place = tmp_path_factory.mktemp("model")
    model, processor, _ = llava()
    model.save_pretrained(place)
    processor.save_pretrained(place)
    tiny_images(1)[0].save(place / "picture.png")
    return place


def test_a_sound_model_is_described(folder, capsys):
    assert main(["doctor", str(folder), "--picture", str(folder / "picture.png")]) == 0
    said = capsys.readouterr().out
    for line in ("class: LlavaForConditionalGeneration", "grid: 4 x 4", "heat maps: yes"):
        assert line in said
    assert all(f"  {check}" in said for check in clinic.CHECKS)
    assert said.count("passed, ") == len(clinic.CHECKS)


def test_programs_get_json(folder, capsys):
    assert main(["doctor", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["found"]["units"] == 48
    assert [row["check"] for row in found["checks"]] == list(clinic.CHECKS)
    assert found["healthy"] is True
    assert found["asked"]["editing"] == "yes"


def test_a_failed_check_is_the_status(folder, capsys, monkeypatch):
    monkeypatch.setitem(clinic.CHECKS, "no trace", lambda patient: (1.0, 0.0, "a hook stayed"))
    assert main(["doctor", str(folder)]) == 1
    assert "FAILED, 1.0e+00 of 0.0e+00: a hook stayed" in capsys.readouterr().out


WRONG = {
    "no command": (["operate"], "'operate' is no command"),
    "no name": (["doctor", "nobody"], "model = 'nobody' is neither"),
    "no picture": (["doctor", "FOLDER", "--picture", "absent.png"], "no photograph at absent.png"),
    "no such type": (["doctor", "FOLDER", "--dtype", "int9"], "dtype = 'int9'"),
    "not a picture": (["doctor", "FOLDER", "--picture", "FOLDER/config.json"], "cannot be read"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_errors_are_one_line(folder, capsys, name):
    arguments, message = WRONG[name]
    assert main([part.replace("FOLDER", str(folder)) for part in arguments]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said


def test_norms_factors_and_caps_are_told():
    found = examine(scaled("gemma4"), tiny_images(2)).found
    assert found["behind the MLPs"] == "post_feedforward_layernorm"
    assert found["factors"] == {"layers, whole": [0.45, 0.7]}
    assert found["soft cap of the logits"] == 3.0
