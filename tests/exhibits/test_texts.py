"""The words of exhibits: filled templates, computed verdicts, errors that name what is missing."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mmn_utils.exhibits.ledger import claims
from mmn_utils.exhibits.saving import Run
from mmn_utils.exhibits.texts import compiled, load_texts, render
from tests.exhibits.samples import TABLE, draw

TEXTS = """\
A-fig-1:
  caption: >-
    Over {{ n }} photographs
    of {{ system.name }}, seed {{ seed }}.
  claims:
    A-fig-6-top:
      test: mean loss at k = {{ most }}, over photographs; above {{ floor }}
      rows: k == {{ most }}
      value: mean(1 - top)
      gap: difference(random, top)
      holds: low > floor and gap.low > 0
  reading: |-
    It loses {{ estimate("A-fig-6-top") | fmt(".2f") }} of {{ n }};
    that it is 80 % {{ says("A-fig-6-top") }}{% if like("A-fig-6-top") == "no" %}, no{% endif %}.
    The paper: {{ paper("A-fig-6-top").printed }}.

    A second paragraph.
A-table-1:
  caption: A table.
"""
ROWS = pd.DataFrame(
    {
        "image": [f"{i:03d}" for i in range(40) for _ in (0, 50)],
        "k": [0, 50] * 40,
        "top": [x for i in range(40) for x in (1.0, 0.5 + 0.005 * i)],
        "random": [x for i in range(40) for x in (1.0, 1.0 + 0.001 * i)],
    }
)


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


def test_an_exhibit_is_captioned_judged_and_read_out_from_its_rows(run):
    shown = run.save_figure("A-fig-1", draw(), ROWS, n=40, most=50, floor=0.25)
    record = json.loads((run.folder / "A-fig-1.json").read_text())
    assert record["caption"] == "Over 40 photographs of tiny, seed 3."
    assert record["facts"] == {"most": 50, "floor": 0.25}
    assert shown._repr_mimebundle_()["image/png"] == (run.folder / "A-fig-1.png").read_bytes()
    row = claims(run).set_index("id").loc["A-fig-6-top"]
    assert row["test"] == "mean loss at k = 50, over photographs; above 0.25"
    assert (row["holds"], row["stability"], row["n"]) == ("yes", 1.0, 40)
    assert row["value"] == pytest.approx(0.4025)
    assert row["ratio"] == pytest.approx(0.4025 / 0.8, abs=1e-4)
    said = str(run.say("A-fig-1"))
    assert said.startswith(f"It loses 0.40 [{row['ci_low']:.2f}, {row['ci_high']:.2f}] of 40;")
    assert "that it is 80 % holds, no.\nThe paper: 80 %." in said
    assert "mean loss at k = 50" in run.claims().markdown


@pytest.mark.parametrize(
    ("floor", "word"), [(0.25, "yes"), (0.6, "no"), (0.39, "open")], ids=["yes", "no", "open"]
)
def test_verdicts_follow_the_rows(run, floor, word):
    run.save_figure("A-fig-1", draw(), ROWS, n=40, most=50, floor=floor)
    assert claims(run).set_index("id").loc["A-fig-6-top", "holds"] == word


def test_rows_without_a_value_are_not_tested(run):
    run.save_figure("A-fig-1", draw(), ROWS.assign(top=np.nan), "c", most=50, floor=0.25)
    row = claims(run).set_index("id").loc["A-fig-6-top"]
    assert (row["holds"], row["like_paper"]) == ("not tested", "not tested")


def test_a_table_shows_itself(run):
    shown = run.save_table("A-table-1", TABLE)
    assert shown._repr_mimebundle_()["text/markdown"] == (run.folder / "A-table-1.md").read_text()


def test_what_is_missing_is_named_before_anything_is_written(run):
    facts = {"most": 50, "floor": 0.0}
    with pytest.raises(ValueError, match="caption of A-fig-1: 'n' is undefined"):
        run.save_figure("A-fig-1", draw(), ROWS, **facts)
    with pytest.raises(ValueError, match="A-fig-6-top: random is no column"):
        run.save_figure("A-fig-1", draw(), ROWS[["image", "k", "top"]], n=40, **facts)
    with pytest.raises(ValueError, match="cannot be recorded"):
        run.save_figure("A-fig-1", draw(), ROWS, n=40, most=50, floor=np.array([0.1]))
    with pytest.raises(ValueError, match="A-table-1 has no reading"):
        run.say("A-table-1")
    with pytest.raises(ValueError, match="'A-fig-9' is not in the texts"):
        run.say("A-fig-9")
    with pytest.raises(ValueError, match="has no verdict yet; save its exhibit before"):
        run._judged("A-fig-1-low")
    assert not list(run.folder.glob("*"))


def test_a_fact_that_a_claim_lacks_is_named(run):
    with pytest.raises(ValueError, match="A-fig-6-top: floor is no column and no fact"):
        run.save_figure("A-fig-1", draw(), ROWS, n=40, most=50)


def test_misspelt_keys_of_a_text_are_refused(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "n.yaml").write_text("A-fig-1:\n  captoin: x\n")
    with pytest.raises(ValueError, match="captoin"):
        load_texts("n", tmp_path / "exhibits.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("wide: [image, k]", "index, columns and values"),
        ("wide: [image, k, top]\n      case: image", "and no case"),
        ("rows: 3", "must be text"),
        ("needs: clip", "choose from clipscore, bertscore"),
    ],
)
def test_a_claim_in_another_form_is_refused(tmp_path, change, message):
    (tmp_path / "texts").mkdir()
    entry = f"test: t\n      value: mean(x)\n      holds: low > 0\n      {change}\n"
    text = f"A-fig-1:\n  claims:\n    A-fig-1-x:\n      {entry}"
    (tmp_path / "texts" / "n.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_texts("n", tmp_path / "exhibits.yaml")


def test_rules_are_expressions_over_what_was_measured():
    facts = {"value": np.float64(0.5), "low": 0.4, "high": 0.6}
    assert compiled("low <= 0.6 and high >= 0.4")(**facts)
    assert not compiled("value > 1")(**facts)
    assert compiled("none")(**facts) is None
    with pytest.raises(ValueError, match="missing"):
        compiled("absent")(**facts)
    with pytest.raises(ValueError, match="'value >'"):
        compiled("value >")


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
