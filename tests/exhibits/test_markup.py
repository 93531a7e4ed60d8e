"""Texts are never markup: report, pages and site show tokens as they are, whatever they hold."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import v4

from mmn_utils.exhibits.formats import as_markdown, to_markdown
from mmn_utils.exhibits.pages import standalone
from mmn_utils.exhibits.report import build_report
from mmn_utils.exhibits.saving import Run
from mmn_utils.exhibits.texts import render
from mmn_utils.presets import NOTEBOOKS, ROOT
from mmn_utils.running.notebook_pages import write_page
from mmn_utils.running.prose import markdown
from tests.exhibits.samples import draw

TOKENS = (
    "<filename>", "<b>", "</b>", "&amp;", "&lt;b&gt;", "&#60;", "</script>", "]]>", "<!--", "-->",
    "<img src=x onerror=alert(1)>", 'src="absent.png"', 'href="x"', "*", "**bold**", "_a_",
    "__init__", "`", "``code``", "$x^2$", "$$", "[a](b)", "![a](b.png)", "[a]: b", "~~gone~~",
    "\\", "\\*", "|",
    "a|b", "# one", "> two", "- three", "1. four", "{{ 7*7 }}", "{% x %}", "${x}", "<|endoftext|>",
    "a < b", "<= 3", "[0.1, 0.2]", "snake_case_word", "don't", '"', "é ü 猫",
)  # fmt: skip
SIGNS = "<>&*_`$[]()|~\\#-+.!/ab1;= "


class Words(HTMLParser):
    """The text of a page and the tags in it."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.tags = "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def run(tmp_path, untold):
    return Run("miniature", "02_attribution", {"k": 3}, root=tmp_path, exhibits=untold)


# --- Markdown -----------------------------------------------------------------------------


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("before", ["", "It writes ", "A word*, "])
def test_a_text_in_markdown_is_shown_as_it_is(token, before):
    page = Words(markdown(f"{as_markdown(before)}{as_markdown(token)}"))
    assert plain(page.text) == plain(before + token)
    assert [tag for tag, _ in page.tags] == ["p"] * bool(plain(before + token))


@given(st.text(SIGNS, max_size=14))
def test_any_text_in_markdown_is_shown_as_it_is(text):
    page = Words(markdown(f"x {as_markdown(text)} x"))
    assert plain(page.text) == plain(f"x {text} x")
    assert [tag for tag, _ in page.tags] == ["p"]


