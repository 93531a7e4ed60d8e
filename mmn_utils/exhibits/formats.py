"""How exhibits are written: PNG, PDF, CSV, Markdown, LaTeX, JSON; the same bytes, and few."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import oxipng
import pandas as pd

from mmn_utils.cache import atomic

if TYPE_CHECKING:  # who only looks exhibits up needs no matplotlib
    from matplotlib.figure import Figure

PNG_DPI = 160
PDF_DPI = 110  # of the pictures in it; lines and letters have none
# What Markdown, HTML in it, or a formula in it may begin or end with.
_MARKDOWN = re.compile(
    r"[\\`*~$|]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])"
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)"
    r"|^[#>+-](?=\s|$)|(?<=^\d)[.)](?=\s|$)"
)
_ENTITIES = {"<": "&lt;", "&": "&amp;", "$": "&#36;"}


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write text atomically, UTF-8, with bare newlines on every system."""
    write_bytes(path, text.encode("utf-8"))


def write_figure(fig: Figure, png: Path) -> None:
    """Write a figure as PNG and, beside it, as PDF, without dates and version marks."""
    write_bytes(png, to_png(fig))
    fig.set_layout_engine("none")  # laid out by now; doing it again for the PDF costs as much
    _resample_pictures(fig)
    dates = dict.fromkeys(("Creator", "Producer", "CreationDate"))
    with atomic(png.with_suffix(".pdf")) as temporary:
        fig.savefig(temporary, format="pdf", dpi=PDF_DPI, metadata=dates)


def to_png(fig: Figure) -> bytes:
    """Return a figure as PNG."""
    drawn = BytesIO()
    fig.savefig(drawn, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return compress_png(drawn.getvalue())


def compress_png(content: bytes) -> bytes:
    """Return a PNG of the same pixels and the same size on paper in fewer bytes.

    ValueError where it is none.
    """
    try:
        return oxipng.optimize_from_memory(content, level=2, strip=oxipng.StripChunks.safe())
    except oxipng.PngError as error:
        raise ValueError(f"not a PNG: {error}") from error


def png_size(content: bytes) -> tuple[int, int]:
    """Return the width and the height of a PNG in pixels, from its header."""
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    return width, height


def _resample_pictures(fig: Figure) -> None:
    """Bring pictures to the PDF's resolution that would go into it with all their pixels."""
    from matplotlib.image import AxesImage  # here, since a look-up must not cost matplotlib

    for image in fig.findobj(AxesImage):
        if image.get_interpolation() == "none":
            image.set_interpolation("nearest")


def to_json(record: Mapping[str, Any]) -> str:
    """Return readable JSON; ValueError for what JSON cannot hold."""
    try:
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False, default=_item)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot be recorded as JSON: {error}; give plain values") from error
    return text + "\n"


def _item(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__}")


def records(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table as columns and rows of text, as the report prints it."""
    rows = [[format_number(cell) for cell in row] for row in table.itertuples(index=False)]
    return {"columns": [str(column) for column in table.columns], "rows": rows}


def format_number(cell: Any, digits: int = 5) -> str:
    """Return a cell's text: floats with some digits, ints whole, None and NaN empty.

    A float that is whole keeps all its digits: it is a count or a picture's number, in a column
    that has gaps.
    """
    if cell is None or (isinstance(cell, float | np.floating) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else "no"
    if isinstance(cell, float | np.floating):
        # -0.0 and 0.0 are one number, and must not be two files
        value = float(cell) + 0.0
        exact = value.is_integer() and abs(value) < 2**53
        return f"{value:.0f}" if exact else f"{value:.{digits}g}"
    return str(cell)


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV, floats to five significant digits."""
    out = StringIO()
    table.map(format_number).to_csv(out, index=False, lineterminator="\n")
    return out.getvalue()


def to_markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown, floats to four significant digits, numbers to the right."""
    ruler = ["---:" if _is_number(table[column]) else "---" for column in table.columns]
    lines = [_markdown_row(table.columns), "| " + " | ".join(ruler) + " |"]
    lines += [_markdown_row(row) for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def _markdown_row(cells) -> str:
    texts = (as_markdown(format_number(cell, 4)).replace("\n", "<br>") for cell in cells)
    return "| " + " | ".join(texts) + " |"


def as_markdown(text: str) -> str:
    """Return a text as Markdown that shows it as it is, wherever in a line it stands.

    Signs that mean nothing where they are stay bare: an interval's brackets, a smaller-than
    before a number.
    """
    return _MARKDOWN.sub(lambda sign: _ENTITIES.get(sign[0], "\\" + sign[0]), text)


def to_latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """Return a table as a LaTeX ``table`` for booktabs, floats to four significant digits."""
    columns = "".join("r" if _is_number(table[column]) else "l" for column in table.columns)
    body = [_latex_row(row) for row in table.itertuples(index=False)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_escape(' '.join(caption.split()))}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_row(table.columns),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells) -> str:
    return " & ".join(latex_escape(format_number(cell, 4)) for cell in cells) + r" \\"


def latex_escape(text: str) -> str:
    """Return text with LaTeX's special characters made plain."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\n": " ",
        **{sign: "\\" + sign for sign in "&%$#_{}"},
    }
    return "".join(special.get(sign, sign) for sign in text)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
