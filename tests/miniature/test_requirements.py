"""Requirements: the list that is measured by, what is met of it, and the tables in print."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mmn_utils.exhibits.texts import load_texts, render
from mmn_utils.miniature import printed, requirements
from mmn_utils.miniature.quality.table import REQUIRED
from mmn_utils.miniature.systems import LIMBER, SYSTEMS, rows

CAPTIONS = pd.DataFrame({"image": ["1", "2"], "right": [True, False]})
TABLE = pd.DataFrame(
    [
        ("IoU, top over random", 2.0, 1.0, 3.0, 9, ">= 1.8", "yes"),
        ("naming the concept, top over random", 2.0, np.nan, np.nan, 9, ">= 5", "no"),
        ("layer with most top units", np.nan, np.nan, np.nan, 0, ">= 1", ""),
        ("IoU of top units", 0.25, 0.2, 0.3, 9, "", ""),
    ],
    columns=["measure", "value", "ci_low", "ci_high", "n", "required", "met"],
)


def test_requirements_are_no_claims():
    texts = load_texts("00_miniature")
    assert any(REQUIRED.values())
    assert [name for name, text in texts.items() if text.claims] == ["C-table-systems"]


def test_each_requirement_that_is_missed_has_its_reason():
    rows = [(name, 2.0, 1.0, 3.0, 9, text, "no") for name, text in REQUIRED.items() if text]
    table = pd.DataFrame(rows, columns=TABLE.columns)
    facts = {
        "system": SimpleNamespace(sizes=SimpleNamespace(layers=6, units=1024)),
        "world": SimpleNamespace(concepts=range(40)),
    }
    reading = load_texts("00_miniature")["in brief"].reading
    lines = render(reading, {**facts, **requirements.summary(table)}).splitlines()
    missed = [line for line in lines if line.startswith("- ")]
    assert len(missed) == len(rows)
    assert all("**not met**. *Why:* " in line for line in missed)
    said = render(reading, {**facts, **requirements.summary(TABLE)})
    assert "- IoU, top over random: 2, required >= 1.8: met." in said
    assert "no value on so few scenes, required >= 1: not tested." in said
    assert "is reached only in part" in said


def test_each_of_paper_bs_systems_has_its_claim():
    claims = load_texts("00_miniature")["C-table-systems"].claims
    assert set(claims) == {f"C-captions-{name.lower()}" for name in SYSTEMS if name != LIMBER}
    tested = {claim.value for claim in claims.values()}
    columns = [name for name in rows({LIMBER: CAPTIONS}).columns if name not in ("scene", "limber")]
    assert tested == {f"difference({column}, limber)" for column in columns}


def test_the_summary_sorts_by_verdict():
    summary = requirements.summary(TABLE)
    assert summary["met"] == ["IoU, top over random"]
    assert summary["missed"] == ["naming the concept, top over random"]
    assert (summary["untested"], len(summary["asked"])) == (1, 3)
    assert summary["value"]["IoU of top units"] == 0.25
    assert summary["n"]["IoU of top units"] == 9


@pytest.mark.parametrize(("verdicts", "reached"), [(["yes", "yes"], True), (["yes", ""], False)])
def test_the_heart_is_reached_when_all_of_it_is_met(verdicts, reached):
    table = TABLE.assign(met=["no", *verdicts, ""])
    assert requirements.summary(table)["heart"] is reached


SYSTEM_TABLE = pd.DataFrame(
    {
        "system": ["LiMBeR", "mPLUG-Owl2", "LLaVA"],
        "sees": "patches",
        "language_model": ["GPTJ", "Own", np.nan],
        "image_tokens": [196, 17, np.nan],
        "learns": "a map",
        "trained": [33024, 2130304, np.nan],
        "pairs": [33600, np.nan, np.nan],
        "first_noun": [0.75, 0.5, np.nan],
        "ci_low": [0.5, 0.25, np.nan],
        "ci_high": [1.0, 0.75, np.nan],
        "recall": [0.5, 0.25, np.nan],
        "more": [0.0, -0.25, np.nan],
        "scenes": [4, 4, 0],
    }
)


def test_systems_are_printed_with_words_for_what_is_not_there():
    table = printed.systems(SYSTEM_TABLE).set_index("system")
    assert table.loc["LiMBeR", "its parameters"] == "33,024"
    assert table.loc["LiMBeR", "95 % interval"] == "50.0% to 100.0%"
    assert table.loc["mPLUG-Owl2", "pairs"] == ""
    assert table.loc["LLaVA", ["first noun right", "image tokens"]].tolist() == ["not trained", ""]


def test_quality_is_printed_with_intervals_in_one_cell():
    table = printed.quality(TABLE)
    assert list(table["value"]) == ["2", "2", "", "0.25"]
    assert list(table["95 % interval"]) == ["1 to 3", "", "", "0.2 to 0.3"]
    same = printed.quality(TABLE.assign(ci_low=2.0, ci_high=2.0))
    assert set(same["95 % interval"]) == {"the same in every redraw"}


def test_colours_are_printed_a_row_an_encoder():
    probes = pd.DataFrame(
        {"encoder": ["untrained", "untrained", "trained", "trained"], "colours": ["own", "far"] * 2,
         "patch": [0.1, 0.2, 0.3, 0.4], "object": [0.5, 0.6, 0.7, 0.8]}
    )  # fmt: skip
    table = printed.colours(probes)
    assert list(table["encoder"]) == ["untrained", "trained"]
    assert list(table.columns[1:]) == ["patch, own", "patch, far", "object, own", "object, far"]
    assert table.iloc[1, 1:].tolist() == ["0.30", "0.40", "0.70", "0.80"]
    assert printed.colours(probes[:0]).empty