def test_a_table_in_markdown_shows_its_cells_as_they_are():
    table = pd.DataFrame({"<b>token</b>": TOKENS, "n": range(len(TOKENS))})
    page = Words(markdown(to_markdown(table)))
    for token in ("<b>token</b>", *TOKENS):
        assert plain(token) in plain(page.text), token
    assert {tag for tag, _ in page.tags} == {"div", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.count("tr") == len(TOKENS) + 1
    assert page.count("td") == 2 * len(TOKENS)


def test_intervals_and_thresholds_in_tables_stay_readable_in_the_file():
    cells = ["0.1 [-0.2, 0.3]", "<= 0.20", "a & b", "L7.u15772", "first_noun", "10 %"]
    assert [as_markdown(cell) for cell in cells] == cells


@pytest.mark.parametrize("token", TOKENS)
def test_a_reading_is_markdown_and_what_is_filled_in_is_not(token):
    template = "**Units** say *{{ token }}*, `{{ name }}`, {{ n | fmt('.2f') }}: {{ some | table }}"
    facts = {"token": token.strip() + "x", "name": "a_b<c>", "n": 0.5, "some": pd.DataFrame()}
    page = Words(markdown(render(template, facts, markdown=True).split(": |")[0]))
    assert plain(page.text).startswith(plain(f"Units say {token.strip()}x, a_b<c>, 0.50"))
    assert [tag for tag, _ in page.tags] == ["p", "strong", "em", "code"]


def test_captions_and_claims_are_plain_text_already():
    assert render("{{ token }}, {{ n }}", {"token": "<b>*x*", "n": 1}) == "<b>*x*, 1"


# --- report, pages of notebooks, site -------------------------------------------------------


def hostile_run(run: Run) -> pd.DataFrame:
    table = pd.DataFrame({"<i>token</i>": TOKENS, "score": [0.5] * len(TOKENS)})
    caption = " ".join(TOKENS)
    run.save_table("A-table-S1", table, caption)
    run.save_figure("A-fig-2", draw(), table, caption, paper=table)
    return table


def test_the_report_shows_texts_as_they_are(run):
    hostile_run(run)
    for html in (
        build_report(run).read_text(encoding="utf-8"),
        standalone(build_report(run).read_text(encoding="utf-8"), run.folder),
    ):
        page = Words(html)
        assert page.text.count(" ".join(TOKENS)) == 2
        for token in ("<i>token</i>", *TOKENS):
            assert token in page.text, token
        for tag in ("b", "i", "filename", "script"):
            assert page.count(tag) == 0, tag
        assert page.count("img") == 1


def test_a_table_of_an_exhibit_shows_its_tokens_in_markdown(run):
    hostile_run(run)
    page = Words(markdown((run.folder / "A-table-S1.md").read_text(encoding="utf-8")))
    assert all(plain(token) in plain(page.text) for token in TOKENS)


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """A notebook whose outputs hold the tokens in every form that ours have, and its run."""
    monkeypatch.setenv("MMN_FIGURES", str(tmp_path / "figures"))
    frame = pd.DataFrame({"<i>token</i>": TOKENS})
    lines = "\n".join(TOKENS)
    outputs = [
        v4.new_output("stream", name="stdout", text=lines),
        v4.new_output("display_data", {"text/plain": lines}),
        v4.new_output("display_data", {"text/html": frame.to_html(), "text/plain": "frame"}),
        v4.new_output("display_data", {"text/markdown": to_markdown(frame), "text/plain": "t"}),
    ]
    notebook = nbformat.read(NOTEBOOKS / "02_attribution.ipynb", as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    for cell in notebook.cells:
        cell.update({"outputs": [], "execution_count": None} if cell.cell_type == "code" else {})
    notebook.cells[place].outputs = outputs
    path = tmp_path / "02_attribution.ipynb"
    nbformat.write(notebook, path)
    return path, tmp_path / "figures" / "miniature", notebook.cells[place].id


def shown(html: str) -> None:
    """Check what a page shows of the four outputs."""
    page = Words(html)
    for token in TOKENS:
        assert plain(page.text).count(plain(token)) >= 4, token
    for tag in ("i", "filename", "b", "blink"):
        assert page.count(tag) == 0, tag
    assert not [attrs for tag, attrs in page.tags if tag == "img"]
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]


def test_a_notebooks_page_shows_texts_as_they_are(executed):
    path, folder, id = executed
    html = write_page(path, "miniature").read_text(encoding="utf-8")
    section = html.partition(f'id="cell-{id}"')[2].partition("</section>")[0]
    shown(f"<section {section}")
    shown(standalone(html, folder / "notebooks").partition(f'id="cell-{id}"')[2])


def test_the_sites_notebook_shows_texts_as_they_are(executed, monkeypatch):
    pytest.importorskip("bs4", reason="the site's packages are not installed: pip install .[site]")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from outputs import with_outputs

    path, folder, id = executed
    write_page(path, "miniature")
    made = nbformat.reads(with_outputs(NOTEBOOKS / path.name, folder, []), as_version=4)
    cell = next(cell for cell in made.cells if cell.get("id") == id)
    shown(cell.outputs[0].data["text/html"])


def test_only_pictures_of_a_page_go_inside(tmp_path):
    html = '<pre>&lt;img src="absent.png"&gt; src="absent.png"</pre><td>src="x.png"</td>'
    assert standalone(html, tmp_path) == html
    assert re.findall("absent", html) == ["absent"] * 2
