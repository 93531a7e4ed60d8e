"""The formats in which exhibits are written."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmn_utils.exhibits.formats import format_number, latex_escape, to_csv, to_latex, to_markdown
from tests.exhibits.samples import NUMBERS, TABLE


@pytest.mark.parametrize(
    ("cell", "text"),
    [(0.1 + 0.2, "0.3"), (-0.0, "0"), (np.float32(0.1), "0.1"), (3, "3"), (None, ""),
     (float("nan"), ""), (True, "yes"), (np.bool_(False), "no"), (" a", " a"),
     (123456789, "123456789"), (1e-9, "1e-09")],
)  # fmt: skip
def test_format_number(cell, text):
    assert format_number(cell) == text


def test_csv_is_read_back_to_six_digits():
    from io import StringIO

    read = pd.read_csv(StringIO(to_csv(NUMBERS)))
    np.testing.assert_allclose(read["value"], NUMBERS["value"], rtol=1e-5)
    assert read["low"].isna().tolist() == [False, True]
    assert "\r" not in to_csv(NUMBERS)


def test_markdown_and_latex_escape_their_signs():
    markdown = to_markdown(TABLE)
    assert markdown.splitlines()[1] == "| --- | --- | ---: |"
    assert r" a\|b" in markdown
    latex = to_latex(TABLE, "Of 5 % & more", "A-table-1")
    assert r"50\% \& \_x" in latex
    assert r"\caption{Of 5 \% \& more}" in latex
    assert r"\begin{tabular}{llr}" in latex


@given(st.text())
def test_latex_never_keeps_a_bare_special_sign(text):
    escaped = latex_escape(text)
    assert not re.search(r"(?<!\\)[&%$#_]", escaped)
