"""Where the top units lie: variants beside what ships, text beside pictures."""

from __future__ import annotations

import pandas as pd
import pytest

from mmn_utils.miniature import depth, printed
from mmn_utils.miniature.text_probe import TextProbe

PROBE = TextProbe(
    documents=4,
    first_noun_correct=0.75,
    layer_share=(0.25, 0.5, 0.25),
    related_top=0.3,
    related_random=0.0,
    one_card=(0.1, 0.2, 0.3),
)
TOPS = {
    "max": pd.DataFrame({"image": ["a", "a", "b", "b"], "layer": [0, 2, 2, 2]}),
    "sum": pd.DataFrame({"image": ["a", "b"], "layer": [1, 1]}),
}


@pytest.fixture
def variants(tmp_path) -> pd.DataFrame:
    rows = [
        {"variant": name, "what_changed": "a change", "steps": 3, **PROBE.row()}
        for name in ("single words", "pairs")
    ]
    rows[0]["related_random"] = 0.1
    pd.DataFrame(rows).to_csv(tmp_path / "variants.csv", index=False)
    return depth.variants(tmp_path, PROBE)


def test_what_ships_comes_last(variants, tmp_path):
    assert list(variants["variant"]) == ["single words", "pairs", "shipped"]
    assert depth.layer_columns(variants) == ["layer_share_0", "layer_share_1", "layer_share_2"]
    alone = depth.variants(tmp_path / "none", PROBE)
    assert list(alone["variant"]) == ["shipped"]
    assert depth.layer_columns(alone) == depth.layer_columns(variants)


def test_shares_are_of_text_then_of_pictures(variants):
    shares = depth.shares(variants, TOPS, layers=3)
    assert shares.index.name == "what"
    assert list(shares.index[-2:]) == ["pictures: best patch", "pictures: sum of patches"]
    assert shares.loc["text: pairs"].tolist() == [0.25, 0.5, 0.25]
    assert shares.loc["pictures: best patch"].tolist() == [0.25, 0, 0.75]
    assert shares.loc["pictures: sum of patches"].tolist() == [0, 1, 0]


def test_the_summary_has_both_ends_and_both_peaks(variants, tmp_path):
    found = depth.summary(variants, depth.shares(variants, TOPS, layers=3))
    assert (found["first"]["variant"], found["last"]["variant"]) == ("single words", "pairs")
    assert found["shipped"]["related_top"] == 0.3
    assert (found["peak"], found["text_peak"]) == (2, 1)
    alone = depth.variants(tmp_path / "none", PROBE)
    found = depth.summary(alone, depth.shares(alone, TOPS, layers=3))
    assert found["first"] is found["last"] is None


def test_variants_are_printed_with_a_ratio_where_there_is_one(variants):
    table = printed.variants(variants)
    assert table["top units in layers 0, 1, …"][0] == "0.25 0.50 0.25"
    assert table["ratio"][0] == pytest.approx(3)
    assert table["ratio"].isna().tolist() == [False, True, True]
