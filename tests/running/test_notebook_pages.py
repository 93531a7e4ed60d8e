"""Executed notebooks as pages: what they show, what they leave out, and that they need nothing."""

from __future__ import annotations

import base64
import re
from html import unescape
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat import v4
from PIL import Image

from mmn_utils.cache import bar
from mmn_utils.exhibits.pages import forget_page, notebook_pages, write_standalone
from mmn_utils.running.notebook_pages import main, write_page
from mmn_utils.running.prose import formula, markdown, python

RUN, NAME = "miniature", "02_attribution"
PROSE = """\
# Which *neurons* speak

A score $Z_p^k$, and

$$g = Z \\, \\frac{\\partial y}{\\partial Z} \\qquad \\text{(Eq. 2)}$$

| a | b |
| --- | ---: |
| x | 1 |

See [the next](03_selectivity.ipynb).

## What they *write* & more
"""


def png(seed: int) -> bytes:
    out = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 4, (20, 30, 3), dtype=np.uint8) * 85
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def shown(plain: str = "", **data):
    kinds = {"png": "image/png", "html": "text/html", "markdown": "text/markdown"}
    data = {kinds[kind]: content for kind, content in data.items()}
    return v4.new_output("display_data", {**data, "text/plain": plain})


def picture(content: bytes, plain: str = "<Figure>"):
    return shown(plain, png=base64.b64encode(content).decode() + "\n")


