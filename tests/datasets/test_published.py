"""The papers' own numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mmn_utils.datasets.published import published
from mmn_utils.exhibits.entries import load_exhibits
from mmn_utils.presets import data_path


def test_golden_table_s1_has_the_papers_rows_and_units():
    table = published("A-table-S1")
    assert len(table) == 140
    assert table["neuron"].nunique() == 108
    assert table.groupby("image").size().tolist() == [20] * 7
    tokens = [f"token_{i}" for i in range(1, 6)]
    assert (table.groupby("neuron")[tokens].nunique() == 1).all().all()
    first = table.iloc[0]
    assert (first["neuron"], first["patch"], first["score"]) == ("L7.u15772", 119, 0.0214)
    assert first["token_1"] == " animals"


def test_golden_tables_hold_the_papers_means():
    one = published("A-table-1").set_index("condition")
    assert one.loc["multimodal neurons"].tolist() == [0.3848, 23.43]
    two = published("A-table-2").set_index("measure")
    assert two.loc["CLIPScore"].tolist() == [19.22, 19.17, 23.62, 27.89]
    assert len(published("A-table-S2")) == 36
    assert published("A-table-S3").groupby("image", sort=False).size().max() <= 18


def test_golden_fractions_are_shares_of_all_units():
    table = pd.read_csv(data_path("golden", "ablation_fractions.csv"))
    assert table["ablated"].tolist() == [0, 50, 100, 200, 400, 800, 1600, 3200, 6400]
    np.testing.assert_allclose(table["fraction"], table["ablated"] / (28 * 16384), atol=1e-6)


def test_golden_files_belong_to_exhibits():
    files = {path.stem for path in data_path("golden").glob("*.csv")} - {"ablation_fractions"}
    assert files <= set(load_exhibits())
