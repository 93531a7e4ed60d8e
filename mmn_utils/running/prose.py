"""Markdown and code as HTML that needs no script: formulas as MathML, code in coloured words."""

from __future__ import annotations

import re
from html import escape, unescape

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

# A formula with what a line must not break off.
FORMULA = re.compile(r'<math [^>]*display="inline"[^>]*>(?:(?!</math>).)*</math>[.,;:?!)]+')
PLAIN = re.compile(r'<span class="(?:n|nb|nf|nn|o|p|w)">([^<]*)</span>')


class _Renderer(IPythonRenderer):
    """nbconvert's renderer, with formulas written out and wide things in boxes that scroll."""

    def __init__(self):
        super().__init__(escape=False, exclude_anchor_links=True)

    def heading(self, text: str, level: int, **attributes) -> str:
        return f'<h{level} id="{slug(text)}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Lead to another notebook's page, not to its source."""
        return super().link(text, re.sub(r"^([^/:]+)\.ipynb\b", r"\1.html", url), title)

    def table(self, text: str) -> str:
        return f'<div class="scroll"><table>\n{text}</table></div>\n'

    def block_code(self, code: str, info: str | None = None) -> str:
        words = python(code) if info == "python" else escape(code)
        return f'<div class="source"><pre><code>{words}</code></pre></div>\n'

    def block_math(self, body: str) -> str:
        return f'<div class="scroll">{formula(body, "block")}</div>'

    def inline_math(self, body: str) -> str:
        return formula(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


def markdown(text: str) -> str:
    """Return Markdown as HTML."""
    html = MarkdownWithMath(renderer=_Renderer()).render(text)
    return FORMULA.sub(r'<span class="together">\g<0></span>', html)


def formula(latex: str, display: str) -> str:
    """Return a formula as MathML, to stand in its line or as a block."""
    return convert(" ".join(latex.split()), display=display)


def python(code: str) -> str:
    """Return Python code as HTML, each kind of word in a class of its own but names and signs."""
    words = highlight(code, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))
    return PLAIN.sub(r"\1", words).rstrip("\n")


def slug(html: str) -> str:
    """Return what a heading is called in an address."""
    words = re.findall(r"\w+", unescape(re.sub(r"<[^>]*>", "", html)).lower())
    return "-".join(words)


def headings(html: str, level: int) -> list[tuple[str, str]]:
    """Return address and text of the headings of one level."""
    return re.findall(rf'<h{level} id="([^"]+)">(.*?)</h{level}>', html)
