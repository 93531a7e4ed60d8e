"""What the records say of the training: options as they were stored, speeds by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmn_utils.miniature import records
from mmn_utils.miniature.vision.recipe import Stage
from mmn_utils.presets import data_path

STAGES = (
    Stage("pixels", images=100, window=4, whole=40),
    Stage("features", images=50, window=4, whole=0),
)


def test_the_pace_is_by_the_speeds_through_windows_and_whole(tmp_path):
    curve = tmp_path / "vision.csv"
    curve.write_text(
        "stage,images,loss,images_per_second\n"
        "pixels,20,1,40\npixels,50,1,60\npixels,70,1,20\npixels,90,1,30\nfeatures,120,1,50\n"
    )
    assert records.pace(curve, STAGES) == 50 / 25
    assert np.isnan(records.pace(tmp_path / "none.csv", STAGES))


def test_options_are_those_that_were_stored(tmp_path):
    weights = {"weight": torch.zeros(1)}
    path = tmp_path / "projection.safetensors"
    save_file(weights, path, metadata={"training": json.dumps({"steps": 3})})
    assert records.projection_options(tmp_path) == {"steps": 3}
    save_file(weights, path, metadata={"training": "null"})
    with pytest.raises(ValueError, match="does not say how it was trained"):
        records.projection_options(tmp_path)


def test_what_ships_tells_how_it_was_trained():
    told = records.training(data_path("miniature"))
    assert told["grid"] == 14
    assert told["shown"] * told["projection"]["block"] ** 2 == told["grid"] ** 2
    assert told["pace"] > 1
    assert 0 < told["language"]["drop_other"] < told["language"]["drop_first"] < 1
