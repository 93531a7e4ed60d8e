"""The papers' own numbers, and what they claim: well formed, and as their numbers have it."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import yaml

from mmn_utils.datasets.published import (
    OURS,
    SYSTEMS,
    PublishedClaim,
    published,
    published_claim,
    published_claims,
    read_claims,
)
from mmn_utils.exhibits.entries import load_exhibits
from mmn_utils.presets import NOTEBOOKS, data_path

A_SECTIONS = {"1", "2.1", "2.2", "3.1", "3.2", "3.3", "S.1", "S.2", "S.3", "S.4", "S.5", "S.6"}
B_SECTIONS = {"1", "2.1", "2.2", "2.3", "2.4", "3.1", "3.2", "3.3.1", "3.3.2", "3.3.3", "3.3.4",
              "3.4", "3.5"}  # fmt: skip


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
    files = {path.stem for path in data_path("golden").glob("*.csv")}
    assert files - {"ablation_captions", "ablation_fractions", "claims"} <= set(load_exhibits())


def test_a_golden_table_says_which_captions_still_name_their_noun():
    table = published("A-table-S3")
    whole = table[table["ablated"] == 0]
    assert (whole[["noun_multimodal", "noun_interpretable", "noun_random"]] == "yes").all(None)
    for condition in ("multimodal", "interpretable", "random"):
        same = table[f"bertscore_{condition}"] == 1
        assert (table.loc[same, f"noun_{condition}"] == "yes").all()


# --- claims -----------------------------------------------------------------------------------


def name(claim: PublishedClaim) -> str:
    return " ".join(filter(None, (claim.id, claim.system)))


@pytest.fixture(params=published_claims(), ids=name)
def claim(request) -> PublishedClaim:
    return request.param


def test_every_claim_stands_somewhere_in_its_paper(claim):
    if claim.where == OURS:
        return
    exhibits = {entry.replace("-fig-S", "-figure S.").replace("-table-S", "-table S.")
                .replace("-fig-", "-figure ").replace("-table-", "-table ")
                for entry in load_exhibits()}  # fmt: skip
    paper, sections = claim.id[0], A_SECTIONS if claim.id[0] == "A" else B_SECTIONS
    for place in claim.where.split("; "):
        kind, _, rest = place.partition(" ")
        if kind == "section":
            assert rest in sections, place
        elif kind != "abstract":
            assert f"{paper}-{place}" in exhibits, place


def test_ids_name_an_exhibit_that_the_claim_stands_in(claim):
    found = re.match(r"[AB]-(fig|table)-(S?)(\d+)-", claim.id)
    # Table 1 is of interpretable units, and how many units are is said beside it.
    if found is None or claim.where == OURS or claim.id == "A-table-1-interpretable":
        return
    kind, supplement, count = found.groups()
    place = f"{'figure' if kind == 'fig' else kind} {'S.' if supplement else ''}{count}"
    assert place in claim.where.split("; ")


def test_ours_are_all_of_paper_c_and_what_the_papers_do_not_measure():
    ours = {one.id for one in published_claims() if one.where == OURS}
    assert {id for id in ours if not id.startswith("C-")} == {
        "B-fig-4-unrelated",
        "B-table-cost-memory",
    }
    assert {one.id for one in published_claims() if one.id.startswith("C-")} <= ours


def test_readings_fit_their_values(claim):
    assert (claim.reading == "") == (claim.value is None)
    if claim.reading == "all":
        assert claim.value in (0, 1)
    if claim.shown == "figure" and claim.value is None:
        assert "only" in claim.printed


def test_ids_are_unique_and_systems_complete():
    assert max(Counter((one.id, one.system) for one in published_claims()).values()) == 1
    systems = {one.id: set() for one in published_claims()}
    for one in published_claims():
        systems[one.id].add(one.system)
    assert all(found in ({""}, set(SYSTEMS)) for found in systems.values())
    # where the figure is the same for all, one row is enough
    for id, found in systems.items():
        if found != {""}:
            values = {(one.value, one.printed) for one in map(published_claim, [id] * 3, SYSTEMS)}
            assert len(values) > 1, id


def test_every_claim_of_a_notebook_is_in_the_file():
    known = {one.id for one in published_claims()}
    asked = set()
    for path in sorted((NOTEBOOKS / "texts").glob("*.yaml")):
        for exhibit, texts in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            if exhibit != "C-table-quality":  # the miniature's requirements are no claims
                asked |= set((texts or {}).get("claims") or ())
    assert {id.removesuffix("-gate") for id in asked} <= known
    assert len(asked) > 50


def test_a_claim_is_found_by_its_id_and_read_for_both_activations():
    found = published_claim("A-fig-6-top")
    assert (found.value, found.reading, found.shown) == (0.8, "exact", "text")
    assert published_claim("A-fig-6-top", "LLaVA") is found
    gate = published_claim("B-table-4-random-gate", "InstructBLIP")
    assert gate is published_claim("B-table-4-random", "InstructBLIP")
    assert (gate.value, gate.system) == (0.0045, "InstructBLIP")
    assert published_claim("B-fig-2-higher").value is None
    with pytest.raises(AttributeError):
        found.value = 1.0


def test_an_unknown_claim_is_named_with_those_that_are_near():
    with pytest.raises(ValueError, match=r"'A-fig-6-tops'.*did you mean A-fig-6-top"):
        published_claim("A-fig-6-tops")
    with pytest.raises(ValueError, match=r"'zzz' in data/golden/claims.csv: enter it there$"):
        published_claim("zzz")


@pytest.mark.parametrize("system", [None, "", "GPT-J", "llava"])
def test_a_claim_that_depends_on_the_system_asks_for_a_known_one(system):
    with pytest.raises(ValueError, match=r"B-table-3-bleurt.*LLaVA, InstructBLIP, mPLUG-Owl2"):
        published_claim("B-table-3-bleurt", system)


GOOD = {"id": "A-fig-6-top", "system": "", "statement": "It falls.", "where": "figure 6",
        "shown": "text", "printed": "80 %", "value": "0.8", "reading": "exact", "low": "",
        "high": ""}  # fmt: skip


def read(folder, *rows: dict[str, str]) -> tuple[PublishedClaim, ...]:
    path = folder / "claims.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return read_claims(path)


def test_a_good_row_is_read(tmp_path):
    (found,) = read(tmp_path, GOOD)
    assert found == PublishedClaim(**{**GOOD, "value": 0.8, "low": None, "high": None})
    few = read(tmp_path, {**GOOD, "low": ".6", "high": ".9"})[0]
    assert (few.low, few.high) == (0.6, 0.9)
    assert read(tmp_path, {**GOOD, "value": "", "reading": ""})[0].value is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "fig-6-top"}, "begin with its paper"),
        ({"id": "A-fig-6-top-gate"}, "not end in -gate"),
        ({"system": "GPT-J"}, "must be one of LLaVA"),
        ({"statement": ""}, "full stop"),
        ({"statement": "It falls"}, "full stop"),
        ({"where": ""}, "must name sections"),
        ({"where": "page 4"}, "must name sections"),
        ({"where": "figure 6; "}, "must name sections"),
        ({"where": "ours"}, "shown nowhere"),
        ({"shown": "prose"}, "must be one of text"),
        ({"printed": ""}, "what stands there"),
        ({"value": "80 %"}, "finite number"),
        ({"value": "nan"}, "finite number"),
        ({"value": "inf"}, "finite number"),
        ({"value": ""}, "a reading a value"),
        ({"reading": ""}, "a value needs a reading"),
        ({"reading": "about"}, "must be one of exact"),
        ({"reading": "all"}, "0 or 1"),
        ({"printed": "80 % "}, "blank"),
        ({"low": "0.6"}, "two ends"),
        ({"low": "0.82", "high": "0.9"}, "around"),
        ({"low": "0.6", "high": "0.9", "reading": "above"}, "exact"),
    ],
)
def test_a_row_that_is_not_as_it_has_to_be_is_named(tmp_path, change, said):
    row = {**GOOD, **change}
    with pytest.raises(ValueError, match=re.escape(row["id"])) as raised:
        read(tmp_path, row)
    assert said in str(raised.value)


def test_rows_that_do_not_fit_together_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"'A-fig-6-top'.*2 times"):
        read(tmp_path, GOOD, GOOD)
    with pytest.raises(ValueError, match=r"'A-fig-6-top'.*one for each system"):
        read(tmp_path, {**GOOD, "system": "LLaVA"})
    with pytest.raises(ValueError, match=r"'A-fig-6-top'.*one for each system"):
        read(tmp_path, GOOD, *({**GOOD, "system": system} for system in SYSTEMS))
    with pytest.raises(ValueError, match="columns"):
        read(tmp_path, {key: cell for key, cell in GOOD.items() if key != "reading"})