def said(text: str, name: str = "stdout"):
    return v4.new_output("stream", name=name, text=text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "figures" / RUN
    folder.mkdir(parents=True)
    for suffix, content in ((".png", png(1)), (".pdf", b"%PDF"), (".json", b"{}")):
        (folder / f"A-fig-1{suffix}").write_bytes(content)
    return folder


def executed(tmp_path: Path, *outputs, name: str = NAME) -> Path:
    cells = [
        v4.new_markdown_cell(PROSE, id="opening"),
        v4.new_code_cell('k = 100  # top units < of all >\nrun = "x"', id="values"),
        v4.new_code_cell("k = 7", id="random", metadata={"tags": ["injected-parameters"]}),
        v4.new_code_cell("look(k)", id="look", outputs=list(outputs), execution_count=3),
    ]
    for cell in cells:
        cell.metadata["papermill"] = {"start_time": "2026-11-29T21:14:32"}
    path = tmp_path / "build" / RUN / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


def bare(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def page(tmp_path: Path, *outputs) -> str:
    return write_page(executed(tmp_path, *outputs), RUN).read_text(encoding="utf-8")


def test_a_page_needs_neither_network_nor_script(tmp_path, folder):
    html = page(tmp_path, picture(png(1), "A-fig-1"), picture(png(2)))
    assert len(html.encode()) < 100_000
    for word in ("http:", "https:", "<script", "@import", "url(", "<link", "base64"):
        assert word not in html.replace("http://www.w3.org/1998/Math/MathML", ""), word
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_prose_code_and_formulas_are_set(tmp_path, folder):
    html = page(tmp_path)
    assert "<title>Which neurons speak</title>" in html
    assert html.count("<math") == 2
    assert "$" not in html
    assert '<div class="scroll"><table>' in html
    assert '<a href="03_selectivity.html">the next</a>' in html
    assert '<a href="#what-they-write-more">What they <em>write</em> &amp; more</a>' in html
    assert '<h2 id="what-they-write-more">' in html
    code = re.search(r'id="cell-values">.*?<code>(.*?)</code>', html, re.DOTALL)
    assert bare(code[1]) == 'k = 100  # top units < of all >\nrun = "x"'
    assert "<details><summary>Parameters of this run</summary>" in html
    assert 'id="cell-injected-parameters"' in html, "papermill's own name for it is a random one"


def test_a_picture_that_is_an_exhibit_is_the_exhibits_file(tmp_path, folder):
    html = page(tmp_path, picture(png(1), "A-fig-1"), picture(png(2), "A-fig-1"), picture(png(3)))
    sources = re.findall(r'<img src="([^"]+)" width="30" height="20"', html)
    assert sources == ["../A-fig-1.png", f"{NAME}-1.png", f"{NAME}-2.png"]
    assert 'alt="One multimodal neuron"' in html
    for source, seed in zip(sources[1:], (2, 3), strict=True):
        written = folder / "notebooks" / source
        assert written.stat().st_size <= len(png(seed))
        assert (np.asarray(Image.open(written).convert("RGB"))
                == np.asarray(Image.open(BytesIO(png(seed))))).all()  # fmt: skip
    assert '<a href="../report.html#A-fig-1">A-fig-1 in the report</a>' in html
    assert '<a href="../A-fig-1.pdf">pdf</a>' in html
    assert "numbers.csv" not in html, "there is none"


def test_the_same_results_give_the_same_bytes(tmp_path, folder, capsys):
    with bar("captions", 40, progress=True) as progress:
        progress.update(40)
    moving = capsys.readouterr().out
    first = page(tmp_path, said("one\n" + moving), said("two\n"), picture(png(2)))
    assert first == page(tmp_path, said("one\ntwo\n"), picture(png(2)))
    assert first != page(tmp_path, said("one\n"), picture(png(2)))
    for mark in ("2026", "papermill", "21:14", "[3]", "random", "█", "40 of 40"):
        assert mark not in first


def test_a_bar_alone_leaves_nothing(tmp_path, folder, capsys):
    """A first run shows it, and the next, which finds everything in the cache, does not."""
    with bar("captions", 40, progress=True) as progress:
        progress.update(40)
    assert page(tmp_path, said(capsys.readouterr().out)) == page(tmp_path)


def test_what_is_printed_is_shown_as_text(tmp_path, folder):
    html = page(tmp_path, said("a < b\n"), said("beware\n", "stderr"), shown(plain="<object>"))
    assert '<pre class="output stream stdout">a &lt; b</pre>' in html
    assert '<pre class="output stream stderr">beware</pre>' in html
    assert "&lt;object&gt;" in html


def test_tables_have_the_look_of_the_page(tmp_path, folder):
    html = page(tmp_path, shown(html="<style>td {color: red}</style><table><tr><td>1</table>"),
                shown(markdown="**bold**"))  # fmt: skip
    assert "color: red" not in html
    assert '<div class="scroll"><table><tr><td>1</table></div>' in html
    assert "<strong>bold</strong>" in html


def test_a_page_links_to_the_notebooks_around_it_and_to_the_report(tmp_path, folder):
    html = page(tmp_path)
    assert '<a href="../report.html">all exhibits of the run “miniature”</a>' in html
    assert '<a href="01_projection_decoding.html">← 01_projection_decoding</a>' in html
    assert '<a href="03_selectivity.html">→ 03_selectivity</a>' in html
    first = write_page(executed(tmp_path, name="00_miniature"), RUN).read_text(encoding="utf-8")
    assert "←" not in first
    other = write_page(executed(tmp_path), "quick").read_text(encoding="utf-8")
    assert "→" not in other, "of a run that no preset is called like, only this notebook is known"


def test_a_page_as_one_file(tmp_path, folder):
    path = write_page(executed(tmp_path, picture(png(1), "A-fig-1"), picture(png(2))), RUN)
    alone = write_standalone(path)
    assert alone.name == f"{NAME}-standalone.html"
    html = alone.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 2
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)
    assert "the next" in html
    assert notebook_pages(folder) == [path]


def test_pictures_of_an_earlier_page_go(tmp_path, folder):
    page(tmp_path, picture(png(2)), picture(png(3)))
    write_standalone(folder / "notebooks" / f"{NAME}.html")
    (folder / "notebooks" / f"{NAME}_more-1.png").touch()
    page(tmp_path, picture(png(3)))
    names = {path.name for path in (folder / "notebooks").iterdir()}
    assert names == {f"{NAME}.html", f"{NAME}-1.png", f"{NAME}_more-1.png"}
    forget_page(folder, NAME)
    assert [path.name for path in (folder / "notebooks").iterdir()] == [f"{NAME}_more-1.png"]


def test_what_stopped_in_a_cell_becomes_no_page(tmp_path, folder):
    error = v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    with pytest.raises(ValueError, match="stopped in a cell"):
        page(tmp_path, error)
    assert not (folder / "notebooks").exists()


def test_command_line(tmp_path, folder, capsys):
    executed(tmp_path)
    root = ["--output-root", str(tmp_path / "build")]
    assert main([RUN, *root]) == 0
    assert f"{NAME}.html" in capsys.readouterr().out
    assert main(["absent", *root]) == 2
    assert "no executed notebook of absent" in capsys.readouterr().err


def test_a_formula_keeps_the_full_stop_behind_it():
    html = markdown("of $w$. Then")
    assert re.search(r'<span class="together"><math .*</math>\.</span> Then', html)


@pytest.mark.parametrize(
    "latex",
    [r"\lVert dw\rVert", r"\bigl(u \cdot w_i^l\bigr)", r"\begin{cases}1\\0\end{cases}"],
)
def test_formulas_leave_no_latex_behind(latex):
    assert "\\" not in formula(latex, "block")


@pytest.mark.parametrize("code", ["a = 1  # b", "\n\nif x:\n    y()", 'f"{a!r} < {b}"', "%time x"])
def test_coloured_code_is_the_code(code):
    assert bare(python(code)) == code
