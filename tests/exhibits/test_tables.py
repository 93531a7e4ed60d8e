"""Tables of means: ours beside the paper's."""

from __future__ import annotations

from mmn_utils.exhibits import tables
from mmn_utils.measures.estimates import Estimate

MEASURED = {
    "clipscore": {"random": Estimate(1.5, 1, 2, 9), "coco": Estimate(80.25, 79, 81, 9)},
    "bertscore": {"random": Estimate(0.25, 0.2, 0.3, 9), "coco": Estimate(0.5, 0.4, 0.6, 9)},
}
PRINTED = {"clipscore": {"random": 19.22, "coco": 27.89}, "bertscore": {"random": 0.3286}}
NAMES = {"coco": "Human nouns", "random": "Random"}


def test_texts_have_a_row_each_and_judges_stand_side_by_side():
    printed = {**PRINTED, "bertscore": {"random": 0.3286, "coco": 0.447}}
    table = tables.texts_by_judges(MEASURED, printed, NAMES)
    assert table.columns.tolist() == [
        "", "CLIPScore", "CLIPScore, paper", "BERTScore", "BERTScore, paper",
    ]  # fmt: skip
    first = ["Human nouns", "80.25 [79.00, 81.00]", "27.89", "0.5000 [0.4000, 0.6000]", "0.4470"]
    assert table.iloc[0].tolist() == first
    assert table.iloc[1].tolist()[-2:] == ["0.2500 [0.2000, 0.3000]", "0.3286"]


def test_judges_have_two_rows_each_and_what_the_paper_lacks_is_blank():
    table = tables.judges_by_texts(MEASURED, PRINTED, NAMES)
    assert table[""].tolist() == ["CLIPScore", "CLIPScore, paper", "BERTScore", "BERTScore, paper"]
    assert table["Human nouns"].tolist() == [
        "80.25 [79.00, 81.00]", "27.89", "0.5000 [0.4000, 0.6000]", "",
    ]  # fmt: skip
    assert table["Random"].tolist()[:2] == ["1.50 [1.00, 2.00]", "19.22"]
