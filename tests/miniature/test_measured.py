"""What was measured when the miniature was made: kept, read again, and still so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets import load_dataset
from mmn_utils.miniature import measured
from mmn_utils.miniature.quality.measurement import ALIKE, CONTROLS, LOOKS, Quality
from mmn_utils.miniature.world import load_world
from mmn_utils.models import load_model
from mmn_utils.presets import data_path

WEIGHTS = {"trained": "0123456789abcdef", LOOKS: "0123456789abcdef"}


def neurons(units: list[tuple[str, int, int]]) -> pd.DataFrame:
    """Make a neuron table of (image, layer, unit)."""
    table = pd.DataFrame(units, columns=["image", "layer", "unit"])
    return table.assign(target="horse", token=7, patch=3, score=1 / 3)


@pytest.fixture
def found() -> Quality:
    """Make up a quality of two scenes, with an empty caption and what has no value."""
    rows = {
        "image": ["007", "8"],
        "caption": ["a horse", ""],
        "noun": ["horse", ""],
        "right": [True, False],
        "recall": [0.5, 0.0],
        "precision": [1.0, np.nan],
        "background": [True, True],
        "twice": [False, False],
    }
    units = pd.DataFrame(
        {"image": ["007"], "noun": ["horse"], "probability": [1 / 3], "iou_top": [np.nan]}
    )
    tops = neurons([("007", 0, 5), ("007", 2, 1)])
    patches = pd.DataFrame({"image": ["007", "8"], "patches": [4, 0], "named": [1, 0]})
    captions = {"trained": pd.DataFrame(rows), LOOKS: pd.DataFrame(rows)}
    return Quality(captions, units, {"max": tops, "sum": tops}, patches.assign(random=0), 6)


def test_what_is_kept_is_read(found, tmp_path):
    measured.keep(found, tmp_path, WEIGHTS, seed=3)
    read, seed = measured.read(tmp_path, WEIGHTS)
    assert (seed, read.layers) == (3, 6)
    for name in found.captions:
        pd.testing.assert_frame_equal(read.captions[name], found.captions[name])
    for rank in found.tops:
        columns = list(found.tops[rank])
        pd.testing.assert_frame_equal(read.tops[rank][columns], found.tops[rank], rtol=1e-8)
    pd.testing.assert_frame_equal(read.units, found.units, rtol=1e-8)
    pd.testing.assert_frame_equal(read.patches, found.patches)
    assert measured.compare(found, read)["same"].eq(1).all()


def test_the_same_numbers_are_the_same_bytes(found, tmp_path):
    for name in ("one", "two"):
        measured.keep(found, tmp_path / name, WEIGHTS, seed=0)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_other_weights_and_no_measurements_are_refused(found, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"measured"):
        measured.read(tmp_path, WEIGHTS)
    measured.keep(found, tmp_path, WEIGHTS, seed=0)
    with pytest.raises(ValueError, match=r"weights 0123456789abcdef, not fedc.*measured"):
        measured.read(tmp_path, {"trained": "fedc"})
    with pytest.raises(ValueError, match="None"):
        measured.read(tmp_path, {"another": "fedc"})


def test_what_differs_is_counted(found):
    other = Quality(
        {
            name: table.assign(caption=["a horse", "a dog"])
            for name, table in found.captions.items()
        },
        found.units.assign(probability=0.34),
        {"max": found.tops["max"], "sum": neurons([("007", 0, 5), ("007", 2, 2)])},
        found.patches.head(1),
        6,
    )
    compared = measured.compare(found, other).set_index("what")
    assert compared.loc["captions, trained", "same"] == 0.5
    assert compared.loc["ablation, masks, words of units", "same"] == 0
    assert compared.loc["top units, by max", "same"] == 1
    assert compared.loc["top units, by sum", "same"] == 0
    assert tuple(compared.loc["patches near a word"]) == (1, 1)


def test_what_ships_was_measured_on_the_weights_that_ship():
    """Two scenes measured again say what is stored; on another processor nearly so."""
    model, world = load_model("miniature"), load_world(data_path("miniature", "concepts.yaml"))
    dataset = load_dataset("miniature")
    others = {name: (load_model(path), dataset) for name, path in CONTROLS.items()}
    others |= measured.strangers(model, world)
    weights = {name: other.revision for name, (other, _) in others.items()}
    kept, seed = measured.read(
        data_path("miniature", "quality"), {"trained": model.revision, **weights}
    )
    assert len(kept.captions["trained"]) >= 500
    held_out = [*kept.captions[LOOKS]["image"], *kept.captions[ALIKE]["image"]]
    assert sorted(held_out) == sorted(load_dataset("miniature/looks").ids)
    assert len(kept.units) >= 0.95 * len(kept.captions["trained"])
    again = measured.again(kept, model, world, others, dataset, 4, seed)
    compared = measured.compare(kept, again)
    assert compared["scenes"].eq(4).all()
    assert compared["same"].ge(0.5).all()
    both = kept.units.merge(again.units, on="image", suffixes=("", "_again"))
    np.testing.assert_allclose(both["probability_again"], both["probability"], atol=0.01)
