"""The words of exhibits: filled templates, computed verdicts, errors that name what is missing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmn_utils.exhibits.ledger import claims
from mmn_utils.exhibits.saving import Run
from mmn_utils.exhibits.texts import judge, load_texts, render
from mmn_utils.measures.estimates import Estimate
from tests.exhibits.samples import NUMBERS, TABLE, draw

LOSS = Estimate(0.86, 0.8, 0.9, 12)
TEXTS = """\
A-fig-1:
  caption: >-
    Over {{ n }} photographs
    of {{ system.name }}, seed {{ seed }}.
  claims:
    A-fig-1-top:
      claim: The top takes {{ share | fmt(".0%") }}
      paper_value: 0.8
      holds: value >= share and low > floor
    C-own:
      claim: Ours
      paper_value: "> 0"
      holds: low > 0 if n > 20 else none
  reading: |-
    It loses {{ loss | fmt(".2f") }} of {{ n }};
    that it is 80 % {{ says("A-fig-1-top") }}{% if verdict("C-own") == "no" %}, no{% endif %}.

    A second paragraph.
A-table-1:
  caption: A table.
"""


@pytest.fixture
def run(tmp_path) -> Run:
    entries = [
        {"id": id, "kind": kind, "notebook": "02_own", "paper": "A", "title": "t", "claim": "c"}
        for id, kind in (("A-fig-1", "figure"), ("A-table-1", "table"))
    ]
    (tmp_path / "exhibits.yaml").write_text(json.dumps(entries))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "02_own.yaml").write_text(TEXTS)
    return Run("test", "02_own", {"seed": 3}, model={"name": "tiny"}, seed=3, root=tmp_path / "f",
               exhibits=tmp_path / "exhibits.yaml")  # fmt: skip


def test_an_exhibit_is_captioned_judged_and_read_out_from_its_facts(run):
    shown = run.save_figure("A-fig-1", draw(), NUMBERS, n=12)
    record = json.loads((run.folder / "A-fig-1.json").read_text())
    assert record["caption"] == "Over 12 photographs of tiny, seed 3."
    assert shown._repr_mimebundle_()["image/png"] == (run.folder / "A-fig-1.png").read_bytes()
    assert run.claim("A-fig-1-top", LOSS, share=0.8, floor=0.5) == "yes"
    assert run.claim("C-own", LOSS) == "not tested"
    said = str(run.say("A-fig-1", loss=LOSS))
    assert said == (
        "It loses 0.86 [0.80, 0.90] of 12;\nthat it is 80 % holds.\n\nA second paragraph."
    )
    row = claims(run).set_index("id").loc["A-fig-1-top"]
    assert row["claim"] == "The top takes 80%"
    assert (row["value"], row["ci_low"], row["n"], row["exhibit"]) == (0.86, 0.8, 12, "A-fig-1")
    assert "The top takes 80%" in run.claims().markdown


def test_verdicts_follow_the_numbers(run):
    assert run.claim("A-fig-1-top", LOSS, share=0.9, floor=0.5) == "no"
    assert run.claim("A-fig-1-top", LOSS, share=0.8, floor=0.85) == "no"
    assert run.claim("A-fig-1-top", None, share=0.8) == "not tested"
    assert run.claim("A-fig-1-top", 0.9, ci=(0.8, 1.0), n=7, share=0.8, floor=0.7) == "yes"
    row = claims(run).set_index("id").loc["A-fig-1-top"]
    assert (row["value"], row["ci_low"], row["ci_high"], row["n"]) == (0.9, 0.8, 1.0, 7)
    assert run.claim("C-own", Estimate(0.1, -0.1, 0.3, 30)) == "no"


def test_a_table_shows_itself(run):
    shown = run.save_table("A-table-1", TABLE)
    assert shown._repr_mimebundle_()["text/markdown"] == (run.folder / "A-table-1.md").read_text()


def test_what_is_missing_is_named(run):
    with pytest.raises(ValueError, match="caption of A-fig-1: 'n' is undefined"):
        run.save_figure("A-fig-1", draw(), NUMBERS)
    with pytest.raises(ValueError, match="'share' is undefined"):
        run.claim("A-fig-1-top", LOSS)
    with pytest.raises(ValueError, match="'A-fig-1-low' is not in the texts of 02_own"):
        run.claim("A-fig-1-low", LOSS)
    with pytest.raises(ValueError, match="A-table-1 has no reading"):
        run.say("A-table-1")
    with pytest.raises(ValueError, match="'A-fig-9' is not in the texts"):
        run.say("A-fig-9")
    assert not list(run.folder.glob("A-*"))


def test_misspelt_keys_of_a_text_are_refused(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "n.yaml").write_text("A-fig-1:\n  captoin: x\n")
    with pytest.raises(ValueError, match="captoin"):
        load_texts("n", tmp_path / "exhibits.yaml")


def test_rules_are_expressions_over_what_was_measured():
    facts = {"value": np.float64(0.5), "low": 0.4, "high": 0.6}
    assert judge("low <= 0.6 and high >= 0.4", facts) is True
    assert judge("value > 1", facts) is False
    assert judge("none", facts) is None
    with pytest.raises(ValueError, match="missing"):
        judge("absent", facts)
    with pytest.raises(ValueError, match="holds = 'value >'"):
        judge("value >", facts)


def test_templates_keep_paragraphs_and_fold_blanks():
    assert render("a   {{ x|fmt('.1f') }}\n\n\n b", {"x": 1.25}) == "a 1.2\n\nb"


def test_what_was_not_measured_has_words_and_frames_are_printed():
    template = "{{ x | fmt('.0%', 'unknown') }}, {{ y | fmt('.0%', 'unknown') }}"
    assert render(template, {"x": np.nan, "y": 0.25}) == "unknown, 25%"
    assert render(template, {"x": 0.0, "y": None}) == "0%, unknown"
    assert render("{{ t | table }}", {"t": TABLE[["n"]]}) == "| n |\n| ---: |\n| 3 |\n| 4 |"


def test_a_fact_that_cannot_be_formatted_is_an_error_of_its_text():
    with pytest.raises(ValueError, match="caption of A-fig-1: unsupported format"):
        render("{{ x | fmt('.0%') }}", {"x": [1]}, "caption of A-fig-1")
