"""The formats in which exhibits are written."""

from __future__ import annotations

import re
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmn_utils.exhibits.formats import (
    compress_png,
    format_number,
    latex_escape,
    to_csv,
    to_latex,
    to_markdown,
    write_figure,
)
from tests.exhibits.rasters import MOST_DPI, raster_dpi
from tests.exhibits.samples import NUMBERS, TABLE


@pytest.mark.parametrize(
    ("cell", "text"),
    [(0.1 + 0.2, "0.3"), (-0.0, "0"), (np.float32(0.1), "0.1"), (3, "3"), (None, ""),
     (float("nan"), ""), (True, "yes"), (np.bool_(False), "no"), (" a", " a"),
     (123456789, "123456789"), (1e-9, "1e-09"), (1 / 3, "0.33333"),
     (10000386.0, "10000386"), (123456.7, "1.2346e+05"), (float("inf"), "inf"), (1e300, "1e+300")],
)  # fmt: skip
def test_format_number(cell, text):
    assert format_number(cell) == text


def test_csv_is_read_back_to_five_digits():
    from io import StringIO

    read = pd.read_csv(StringIO(to_csv(NUMBERS)))
    np.testing.assert_allclose(read["value"], NUMBERS["value"], rtol=5e-5)
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


def png(pixels: np.ndarray, **options) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG", **options)
    return out.getvalue()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("colours", [2, 256])
def test_a_compressed_png_has_the_same_pixels_and_size_on_paper(channels, colours):
    ramp = np.add.outer(np.arange(60), np.arange(80))[..., None] * (1 + np.arange(channels))
    pixels = (ramp % colours * (255 // (colours - 1))).astype(np.uint8).squeeze()
    content = png(pixels, dpi=(160, 160), compress_level=1)
    small = compress_png(content)
    assert len(small) < len(content)
    assert small == compress_png(content)
    before, after = (Image.open(BytesIO(file)) for file in (content, small))
    assert after.info["dpi"] == before.info["dpi"]
    assert (np.asarray(after.convert("RGBA")) == np.asarray(before.convert("RGBA"))).all()


def test_what_is_no_png_is_refused():
    with pytest.raises(ValueError, match="not a PNG"):
        compress_png(b"GIF89a")


def test_pictures_in_a_pdf_have_no_more_pixels_than_print_needs(tmp_path):
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(3, 1), dpi=300)
    fine = np.random.default_rng(0).random((900, 900))
    left.imshow(fine, interpolation="none")
    middle.imshow(fine, interpolation="nearest")
    right.pcolormesh(fine[:20, :20], rasterized=True)
    write_figure(fig, tmp_path / "fine.png")
    plt.close(fig)
    found = raster_dpi(tmp_path / "fine.pdf")
    assert len(found) == 3
    assert max(found) <= MOST_DPI
